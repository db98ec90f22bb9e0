//! The bf16 kernels on tiles against their plain twins, and the choice whether there are tiles.

mod common;
#[path = "common/tiles.rs"]
mod shared;

use common::{Numbers, assert_close, magnitudes};
use glioseg_diagnose::Diagnose as _;
use glioseg_kernels::testing::decide_tiles;
use glioseg_kernels::{
    Amx, ChannelStats, ConvShape, KernelError, PackedTiles, Prologue, ScaleShift, TileBranch, TileCall,
    TileInput, TileOutput, TileSource, TileUpsampling, TransposedShape, tile_add_activate, tile_avg_pool,
    tile_conv3d, tile_conv3d_reference, tile_from_planar, tile_to_planar, tile_transposed,
    tile_transposed_reference,
};
use half::bf16;
use proptest::prelude::*;
use shared::{ROUNDED, map, planar, tiles};

#[derive(Debug, Clone, Copy)]
enum First {
    Map,
    Planar,
    Upsampled([usize; 3]),
}

#[derive(Debug, Clone, Copy)]
struct Case {
    shape: ConvShape,
    first: First,
    /// Channels of the second input.
    second: usize,
    prologue: bool,
}

impl Case {
    fn of(shape: ConvShape) -> Self {
        Self { shape, first: First::Map, second: 0, prologue: true }
    }

    fn check(self, amx: Amx) {
        let Self { shape, first, second, prologue } = self;
        let mut numbers = Numbers::new((shape.in_len() * 7 + shape.out_len()) as u64);
        let (batch, voxels) = (shape.batch, shape.in_voxels());
        let channels = shape.in_channels - second;
        let below = match first {
            First::Upsampled(kernel) => TransposedShape {
                batch,
                in_channels: channels + 3,
                out_channels: channels,
                input: std::array::from_fn(|a| shape.input[a] / kernel[a]),
                kernel,
            },
            _ => TransposedShape {
                batch,
                in_channels: channels,
                out_channels: 1,
                input: shape.input,
                kernel: [1; 3],
            },
        };
        let data = map(&mut numbers, below.in_len());
        let (scale, shift) =
            (numbers.many(batch * below.in_channels), numbers.many(batch * below.in_channels));
        let prologue = prologue.then_some(Prologue { scale: &scale, shift: &shift, slope: 0.01 });
        let source = TileSource { data: &data, channels: below.in_channels, prologue };
        let up_weights = numbers.many(below.weight_len());
        let up_bias = numbers.many(below.out_channels);
        let up_packed = PackedTiles::transposed(&below, &up_weights);
        let image = numbers.many(batch * channels * voxels);
        let other = map(&mut numbers, batch * second * voxels);
        let mut inputs = vec![match first {
            First::Map => TileInput::Map(source),
            First::Planar => TileInput::Planar { data: &image, channels },
            First::Upsampled(_) => TileInput::Upsampled(TileUpsampling {
                shape: &below,
                source,
                weights: &up_packed,
                bias: Some(&up_bias),
            }),
        }];
        if second > 0 {
            inputs.push(TileInput::Map(TileSource::plain(&other, second)));
        }
        let weights = numbers.many(shape.weight_len());
        let bias = numbers.many(shape.out_channels);
        let packed = PackedTiles::conv(&shape, &weights);
        assert_eq!(packed.bytes(), PackedTiles::conv_bytes(&shape), "{self:?}");
        let call = TileCall { shape: &shape, inputs: &inputs, weights: &packed, bias: Some(&bias) };
        let want = tile_conv3d_reference(&shape, &inputs, &weights, &up_weights, Some(&bias));
        let name = format!("{self:?}");
        // Errors are relative to what might cancel.
        let out_voxels = shape.out_voxels();
        let mut stats = ChannelStats::new(batch, shape.out_channels, out_voxels);
        let mut out = vec![bf16::NAN; shape.out_len()];
        tile_conv3d(amx, &call, TileOutput::Map(&mut out), Some(&mut stats));
        let out = planar(&out, [shape.out_channels, out_voxels]);
        assert_close(&name, &out, &want, &want, ROUNDED);
        // An upsampled or normalised value next to a tie may be rounded the other way.
        let rounded = matches!(first, First::Upsampled(_)) || prologue.is_some();
        let exact = if rounded { 1e-3 } else { 1e-5 };
        let mut logits = vec![f32::NAN; shape.out_len()];
        tile_conv3d(amx, &call, TileOutput::Planar(&mut logits), None);
        assert_close(&format!("{name}, f32"), &logits, &want, &want, exact);
        for (row, values) in logits.chunks_exact(out_voxels).enumerate() {
            let sum: f64 = values.iter().map(|&v| f64::from(v)).sum();
            let squares: f64 = values.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
            let size = (squares * out_voxels as f64).sqrt();
            assert!((stats.sum[row] - sum).abs() < 1e-5 * size, "{name}: sum {row}");
            assert!((stats.sum_sq[row] - squares).abs() < 1e-5 * squares, "{name}: squares {row}");
        }
    }
}

#[test]
fn convolutions_match_their_twin_around_block_edges() {
    let Some(amx) = tiles() else { return };
    for w in [1, 2, 7, 8, 13, 14, 15, 16, 17, 30, 31, 32, 33, 47, 50, 66] {
        Case::of(ConvShape::same(1, 32, 32, [3, 4, w], [3; 3], [1; 3])).check(amx);
        Case::of(ConvShape::same(2, 5, 3, [2, 3, w], [3; 3], [1; 3])).check(amx);
        Case::of(ConvShape::same(1, 33, 34, [4, 3, w], [3; 3], [2; 3])).check(amx);
    }
    for channels in [1, 2, 4, 9, 10, 11, 15, 16, 17, 21, 22, 31, 32, 33, 48, 63, 64, 65, 96] {
        Case::of(ConvShape::same(1, channels, 7, [3, 5, 18], [3; 3], [1; 3])).check(amx);
        Case::of(ConvShape::same(1, 6, channels, [3, 5, 18], [3; 3], [1; 3])).check(amx);
        let image = Case {
            first: First::Planar,
            ..Case::of(ConvShape::same(2, channels, 33, [3, 4, 20], [3; 3], [1; 3]))
        };
        image.check(amx);
    }
}

#[test]
fn other_kernels_and_strides_match_their_twin() {
    let Some(amx) = tiles() else { return };
    for kernel in [[1, 3, 3], [3, 1, 3], [3, 3, 1], [1, 1, 1], [2, 2, 2], [5, 3, 1], [1, 1, 7]] {
        for stride in [[1, 1, 1], [2, 2, 2], [1, 2, 2], [2, 1, 1], [1, 1, 2], [3, 3, 3]] {
            Case::of(ConvShape::same(1, 20, 36, [7, 8, 23], kernel, stride)).check(amx);
        }
    }
}

#[test]
fn two_inputs_are_read_as_one() {
    let Some(amx) = tiles() else { return };
    for (a, b) in [(32, 32), (5, 9), (64, 32), (31, 1), (40, 24)] {
        let shape = ConvShape::same(2, a + b, 32, [4, 6, 22], [3; 3], [1; 3]);
        Case { second: b, ..Case::of(shape) }.check(amx);
        for kernel in [[2, 2, 2], [1, 2, 2], [2, 1, 2], [4, 3, 1]] {
            let input = [8, 6, 22];
            let shape = ConvShape { input, ..shape };
            Case { first: First::Upsampled(kernel), second: b, ..Case::of(shape) }.check(amx);
        }
    }
}

/// Strips, segments and splits: every way in which a call is cut.
#[test]
fn many_jobs_match_their_twin() {
    let Some(amx) = tiles() else { return };
    for shape in [
        ConvShape::same(1, 64, 3, [17, 24, 130], [3; 3], [1; 3]),
        ConvShape::same(1, 160, 68, [4, 4, 4], [3; 3], [1; 3]),
        ConvShape::same(1, 96, 70, [9, 9, 9], [3; 3], [2; 3]),
        ConvShape::same(1, 256, 5, [20, 20, 20], [3; 3], [1; 3]),
        ConvShape::same(1, 32, 9, [1, 70, 70], [1, 3, 3], [1; 3]),
    ] {
        Case { prologue: false, ..Case::of(shape) }.check(amx);
    }
    let shape = ConvShape::same(1, 64, 4, [20, 32, 70], [3; 3], [1; 3]);
    Case { first: First::Upsampled([2; 3]), second: 32, ..Case::of(shape) }.check(amx);
}

#[test]
fn transposed_convolutions_match_their_twin() {
    let Some(amx) = tiles() else { return };
    for (in_channels, out_channels, input, kernel) in [
        (64, 32, [3, 5, 17], [2; 3]),
        (5, 9, [2, 3, 4], [1, 2, 2]),
        (33, 70, [4, 4, 4], [2, 1, 3]),
        (320, 64, [4, 40, 20], [2; 3]),
    ] {
        let shape = TransposedShape { batch: 2, in_channels, out_channels, input, kernel };
        let mut numbers = Numbers::new(shape.in_len() as u64);
        let data = map(&mut numbers, shape.in_len());
        let rows = 2 * in_channels;
        let (scale, shift) = (numbers.many(rows), numbers.many(rows));
        let prologue = Some(Prologue { scale: &scale, shift: &shift, slope: 0.01 });
        let source = TileSource { data: &data, channels: in_channels, prologue };
        let (weights, bias) = (numbers.many(shape.weight_len()), numbers.many(out_channels));
        let packed = PackedTiles::transposed(&shape, &weights);
        assert_eq!(packed.bytes(), PackedTiles::transposed_bytes(&shape));
        let mut out = vec![bf16::NAN; shape.out_len()];
        let up = TileUpsampling { shape: &shape, source, weights: &packed, bias: Some(&bias) };
        tile_transposed(amx, &up, &mut out);
        let want = tile_transposed_reference(&shape, &source, &weights, Some(&bias));
        let out = planar(&out, [out_channels, shape.out_voxels()]);
        assert_close(&format!("{shape:?}"), &out, &want, &want, ROUNDED);
    }
}

#[test]
fn bf16_results_are_the_same_bits_for_any_number_of_threads() {
    let Some(amx) = tiles() else { return };
    let shape = ConvShape::same(2, 20, 40, [17, 19, 37], [3; 3], [1; 3]);
    let mut numbers = Numbers::new(11);
    let (data, weights) = (map(&mut numbers, shape.in_len()), numbers.many(shape.weight_len()));
    let packed = PackedTiles::conv(&shape, &weights);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| {
            let mut out = vec![bf16::NAN; shape.out_len()];
            let mut stats = ChannelStats::new(2, 40, shape.out_voxels());
            let inputs = [TileInput::Map(TileSource::plain(&data, 20))];
            let call = TileCall { shape: &shape, inputs: &inputs, weights: &packed, bias: None };
            tile_conv3d(amx, &call, TileOutput::Map(&mut out), Some(&mut stats));
            (out, stats)
        })
    };
    let one = run(1);
    for threads in [2, 3, 7] {
        assert!(one == run(threads), "{threads} threads");
    }
}

#[test]
fn maps_change_their_form_and_end_blocks_as_the_definitions_say() {
    let (channels, size) = (5, [4, 6, 330]);
    let voxels = size.iter().product::<usize>();
    let mut numbers = Numbers::new(3);
    let data = map(&mut numbers, 2 * channels * voxels);
    let affine = ScaleShift { scale: numbers.many(2 * channels), shift: numbers.many(2 * channels) };
    let prologue = affine.prologue(0.01);
    let source = TileSource { data: &data, channels, prologue: Some(prologue) };
    let plain = planar(&data, [channels, voxels]);
    let leaky = |y: f32, slope: f32| if y > 0.0 { y } else { y * slope };
    let normal =
        |i: usize, slope: f32| leaky(plain[i] * affine.scale[i / voxels] + affine.shift[i / voxels], slope);
    let want: Vec<f32> = (0..plain.len()).map(|i| normal(i, 0.01)).collect();
    let mut out = vec![f32::NAN; plain.len()];
    tile_to_planar(&source, voxels, &mut out);
    assert_close("to planar", &out, &want, &want, ROUNDED);
    let mut back = vec![bf16::NAN; out.len()];
    tile_from_planar(&out, [channels, voxels], &mut back);
    assert_eq!(planar(&back, [channels, voxels]), out, "rounded values come back");

    let mut pooled = vec![bf16::NAN; out.len() / 12];
    tile_avg_pool(&source, size, [2, 3, 2], &mut pooled);
    let pooled = planar(&pooled, [channels, voxels / 12]);
    let mut want = vec![0.0; pooled.len()];
    glioseg_kernels::avg_pool3d(&out, size, [2, 3, 2], &mut want);
    assert_close("pool", &pooled, &want, &want, ROUNDED);

    let skip = map(&mut numbers, data.len());
    let mut main = data.clone();
    let branch = TileBranch { data: &skip, affine: Some(&affine), slope: 0.5 };
    tile_add_activate(&mut main, Some(&affine), branch, [channels, voxels], 0.1);
    let other = planar(&skip, [channels, voxels]);
    let want: Vec<f32> = (0..plain.len())
        .map(|i| {
            let skip = leaky(other[i] * affine.scale[i / voxels] + affine.shift[i / voxels], 0.5);
            leaky(normal(i, 1.0) + skip, 0.1)
        })
        .collect();
    assert_close("add", &planar(&main, [channels, voxels]), &want, &magnitudes(&want), ROUNDED);
}

#[test]
fn tiles_are_used_only_where_everybody_agrees() {
    let on = |tiles: Option<&str>, isa: Option<&str>, present, granted| {
        let words = [tiles, isa].map(|w| w.map(str::to_owned));
        decide_tiles(words, present, || if granted { Ok(()) } else { Err("no".to_owned()) })
    };
    assert_eq!(on(None, None, true, true), Ok(()));
    assert_eq!(on(Some("on"), Some("avx512"), true, true), Ok(()));
    let error = on(Some("off"), None, true, true).expect_err("turned off");
    assert!(error.to_string().contains("GLIOSEG_KERNELS_TILES is `off`"), "{error}");
    let error = on(None, Some("scalar"), true, true).expect_err("lowered");
    assert!(error.to_string().contains("GLIOSEG_KERNELS_ISA is `scalar`"), "{error}");
    let error = on(Some("yes"), None, true, true).expect_err("no such word");
    assert_eq!(error, KernelError::UnknownTiles { given: "yes".to_owned() });
    assert!(matches!(on(None, Some("avx9"), true, true), Err(KernelError::UnknownIsa { .. })));
    let error = on(None, None, false, true).expect_err("another CPU");
    assert!(matches!(&error, KernelError::NoTiles { found } if !found.is_empty()), "{error}");
    assert!(error.hint().is_some_and(|h| h.contains("f32")));
    let error = on(None, None, true, false).expect_err("refused");
    assert_eq!(error, KernelError::TilesRefused { reason: "no".to_owned() });
    assert!(error.hint().is_some_and(|h| h.contains("Linux")));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_convolution_matches_its_twin(
        batch in 1usize..=2,
        channels in 1usize..40,
        second in 0usize..20,
        out_channels in 1usize..40,
        input in prop::array::uniform3(3usize..12),
        kernel in prop::array::uniform3(1usize..=3),
        stride in prop::array::uniform3(1usize..=3),
        prologue: bool,
    ) {
        if let Some(amx) = tiles() {
            let shape = ConvShape::same(batch, channels + second, out_channels, input, kernel, stride);
            Case { shape, first: First::Map, second, prologue }.check(amx);
        }
    }
}
