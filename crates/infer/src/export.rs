//! From logits at the plan's spacing to labels and probabilities on the image's own grid.
//!
//! Logits are resampled slab by slab and decided at once, so the logits at full resolution never exist as a whole. Only where
//! probabilities are wanted (to be saved, or averaged over models) are they kept, inside the cropped box.

use std::convert::Infallible;

use glioseg_plan::Labels;
use glioseg_prep::{Boxed, Trail};
use glioseg_volume::crop::Box3;
use glioseg_volume::resample::{Order, ResampleOptions, resample_slabs};
use half::f16;
use half::slice::HalfFloatSliceExt as _;
use rayon::prelude::*;

use super::Accumulation;

/// How outputs become labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Softmax over the labels: the largest output wins, the first of equal ones.
    Labels(Vec<u16>),
    /// A sigmoid for every region: where it is above one half, the region's value is painted over those before.
    Regions(Vec<u16>),
}

impl Decision {
    /// The decision that the dataset's labels ask for.
    pub fn new(labels: &Labels) -> Self {
        if labels.has_regions() {
            Self::Regions(labels.regions().iter().map(|r| r.paint).collect())
        } else {
            Self::Labels(labels.all_labels().to_vec())
        }
    }

    /// Number of outputs.
    pub fn outputs(&self) -> usize {
        let (Self::Labels(values) | Self::Regions(values)) = self;
        values.len()
    }

    /// Turns logits into probabilities; both hold one slice per output.
    ///
    /// # Panics
    /// If there are more or fewer slices than outputs.
    ///
    /// # Source
    /// nnU-Net v2, `LabelManager.apply_inference_nonlin`, in `f32`.
    pub fn activate(&self, logits: &[&[f32]], probabilities: &mut [&mut [f32]]) {
        assert_eq!(
            (logits.len(), probabilities.len()),
            (self.outputs(), self.outputs()),
            "one slice per output"
        );
        match self {
            Self::Regions(_) => {
                for (out, logits) in probabilities.iter_mut().zip(logits) {
                    for (p, &l) in out.iter_mut().zip(*logits) {
                        *p = sigmoid(l);
                    }
                }
            }
            Self::Labels(_) => {
                for i in 0..logits[0].len() {
                    let max = logits.iter().map(|c| c[i]).fold(f32::NEG_INFINITY, f32::max);
                    let mut sum = 0.0;
                    for (out, logits) in probabilities.iter_mut().zip(logits) {
                        out[i] = (logits[i] - max).exp();
                        sum += out[i];
                    }
                    for out in probabilities.iter_mut() {
                        out[i] /= sum;
                    }
                }
            }
        }
    }

    /// Turns the logits of one network pass, output after output, into probabilities.
    ///
    /// # Panics
    /// If they are not whole outputs.
    pub(crate) fn activate_pass(&self, logits: &[f32]) -> Vec<f32> {
        assert_eq!(logits.len() % self.outputs(), 0, "whole outputs");
        let voxels = logits.len() / self.outputs();
        let mut out = vec![0f32; logits.len()];
        let channels: Vec<&[f32]> = logits.chunks(voxels).collect();
        let mut pieces: Vec<Vec<&mut [f32]>> = (0..voxels.div_ceil(CHUNK)).map(|_| Vec::new()).collect();
        for channel in out.chunks_mut(voxels) {
            pieces.iter_mut().zip(channel.chunks_mut(CHUNK)).for_each(|(piece, part)| piece.push(part));
        }
        pieces.into_par_iter().enumerate().for_each(|(i, mut piece)| {
            let part = i * CHUNK..(i * CHUNK + CHUNK).min(voxels);
            let logits: Vec<&[f32]> = channels.iter().map(|c| &c[part.clone()]).collect();
            self.activate(&logits, &mut piece);
        });
        out
    }

    /// Labels from probabilities (`probabilities`) or from logits, for every voxel of the slices.
    ///
    /// # Panics
    /// If there are more or fewer slices than outputs.
    ///
    /// # Source
    /// nnU-Net v2, `LabelManager.convert_probabilities_to_segmentation` and `convert_logits_to_segmentation`.
    pub fn decide(&self, channels: &[&[f32]], probabilities: bool, seg: &mut [u16]) {
        assert_eq!(channels.len(), self.outputs(), "one slice per output");
        seg.fill(0);
        let mut best = if let Self::Labels(_) = self { vec![0f32; seg.len()] } else { Vec::new() };
        for (output, channel) in channels.iter().enumerate() {
            self.take(output, channel, probabilities, seg, &mut best);
        }
    }

    /// Takes the next output into the decision, in order: `seg` holds what the outputs before decided, background before the
    /// first; `best` the largest value so far, for plain labels only.
    pub(crate) fn take(
        &self,
        output: usize,
        values: &[f32],
        probabilities: bool,
        seg: &mut [u16],
        best: &mut [f32],
    ) {
        match self {
            Self::Regions(paint) => {
                for (s, &v) in seg.iter_mut().zip(values) {
                    if (if probabilities { v } else { sigmoid(v) }) > 0.5 {
                        *s = paint[output];
                    }
                }
            }
            Self::Labels(labels) => {
                // The first of equal labels wins.
                for ((s, b), &v) in seg.iter_mut().zip(best).zip(values) {
                    if output == 0 || v > *b {
                        (*s, *b) = (labels[output], v);
                    }
                }
            }
        }
    }

    /// Probability of output `channel` outside the cropped box.
    fn outside(&self, channel: usize) -> f32 {
        match self {
            Self::Labels(_) if channel == 0 => 1.0,
            _ => 0.0,
        }
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// One case's result on the image's own grid.
#[derive(Debug, Clone, PartialEq)]
pub struct Segmentation {
    /// Label of every voxel, `[z, y, x]`.
    pub labels: Vec<u16>,
    /// Probabilities, if they were asked for.
    pub probabilities: Option<Probabilities>,
}

/// Probabilities inside the cropped box; around it every voxel is background.
#[derive(Debug, Clone, PartialEq)]
pub struct Probabilities {
    decision: Decision,
    /// `[output, z, y, x]`.
    boxed: Boxed<f32>,
}

impl Probabilities {
    /// Number of outputs.
    pub fn outputs(&self) -> usize {
        self.decision.outputs()
    }

    /// Voxels of the image, `[z, y, x]`.
    pub fn shape(&self) -> [usize; 3] {
        self.boxed.shape
    }

    /// The cropped box in the image.
    pub fn bbox(&self) -> Box3 {
        self.boxed.bbox
    }

    /// How outputs become labels.
    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// Probability of one output inside the box, `[z, y, x]`.
    pub fn inside(&self, output: usize) -> &[f32] {
        self.boxed.inside(output)
    }

    /// Probability of one output at every voxel of the image, `[z, y, x]`.
    pub fn channel(&self, output: usize) -> Vec<f32> {
        self.boxed.channel(output, self.decision.outside(output))
    }

    /// Rounds to half precision.
    fn round(&mut self) {
        let values = &mut self.boxed.values;
        values.par_chunks_mut(CHUNK).for_each(|values| values.copy_from_slice(&round_to_half(values)));
    }
}

/// One model's mean logits of a case, and how they lead back to the image.
#[derive(Debug, Clone)]
pub(crate) struct Logits<'a> {
    /// `[output, z, y, x]` of `shape`, in the plan's axis order.
    pub(crate) values: &'a [f32],
    /// Voxels on the plan's grid.
    pub(crate) shape: [usize; 3],
    /// How they lead back to the image.
    pub(crate) trail: &'a Trail,
    /// Precision of resampled logits: nnU-Net keeps them in half too, which makes equal logits, and so ties, more frequent.
    pub(crate) precision: Accumulation,
    /// Whether the values are probabilities already, as version 1 averages and resamples them.
    pub(crate) activated: bool,
}

fn round_to_half(values: &[f32]) -> Vec<f32> {
    let mut halves = vec![f16::ZERO; values.len()];
    halves.convert_from_f32_slice(values);
    let mut rounded = vec![0f32; values.len()];
    halves.convert_to_f32_slice(&mut rounded);
    rounded
}

/// Voxels that one thread works on at a time.
const CHUNK: usize = 1 << 14;

impl Logits<'_> {
    /// Calls `work` for pieces of the box with all outputs' logits and the same pieces of every array of `out`.
    ///
    /// `out` holds arrays of the box's voxels in the plan's axis order.
    fn for_each_piece<T: Send>(
        &self,
        outputs: usize,
        out: Vec<&mut [T]>,
        work: impl Fn(&[&[f32]], &mut [&mut [T]]) + Sync,
    ) {
        let (to, resampling) = self.trail.resampling();
        let channels: Vec<&[f32]> = self.values.chunks(self.shape.iter().product()).collect();
        assert_eq!(channels.len(), outputs, "logits of another number of outputs");
        let same = ResampleOptions::uniform(Order::Linear);
        let round = self.precision == Accumulation::Half && self.shape != to;
        let mut rest = out;
        let done: Result<(), Infallible> =
            resample_slabs(&channels, self.shape, to, resampling.unwrap_or(&same), |range, slab| {
                let voxels = range.len() * to[1] * to[2];
                let mut pieces: Vec<Vec<&mut [T]>> =
                    (0..voxels.div_ceil(CHUNK)).map(|_| Vec::new()).collect();
                for array in &mut rest {
                    let (now, later) = std::mem::take(array).split_at_mut(voxels);
                    *array = later;
                    pieces.iter_mut().zip(now.chunks_mut(CHUNK)).for_each(|(piece, part)| piece.push(part));
                }
                pieces.par_iter_mut().enumerate().for_each(|(i, piece)| {
                    let part = i * CHUNK..(i * CHUNK + CHUNK).min(voxels);
                    let logits: Vec<&[f32]> = slab.iter().map(|c| &c[part.clone()]).collect();
                    if !round {
                        return work(&logits, piece);
                    }
                    let rounded: Vec<Vec<f32>> = logits.iter().map(|c| round_to_half(c)).collect();
                    work(&rounded.iter().map(Vec::as_slice).collect::<Vec<_>>(), piece);
                });
                Ok(())
            });
        let Ok(()) = done;
    }

    /// Voxels before resampling.
    fn box_voxels(&self) -> usize {
        self.trail.resampling().0.iter().product()
    }

    /// Labels on the image's grid, decided while resampling.
    pub(crate) fn segment(&self, decision: &Decision) -> Segmentation {
        let mut seg = vec![0u16; self.box_voxels()];
        self.for_each_piece(decision.outputs(), vec![&mut seg], |logits, seg| {
            decision.decide(logits, self.activated, seg[0]);
        });
        Segmentation { labels: self.trail.back(seg).channel(0, 0), probabilities: None }
    }

    /// The values themselves, brought to the image's spacing and axis order inside the cropped box.
    pub(crate) fn resampled(&self, channels: usize) -> Boxed<f32> {
        let voxels = self.box_voxels();
        let mut inside = vec![0f32; channels * voxels];
        let out = inside.chunks_mut(voxels).collect();
        self.for_each_piece(channels, out, |values, out| {
            values.iter().zip(out).for_each(|(from, to)| to.copy_from_slice(from));
        });
        self.trail.back(inside)
    }

    /// Probabilities on the image's grid.
    pub(crate) fn probabilities(&self, decision: &Decision) -> Probabilities {
        if self.activated {
            return Probabilities { decision: decision.clone(), boxed: self.resampled(decision.outputs()) };
        }
        let voxels = self.box_voxels();
        let mut inside = vec![0f32; decision.outputs() * voxels];
        let channels = inside.chunks_mut(voxels).collect();
        self.for_each_piece(decision.outputs(), channels, |logits, out| decision.activate(logits, out));
        Probabilities { decision: decision.clone(), boxed: self.trail.back(inside) }
    }
}

/// The running sum of several models' probabilities, or one model's.
#[derive(Debug, Default)]
pub(crate) struct ProbabilitySum {
    sum: Option<Probabilities>,
    models: usize,
    /// Every model's probabilities, and their mean, are rounded to half precision.
    half: bool,
}

impl ProbabilitySum {
    /// Sums of several models under version 1's rules, whose ensembles are made of files in half precision.
    ///
    /// # Source
    /// nnU-Net v1, `ensemble_predictions.merge_files`.
    pub(crate) fn rounded() -> Self {
        Self { half: true, ..Self::default() }
    }

    /// Adds the probabilities of one model.
    ///
    /// # Panics
    /// If another model was cropped to another box; the box follows from the image alone.
    pub(crate) fn add(&mut self, mut probabilities: Probabilities) {
        self.models += 1;
        if self.half {
            probabilities.round();
        }
        match &mut self.sum {
            None => self.sum = Some(probabilities),
            Some(sum) => {
                let (sum, more) = (&mut sum.boxed, probabilities.boxed);
                assert_eq!((sum.shape, sum.bbox), (more.shape, more.bbox), "another crop");
                sum.values.par_iter_mut().zip(more.values).for_each(|(s, p)| *s += p);
            }
        }
    }

    /// Labels of the mean probabilities, which are kept if `keep`.
    ///
    /// # Panics
    /// If no model was added.
    pub(crate) fn finish(self, keep: bool) -> Segmentation {
        let mut sum = self.sum.expect("a sum of at least one model");
        if self.models > 1 {
            let models = self.models as f32;
            sum.boxed.values.par_iter_mut().for_each(|v| *v /= models);
        }
        if self.half {
            sum.round();
        }
        let channels: Vec<&[f32]> = (0..sum.outputs()).map(|output| sum.inside(output)).collect();
        let mut seg = vec![0u16; channels[0].len()];
        seg.par_chunks_mut(CHUNK).enumerate().for_each(|(i, seg)| {
            let part = i * CHUNK..i * CHUNK + seg.len();
            let channels: Vec<&[f32]> = channels.iter().map(|c| &c[part.clone()]).collect();
            sum.decision.decide(&channels, true, seg);
        });
        let boxed = Boxed { values: seg, bbox: sum.bbox(), shape: sum.shape() };
        Segmentation { labels: boxed.channel(0, 0), probabilities: keep.then_some(sum) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use glioseg_prep::Undo;
    use glioseg_volume::Turn;

    fn trail(steps: [Undo; 3]) -> Trail {
        let mut trail = Trail::default();
        for step in steps {
            trail.push(step);
        }
        trail
    }

    /// An image of 4 x 3 x 5 voxels, whose plan puts the last axis first.
    fn turned() -> Trail {
        trail([
            Undo::Turn(Turn::order([1, 2, 0])),
            Undo::Crop { shape: [5, 4, 3], bbox: [[1, 4], [0, 2], [1, 3]] },
            Undo::Resample { shape: [3, 2, 2], options: None },
        ])
    }

    fn logits<'a>(values: &'a [f32], shape: [usize; 3], trail: &'a Trail) -> Logits<'a> {
        Logits { values, shape, trail, precision: Accumulation::Half, activated: false }
    }

    #[test]
    fn labels_return_to_the_place_and_axis_order_of_the_image() {
        let trail = turned();
        let tumour: Vec<f32> = (0..12).map(|i| if i % 5 == 0 { 1.0 } else { -1.0 }).collect();
        let decision = Decision::Regions(vec![7]);
        let image = logits(&tumour, [3, 2, 2], &trail).segment(&decision).labels;
        assert_eq!(image.len(), 60);
        for a in 0..3 {
            for b in 0..2 {
                for c in 0..2 {
                    // Plan axes (a, b, c) are image axes (b, c, a).
                    let at = (b * 3 + (c + 1)) * 5 + a + 1;
                    assert_eq!(image[at] == 7, tumour[(a * 2 + b) * 2 + c] > 0.0, "{a} {b} {c}");
                }
            }
        }
        assert_eq!(image.iter().filter(|&&v| v > 0).count(), 3);
    }

    #[test]
    fn regions_are_painted_in_order_and_one_half_is_not_enough() {
        let decision = Decision::Regions(vec![1, 2, 3]);
        let (wt, tc, et) = ([2.0, 2.0, 0.0, -1.0], [-1.0, 3.0, 0.0, 1.0], [-1.0, 1.0, 1e-9, -1.0]);
        let mut seg = [9; 4];
        decision.decide(&[&wt, &tc, &et], false, &mut seg);
        assert_eq!(seg, [1, 3, 0, 2]);
    }

    #[test]
    fn the_first_of_equal_labels_wins() {
        let decision = Decision::Labels(vec![0, 1, 2]);
        let mut seg = [9; 2];
        decision.decide(&[&[1.0, 0.0], &[1.0, 0.0], &[0.5, 0.1]], false, &mut seg);
        assert_eq!(seg, [0, 2]);
    }

    #[test]
    fn probabilities_of_several_models_are_averaged_and_background_around_the_box() {
        let decision = Decision::Labels(vec![0, 1]);
        let trail = turned();
        let mut sum = ProbabilitySum::default();
        for sure in [20.0, -20.0, 20.0] {
            let values = [vec![0.0; 12], vec![sure; 12]].concat();
            sum.add(logits(&values, [3, 2, 2], &trail).probabilities(&decision));
        }
        let segmentation = sum.finish(true);
        assert_eq!(segmentation.labels.iter().map(|&l| u32::from(l)).sum::<u32>(), 12);
        let probabilities = segmentation.probabilities.expect("kept");
        assert_eq!(probabilities.shape(), [4, 3, 5]);
        let (background, tumour) = (probabilities.channel(0), probabilities.channel(1));
        assert_eq!((background[0], tumour[0]), (1.0, 0.0));
        let inside = segmentation.labels.iter().position(|&l| l == 1).expect("a voxel inside");
        assert!((tumour[inside] - 2.0 / 3.0).abs() < 1e-6);
        assert!((background[inside] - 1.0 / 3.0).abs() < 1e-6);
    }

    #[test]
    fn deciding_while_resampling_equals_deciding_on_probabilities() {
        let decision = Decision::Regions(vec![1, 2]);
        let trail = trail([
            Undo::Turn(Turn::NONE),
            Undo::Crop { shape: [90, 80, 70], bbox: [[0, 90], [0, 80], [0, 70]] },
            Undo::Resample { shape: [90, 80, 70], options: Some(ResampleOptions::uniform(Order::Linear)) },
        ]);
        let values: Vec<f32> = (0..2 * 45 * 40 * 35).map(|i| ((i * 37) % 23) as f32 - 11.0).collect();
        let logits = logits(&values, [45, 40, 35], &trail);
        let direct = logits.segment(&decision);
        let mut sum = ProbabilitySum::default();
        sum.add(logits.probabilities(&decision));
        assert_eq!(direct.labels, sum.finish(false).labels);
        assert!(direct.labels.contains(&2));
    }
}
