//! The cheapest one-to-one assignment of rows to columns.
//!
//! The algorithm and even the order in which it looks at equal costs are those of scipy's `linear_sum_assignment`
//! (Crouse's shortest augmenting paths), because a tie decides which lesion counts as found. The matrix is given by
//! its few special entries, so that a thousand lesions against a thousand need no million numbers.

use std::collections::HashMap;

/// Costs of every row and column: `default` but for some entries.
#[derive(Debug, Clone)]
pub struct Costs {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Cost of every other pair.
    pub default: f64,
    /// Cost of a row and column.
    pub entries: HashMap<(usize, usize), f64>,
}

impl Costs {
    /// The cost of a pair.
    pub fn at(&self, row: usize, column: usize) -> f64 {
        self.entries.get(&(row, column)).copied().unwrap_or(self.default)
    }
}

/// Pairs (row, column) of the cheapest assignment, in the order of the rows; as many as the shorter side has.
///
/// Costs must be finite.
///
/// # Source
/// scipy, `linear_sum_assignment`.
pub fn assign(costs: &Costs) -> Vec<(usize, usize)> {
    let tall = costs.columns < costs.rows;
    let (rows, columns) = if tall { (costs.columns, costs.rows) } else { (costs.rows, costs.columns) };
    // The special entries of every row of the (perhaps transposed) matrix.
    let mut special: Vec<Vec<(usize, f64)>> = vec![Vec::new(); rows];
    for (&(row, column), &cost) in &costs.entries {
        let (row, column) = if tall { (column, row) } else { (row, column) };
        special[row].push((column, cost));
    }
    let mut solver = Solver::new(rows, columns, costs.default);
    for row in 0..rows {
        solver.add(row, &special);
    }
    let mut pairs: Vec<(usize, usize)> = solver
        .column_of
        .iter()
        .enumerate()
        .map(|(row, &column)| if tall { (column, row) } else { (row, column) })
        .collect();
    pairs.sort_unstable();
    pairs
}

/// No row or column.
const NONE: usize = usize::MAX;

struct Solver {
    /// Prices of rows and columns.
    u: Vec<f64>,
    v: Vec<f64>,
    column_of: Vec<usize>,
    row_of: Vec<usize>,
    /// Of the search for a path: its cost to every column and the row before it.
    cost: Vec<f64>,
    path: Vec<usize>,
    remaining: Vec<usize>,
    seen_rows: Vec<bool>,
    seen_columns: Vec<bool>,
    /// One row of the matrix, filled out.
    line: Vec<f64>,
    default: f64,
}

impl Solver {
    fn new(rows: usize, columns: usize, default: f64) -> Self {
        Self {
            u: vec![0.0; rows],
            v: vec![0.0; columns],
            column_of: vec![NONE; rows],
            row_of: vec![NONE; columns],
            cost: vec![0.0; columns],
            path: vec![NONE; columns],
            remaining: Vec::with_capacity(columns),
            seen_rows: vec![false; rows],
            seen_columns: vec![false; columns],
            line: vec![default; columns],
            default,
        }
    }

    /// Assigns one more row, moving earlier ones where that is cheaper.
    fn add(&mut self, row: usize, special: &[Vec<(usize, f64)>]) {
        let (sink, least) = self.shortest_path(row, special);
        self.u[row] += least;
        for i in 0..self.u.len() {
            if self.seen_rows[i] && i != row {
                self.u[i] += least - self.cost[self.column_of[i]];
            }
        }
        for j in 0..self.v.len() {
            if self.seen_columns[j] {
                self.v[j] -= least - self.cost[j];
            }
        }
        let mut column = sink;
        loop {
            let i = self.path[column];
            self.row_of[column] = i;
            std::mem::swap(&mut self.column_of[i], &mut column);
            if i == row {
                break;
            }
        }
    }

    /// The free column that is cheapest to reach from `row`, and the cost.
    fn shortest_path(&mut self, row: usize, special: &[Vec<(usize, f64)>]) -> (usize, f64) {
        self.seen_rows.fill(false);
        self.seen_columns.fill(false);
        self.cost.fill(f64::INFINITY);
        self.remaining.clear();
        // From the back, so that a matrix of equal costs gives the diagonal.
        self.remaining.extend((0..self.v.len()).rev());
        let (mut i, mut least) = (row, 0.0);
        loop {
            self.seen_rows[i] = true;
            for &(column, cost) in &special[i] {
                self.line[column] = cost;
            }
            let (mut lowest, mut index) = (f64::INFINITY, 0);
            for (at, &j) in self.remaining.iter().enumerate() {
                let reduced = least + self.line[j] - self.u[i] - self.v[j];
                if reduced < self.cost[j] {
                    self.path[j] = i;
                    self.cost[j] = reduced;
                }
                // Of equal columns a free one ends the search.
                let tie = self.cost[j].to_bits() == lowest.to_bits() && self.row_of[j] == NONE;
                if self.cost[j] < lowest || tie {
                    lowest = self.cost[j];
                    index = at;
                }
            }
            for &(column, _) in &special[i] {
                self.line[column] = self.default;
            }
            least = lowest;
            let column = self.remaining.swap_remove(index);
            self.seen_columns[column] = true;
            if self.row_of[column] == NONE {
                return (column, least);
            }
            i = self.row_of[column];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matrix(rows: usize, columns: usize, default: f64, entries: &[((usize, usize), f64)]) -> Costs {
        Costs { rows, columns, default, entries: entries.iter().copied().collect() }
    }

    /// The least sum over all ways to give every row of the shorter side a partner.
    fn cheapest(costs: &Costs, row: usize, used: &mut Vec<bool>) -> f64 {
        let tall = costs.columns < costs.rows;
        let (rows, columns) = if tall { (costs.columns, costs.rows) } else { (costs.rows, costs.columns) };
        if row == rows {
            return 0.0;
        }
        let mut best = f64::INFINITY;
        for column in 0..columns {
            if !used[column] {
                used[column] = true;
                let here = if tall { costs.at(column, row) } else { costs.at(row, column) };
                best = best.min(here + cheapest(costs, row + 1, used));
                used[column] = false;
            }
        }
        best
    }

    proptest! {
        #[test]
        fn no_assignment_is_cheaper(
            rows in 1..6usize,
            columns in 1..6usize,
            entries in prop::collection::hash_map((0..5usize, 0..5usize), prop::sample::select(vec![0.0, 0.25, 0.5, 0.9]), 0..12),
        ) {
            let entries = entries.into_iter().filter(|((r, c), _)| *r < rows && *c < columns).collect();
            let costs = Costs { rows, columns, default: 1.0 + 1e-6, entries };
            let pairs = assign(&costs);
            prop_assert_eq!(pairs.len(), rows.min(columns));
            let total: f64 = pairs.iter().map(|&(r, c)| costs.at(r, c)).sum();
            prop_assert!((total - cheapest(&costs, 0, &mut vec![false; 5])).abs() < 1e-12);
            let mut taken: Vec<usize> = pairs.iter().map(|p| p.1).collect();
            taken.sort_unstable();
            taken.dedup();
            prop_assert_eq!(taken.len(), pairs.len());
        }
    }

    #[test]
    fn equal_costs_are_broken_as_scipy_breaks_them() {
        // Answers of scipy 1.17.
        let pairs = assign(&matrix(2, 3, 1.0, &[]));
        assert_eq!(pairs, [(0, 0), (1, 1)]);
        let pairs = assign(&matrix(3, 2, 1.0, &[((0, 0), 0.5), ((1, 0), 0.5), ((2, 0), 0.5)]));
        assert_eq!(pairs, [(0, 0), (1, 1)]);
        let pairs = assign(&matrix(2, 2, 1.0, &[((0, 0), 0.5), ((0, 1), 0.5), ((1, 0), 0.5), ((1, 1), 0.5)]));
        assert_eq!(pairs, [(0, 0), (1, 1)]);
        assert!(assign(&matrix(0, 4, 1.0, &[])).is_empty());
    }
}
