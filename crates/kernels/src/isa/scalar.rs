//! Plain Rust on arrays of four: the level every CPU has, and the one Miri can run.

use super::Isa;

/// Needs no proof.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

type V = [f32; 4];

#[inline(always)]
fn map2(a: V, b: V, f: impl Fn(f32, f32) -> f32) -> V {
    [f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])]
}

impl Isa for Scalar {
    type F32 = V;
    type F64 = [f64; 2];
    const LANES: usize = 4;
    const REGISTERS: usize = 16;

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        [x; 4]
    }
    #[inline(always)]
    unsafe fn load(self, from: &[f32], at: usize) -> V {
        [from[at], from[at + 1], from[at + 2], from[at + 3]]
    }
    #[inline(always)]
    unsafe fn load_first(self, from: &[f32], at: usize, n: usize) -> V {
        let mut v = [0.0; 4];
        v[..n].copy_from_slice(&from[at..at + n]);
        v
    }
    #[inline(always)]
    unsafe fn store(self, to: &mut [f32], at: usize, v: V) {
        to[at..at + 4].copy_from_slice(&v);
    }
    #[inline(always)]
    unsafe fn store_first(self, to: &mut [f32], at: usize, n: usize, v: V) {
        to[at..at + n].copy_from_slice(&v[..n]);
    }
    #[inline(always)]
    fn keep_first(self, mut v: V, n: usize) -> V {
        v[n..].fill(0.0);
        v
    }
    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        map2(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        map2(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        map2(a, b, |a, b| a * b)
    }
    // `f32::mul_add` would call a library routine where the target has no fused instruction.
    #[inline(always)]
    fn fma(self, a: V, b: V, c: V) -> V {
        self.add(self.mul(a, b), c)
    }
    #[inline(always)]
    fn fnma(self, a: V, b: V, c: V) -> V {
        self.sub(c, self.mul(a, b))
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        map2(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn select_positive(self, selector: V, x: V, y: V) -> V {
        std::array::from_fn(|i| if selector[i] > 0.0 { x[i] } else { y[i] })
    }
    #[inline(always)]
    fn transpose4(self, v: [V; 4]) -> [V; 4] {
        std::array::from_fn(|i| std::array::from_fn(|j| v[j][i]))
    }
    #[inline(always)]
    unsafe fn store_quads(self, to: &mut [f32], at: usize, _pitch: usize, v: V) {
        // SAFETY: the caller's promise.
        unsafe { self.store(to, at, v) }
    }
    #[inline(always)]
    fn deinterleave2(self, a: V, b: V) -> (V, V) {
        ([a[0], a[2], b[0], b[2]], [a[1], a[3], b[1], b[3]])
    }
    #[inline(always)]
    fn interleave2(self, even: V, odd: V) -> (V, V) {
        ([even[0], odd[0], even[1], odd[1]], [even[2], odd[2], even[3], odd[3]])
    }
    #[inline(always)]
    fn zero64(self) -> [f64; 2] {
        [0.0; 2]
    }
    #[inline(always)]
    fn add_wide(self, acc: [f64; 2], v: V) -> [f64; 2] {
        [acc[0] + f64::from(v[0]) + f64::from(v[2]), acc[1] + f64::from(v[1]) + f64::from(v[3])]
    }
    #[inline(always)]
    fn fma_wide(self, acc: [f64; 2], a: V, b: V) -> [f64; 2] {
        let product = |i: usize| f64::from(a[i]) * f64::from(b[i]);
        [acc[0] + product(0) + product(2), acc[1] + product(1) + product(3)]
    }
    #[inline(always)]
    fn sum64(self, acc: [f64; 2]) -> f64 {
        acc[0] + acc[1]
    }
    #[inline(always)]
    fn sum(self, v: V) -> f32 {
        (v[0] + v[1]) + (v[2] + v[3])
    }
    #[inline(always)]
    fn prefetch(self, _from: &[f32], _at: usize) {}
    #[inline(always)]
    fn prefetch_write(self, _address: *const f32) {}
}
