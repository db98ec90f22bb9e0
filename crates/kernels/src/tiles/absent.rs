//! In place of the instructions where the target has none: nobody gets a token there, so nothing of this is ever called.
#![expect(clippy::unused_self, reason = "the signatures are those of the instructions")]

use half::bf16;

use super::token::Amx;

pub(super) const PAIR: usize = 32;
pub(super) const ROWS: usize = 16;

pub(super) struct Tiles(());

impl Tiles {
    pub(super) fn new(_: Amx) -> Self {
        absent()
    }

    /// # Safety
    /// Never called.
    pub(super) unsafe fn multiply(&self, _: Product<'_>) {
        absent()
    }

    /// # Safety
    /// Never called.
    pub(super) unsafe fn multiply_same(&self, _: Product<'_>) {
        absent()
    }

    /// # Safety
    /// Never called.
    pub(super) unsafe fn outer(_: &Self, _: Outer<'_>) {
        absent()
    }

    /// # Safety
    /// Never called.
    pub(super) unsafe fn outer_half(_: &Self, _: Outer<'_>) {
        absent()
    }
}

#[expect(dead_code, reason = "what the instructions would read")]
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    pub(super) voxels: [*const bf16; 2],
    pub(super) stride: usize,
    pub(super) offsets: &'a [usize],
    pub(super) weights: *const bf16,
    pub(super) sums: [*mut f32; 2],
}

#[expect(dead_code, reason = "what the instructions would read")]
#[derive(Clone, Copy)]
pub(super) struct Outer<'a> {
    pub(super) rows: *const bf16,
    pub(super) pitch: usize,
    pub(super) columns: *const bf16,
    pub(super) steps: &'a [[usize; 2]],
    pub(super) sums: *mut f32,
    pub(super) fresh: bool,
}

#[expect(dead_code, reason = "what the instructions would read")]
pub(super) struct Copy<'a> {
    pub(super) from: &'a [bf16],
    pub(super) step: usize,
    pub(super) channels: usize,
    pub(super) prologue: Option<(&'a [f32], &'a [f32], f32)>,
    pub(super) to: &'a mut [bf16],
    pub(super) pitch: usize,
}

impl Copy<'_> {
    pub(super) fn run(self, _: Amx) {
        absent()
    }
}

#[expect(dead_code, reason = "what the instructions would read")]
pub(super) struct Finish<'a> {
    pub(super) sums: &'a [f32],
    pub(super) bias: &'a [f32; PAIR],
    pub(super) to: *mut bf16,
    pub(super) pitch: usize,
    pub(super) channels: usize,
}

impl Finish<'_> {
    /// # Safety
    /// Never called.
    pub(super) unsafe fn run(self, _: Amx, _: bool, _: Option<&mut [[f64; 2]; PAIR]>) {
        absent()
    }
}

pub(super) struct Stage(pub(super) [bf16; PAIR * PAIR]);

impl Stage {
    pub(super) fn new() -> Self {
        absent()
    }

    pub(super) fn store_pairs(&mut self, _: Amx, _: usize, _: &mut [bf16]) {
        absent()
    }

    pub(super) fn store_rows(&self, _: Amx, _: usize, _: &mut [bf16], _: usize) {
        absent()
    }
}

fn absent() -> ! {
    unreachable!("tiles on a target that has none")
}
