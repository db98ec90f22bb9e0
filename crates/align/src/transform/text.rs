//! Four rows of four numbers, as greedy, c3d and `NiftyReg` write a transform, in R, A, S coordinates.

use super::Transform;

type Rows = [[f64; 4]; 3];

/// The rows, brought to L, P, S.
pub(super) fn from_text(text: &str) -> Result<Rows, String> {
    let numbers: Vec<f64> = text
        .split_whitespace()
        .map(|word| {
            word.parse()
                .map_err(|_| format!("`{}` is not a number", word.chars().take(20).collect::<String>()))
        })
        .collect::<Result<_, _>>()?;
    if numbers.len() != 16 {
        return Err(format!("it has {} numbers, a matrix of 4 x 4 has 16", numbers.len()));
    }
    let row = |r: usize| [0, 1, 2, 3].map(|c| numbers[4 * r + c]);
    if row(3).iter().zip([0.0, 0.0, 0.0, 1.0]).any(|(a, b)| (a - b).abs() > 1e-6) {
        return Err(format!("its last row is {:?} and not 0 0 0 1", row(3)));
    }
    Ok(Transform::of_rows([row(0), row(1), row(2)]).flipped().rows())
}

/// The text of rows that are in R, A, S already.
pub(super) fn to_text(rows: &Rows) -> String {
    let line = |r: &[f64; 4]| format!("{} {} {} {}\n", r[0], r[1], r[2], r[3]);
    rows.iter().chain([&[0.0, 0.0, 0.0, 1.0]]).map(line).collect()
}
