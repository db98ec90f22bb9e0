//! Products of small matrices whose columns are vectors of lines.

use crate::isa::Isa;

/// A matrix anywhere in a slice: element `(i, k)` is `values[i * row + k * column]`.
#[derive(Clone, Copy)]
pub(super) struct Factor<'a> {
    pub(super) values: &'a [f32],
    pub(super) row: usize,
    pub(super) column: usize,
}

/// `to[m, n] = Σ_k a[m, k] b[k, n]`, or added to it; `n` is whole vectors, rows of `b` and `to` are `n` long.
#[inline(always)]
pub(super) fn multiply<I: Isa>(
    isa: I,
    a: Factor<'_>,
    b: &[f32],
    to: &mut [f32],
    [m, k, n]: [usize; 3],
    add: bool,
) {
    assert!(
        n.is_multiple_of(I::LANES) && b.len() >= k * n && to.len() >= m * n,
        "a product of {m} x {k} x {n}"
    );
    assert!(m == 0 || k == 0 || a.values.len() > (m - 1) * a.row + (k - 1) * a.column, "the left factor");
    let vectors = n / I::LANES;
    let mut v = 0;
    while v < vectors {
        let wide = vectors - v >= 2;
        let mut i = 0;
        while i < m {
            let at = (i, v * I::LANES);
            let left = m - i;
            // SAFETY: the rows, columns and depth of every tile lie inside what was checked above.
            i += unsafe {
                if wide {
                    if I::REGISTERS >= 32 && left >= 8 {
                        tile::<I, 8, 2>(isa, a, b, to, at, [k, n], add)
                    } else if left >= 4 {
                        tile::<I, 4, 2>(isa, a, b, to, at, [k, n], add)
                    } else {
                        tile::<I, 1, 2>(isa, a, b, to, at, [k, n], add)
                    }
                } else if left >= 4 {
                    tile::<I, 4, 1>(isa, a, b, to, at, [k, n], add)
                } else {
                    tile::<I, 1, 1>(isa, a, b, to, at, [k, n], add)
                }
            };
        }
        v += if wide { 2 } else { 1 };
    }
}

/// `M` rows and `V` vectors of the product; says how many rows.
///
/// # Safety
/// They lie inside the matrices.
#[inline(always)]
unsafe fn tile<I: Isa, const M: usize, const V: usize>(
    isa: I,
    a: Factor<'_>,
    b: &[f32],
    to: &mut [f32],
    (i, j): (usize, usize),
    [k, n]: [usize; 2],
    add: bool,
) -> usize {
    let mut sums = [[isa.splat(0.0); V]; M];
    if add {
        for (r, sums) in sums.iter_mut().enumerate() {
            for (v, sum) in sums.iter_mut().enumerate() {
                // SAFETY: the caller's promise.
                *sum = unsafe { isa.load(to, (i + r) * n + j + v * I::LANES) };
            }
        }
    }
    for depth in 0..k {
        let mut row = [isa.splat(0.0); V];
        for (v, value) in row.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *value = unsafe { isa.load(b, depth * n + j + v * I::LANES) };
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            let factor = isa.splat(unsafe { *a.values.get_unchecked((i + r) * a.row + depth * a.column) });
            for (sum, &value) in sums.iter_mut().zip(&row) {
                *sum = isa.fma(factor, value, *sum);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (v, &sum) in sums.iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { isa.store(to, (i + r) * n + j + v * I::LANES, sum) };
        }
    }
    M
}

/// `to[i * row + k * column] += Σ_n a[i, n] b[k, n]`: the gradient of a matrix. Rows of `a` and `b` are `n` long.
#[inline(always)]
pub(super) fn multiply_transposed<I: Isa>(
    isa: I,
    a: &[f32],
    b: &[f32],
    to: &mut [f32],
    (row, column): (usize, usize),
    [m, k, n]: [usize; 3],
) {
    assert!(
        n.is_multiple_of(I::LANES) && a.len() >= m * n && b.len() >= k * n,
        "a product of {m} x {n} x {k}"
    );
    assert!(m == 0 || k == 0 || to.len() > (m - 1) * row + (k - 1) * column, "the result");
    let mut i = 0;
    while i < m {
        let tall = m - i >= 4;
        let mut j = 0;
        while j < k {
            let wide = k - j >= 4;
            // SAFETY: the rows lie inside what was checked above.
            unsafe {
                match (tall, wide) {
                    (true, true) => dots::<I, 4, 4>(isa, a, b, to, (row, column), (i, j), n),
                    (true, false) => dots::<I, 4, 1>(isa, a, b, to, (row, column), (i, j), n),
                    (false, true) => dots::<I, 1, 4>(isa, a, b, to, (row, column), (i, j), n),
                    (false, false) => dots::<I, 1, 1>(isa, a, b, to, (row, column), (i, j), n),
                }
            }
            j += if wide { 4 } else { 1 };
        }
        i += if tall { 4 } else { 1 };
    }
}

/// Scalar products of `M` rows with `K` rows.
///
/// # Safety
/// They lie inside the matrices.
#[inline(always)]
unsafe fn dots<I: Isa, const M: usize, const K: usize>(
    isa: I,
    a: &[f32],
    b: &[f32],
    to: &mut [f32],
    (row, column): (usize, usize),
    (i, j): (usize, usize),
    n: usize,
) {
    let mut sums = [[isa.splat(0.0); K]; M];
    let mut at = 0;
    while at < n {
        let mut right = [isa.splat(0.0); K];
        for (r, value) in right.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *value = unsafe { isa.load(b, (j + r) * n + at) };
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            let left = unsafe { isa.load(a, (i + r) * n + at) };
            for (sum, &value) in sums.iter_mut().zip(&right) {
                *sum = isa.fma(left, value, *sum);
            }
        }
        at += I::LANES;
    }
    for (r, sums) in sums.iter().enumerate() {
        for (s, &sum) in sums.iter().enumerate() {
            to[(i + r) * row + (j + s) * column] += isa.sum(sum);
        }
    }
}

/// A matrix of vectors, one lane per line: element `(i, k)` is the vector at `values[(i * row + k * column) * LANES]`.
#[derive(Clone, Copy)]
pub(super) struct Lines<'a> {
    pub(super) values: &'a [f32],
    pub(super) row: usize,
    pub(super) column: usize,
}

impl<'a> Lines<'a> {
    /// The matrix whose rows, of `length` vectors, lie one after the other.
    pub(super) fn rows(values: &'a [f32], length: usize) -> Self {
        Self { values, row: length, column: 1 }
    }

    /// The matrix whose columns, of `length` vectors, lie one after the other.
    pub(super) fn columns(values: &'a [f32], length: usize) -> Self {
        Self { values, row: 1, column: length }
    }
}

/// For every line by itself: `to(i, j) = Σ_k a(i, k) b(j, k)`; `to` holds vectors at `i * row + j * column`.
#[inline(always)]
pub(super) fn multiply_lines<I: Isa>(
    isa: I,
    a: Lines<'_>,
    b: Lines<'_>,
    to: &mut [f32],
    (row, column): (usize, usize),
    [m, n, k]: [usize; 3],
) {
    if m == 0 || n == 0 {
        return;
    }
    let last =
        |rows: usize, l: Lines<'_>| ((rows - 1) * l.row + k.saturating_sub(1) * l.column + 1) * I::LANES;
    assert!(
        k > 0 && a.values.len() >= last(m, a) && b.values.len() >= last(n, b),
        "factors of {m} x {k} x {n}"
    );
    assert!(to.len() >= ((m - 1) * row + (n - 1) * column + 1) * I::LANES, "the result of {m} x {n}");
    let mut i = 0;
    while i < m {
        let tall = m - i >= 4;
        let mut j = 0;
        while j < n {
            let wide = n - j >= 4;
            // SAFETY: the vectors lie inside what was checked above.
            unsafe {
                match (tall, wide) {
                    (true, true) => lines_tile::<I, 4, 4>(isa, a, b, to, (row, column), (i, j), k),
                    (true, false) => lines_tile::<I, 4, 1>(isa, a, b, to, (row, column), (i, j), k),
                    (false, true) => lines_tile::<I, 1, 4>(isa, a, b, to, (row, column), (i, j), k),
                    (false, false) => lines_tile::<I, 1, 1>(isa, a, b, to, (row, column), (i, j), k),
                }
            }
            j += if wide { 4 } else { 1 };
        }
        i += if tall { 4 } else { 1 };
    }
}

/// # Safety
/// All vectors lie inside the slices.
#[inline(always)]
unsafe fn lines_tile<I: Isa, const M: usize, const N: usize>(
    isa: I,
    a: Lines<'_>,
    b: Lines<'_>,
    to: &mut [f32],
    (row, column): (usize, usize),
    (i, j): (usize, usize),
    k: usize,
) {
    let mut sums = [[isa.splat(0.0); N]; M];
    for depth in 0..k {
        let mut right = [isa.splat(0.0); N];
        for (s, value) in right.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *value = unsafe { isa.load(b.values, ((j + s) * b.row + depth * b.column) * I::LANES) };
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            let left = unsafe { isa.load(a.values, ((i + r) * a.row + depth * a.column) * I::LANES) };
            for (sum, &value) in sums.iter_mut().zip(&right) {
                *sum = isa.fma(left, value, *sum);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (s, &sum) in sums.iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { isa.store(to, ((i + r) * row + (j + s) * column) * I::LANES, sum) };
        }
    }
}
