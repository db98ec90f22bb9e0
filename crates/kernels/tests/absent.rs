//! What targets without tiles build: the sources of the tiles once more, with those that stand in for the instructions. That it
//! compiles is the claim: both have everything that is called.
#![allow(dead_code, unreachable_pub, unused_imports, reason = "it is compiled, not called")]
#![allow(unsafe_code, reason = "these are the sources of the kernels")]

#[path = "../src/buffer.rs"]
mod buffer;
#[path = "../src/tiles/conv.rs"]
mod conv;
#[path = "../src/tiles/cut.rs"]
mod cut;
#[path = "../src/tiles/frame.rs"]
mod frame;
#[path = "../src/tiles/absent.rs"]
mod leaf;
#[path = "../src/tiles/maps.rs"]
mod maps;
#[path = "../src/tiles/outer.rs"]
mod outer;
#[path = "../src/tiles/outer_cut.rs"]
mod outer_cut;
#[path = "../src/tiles/pack.rs"]
mod pack;
#[path = "../src/conv3d/phases.rs"]
mod phases;
#[path = "../src/scratch.rs"]
mod scratch;
#[path = "../src/stats.rs"]
mod stats;
#[path = "../src/tiles/upsample.rs"]
mod upsample;
#[path = "../src/tiles/weights.rs"]
mod weights;

mod conv3d {
    pub(crate) use crate::phases;
    pub(crate) use glioseg_kernels::ConvShape;
}
mod isa {
    pub(crate) use glioseg_kernels::vectorised;
}
mod norm {
    pub(crate) use glioseg_kernels::ScaleShift;
}
mod shape {
    pub(crate) use glioseg_kernels::ConvShape;
}
mod source {
    pub(crate) use glioseg_kernels::Prologue;
}
mod token {
    pub(crate) use glioseg_kernels::Amx;
}
mod transposed {
    pub(crate) use glioseg_kernels::TransposedShape;
}

#[test]
fn calls_are_cut_alike_on_targets_without_tiles() {
    let shape = glioseg_kernels::ConvShape::same(2, 40, 70, [12, 20, 30], [3; 3], [2; 3]);
    let here = outer_cut::tile_conv3d_backward_weights_scratch(&shape);
    let there = glioseg_kernels::tile_conv3d_backward_weights_scratch(&shape);
    assert_eq!([here.per_thread, here.lent], [there.per_thread, there.lent]);
}
