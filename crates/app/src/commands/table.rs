//! Tables of text for people.

/// Lines of aligned columns, two spaces apart: the first `left` columns to the left, the others to the right. The first
/// row is the head.
pub(crate) fn table(rows: &[Vec<String>], left: usize) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |i: usize| rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    rows.iter()
        .map(|row| {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(i, (cell, &width))| {
                    let gap = " ".repeat(width - cell.chars().count());
                    if i < left { format!("{cell}{gap}") } else { format!("{gap}{cell}") }
                })
                .collect();
            cells.join("  ").trim_end().to_owned()
        })
        .collect()
}

/// A number of a table: four decimals below 10, fewer above; `-` where there is none.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        _ if value.is_nan() => "-".to_owned(),
        f64::INFINITY => if value > 0.0 { "inf" } else { "-inf" }.to_owned(),
        v if v < 10.0 => format!("{value:.4}"),
        v if v < 1000.0 => format!("{value:.2}"),
        _ => format!("{value:.0}"),
    }
}

/// A p value: three decimals, or `< 0.001`; a star where it is below 0.05.
pub(crate) fn p_value(p: f64) -> String {
    let star = if p < 0.05 { "*" } else { "" };
    if p < 0.001 { format!("<0.001{star}") } else { format!("{p:.3}{star}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [["run", "Dice"], ["a", "0.9"], ["längst", "12"]].map(|r| r.map(str::to_owned).to_vec());
        assert_eq!(table(&rows, 1), ["run     Dice", "a        0.9", "längst    12"]);
    }

    #[test]
    fn numbers_keep_about_four_digits() {
        let values = [0.5, 12.345, 12345.6, f64::NAN, f64::INFINITY, -0.25];
        assert_eq!(values.map(number), ["0.5000", "12.35", "12346", "-", "inf", "-0.2500"]);
        assert_eq!([0.0004, 0.049, 0.05].map(p_value), ["<0.001*", "0.049*", "0.050"]);
    }
}
