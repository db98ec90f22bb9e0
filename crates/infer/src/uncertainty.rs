//! How far the passes that run anyway agree: entropy and disagreement of every region.
//!
//! Every pass (a tile, seen by a fold of a model in a mirrored way) adds its probabilities and their squares to running
//! sums, weighted as its logits are, so memory does not grow with the number of passes. Mean and variance over passes
//! are what is left; the mean's entropy tells where the answer is near the edge, the variance where passes contradict
//! each other.

use glioseg_plan::Labels;
use glioseg_plan::record::{CaseUncertainty, RegionUncertainty};
use glioseg_prep::Boxed;
use glioseg_volume::crop::{self, Box3};
use glioseg_volume::{Geometry, LabelMap, Volume};
use rayon::prelude::*;

use super::export::{Decision, Logits};
use super::{Accumulation, Grid};

/// Maps are written in steps of 1 / `STEPS`: the last bits of almost 0 would make them ten times as large.
const STEPS: f32 = 1024.0;

/// Names and labels of the regions, and which output of the network is whose.
fn regions(labels: &Labels) -> Vec<(String, Vec<u16>, usize)> {
    let of = |v: u16| labels.all_labels().iter().position(|&l| l == v).unwrap_or(0);
    let output = |i: usize, values: &[u16]| if labels.has_regions() { i } else { of(values[0]) };
    let classes = labels.classes().into_iter().enumerate();
    classes
        .map(|(i, (name, values))| {
            let at = output(i, &values);
            (name, values, at)
        })
        .collect()
}

/// Where a pass lies and how it was mirrored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PassPlace<'a> {
    pub(crate) grid: &'a Grid,
    pub(crate) start: [isize; 3],
    pub(crate) inside: Box3,
    pub(crate) mirrored: &'a [usize],
    pub(crate) weights: &'a [f32],
}

/// The running sums of one model on its plan's grid.
#[derive(Debug)]
pub(crate) struct Moments {
    decision: Decision,
    /// Passes give probabilities rather than logits.
    activated: bool,
    /// The output of every region.
    outputs: Vec<usize>,
    shape: [usize; 3],
    /// Sums of `weight * p`, then of `weight * p²`: `[moment, region, z, y, x]`.
    sums: Vec<f32>,
    weight: Vec<f32>,
}

impl Moments {
    pub(crate) fn new(labels: &Labels, activated: bool, shape: [usize; 3]) -> Self {
        let outputs: Vec<usize> = regions(labels).into_iter().map(|(_, _, output)| output).collect();
        let voxels: usize = shape.iter().product();
        Self {
            decision: Decision::new(labels),
            activated,
            sums: vec![0.0; 2 * outputs.len() * voxels],
            weight: vec![0.0; voxels],
            outputs,
            shape,
        }
    }

    /// Adds what a pass answered for a tile, `[output, z, y, x]`.
    pub(crate) fn add(&mut self, answer: &[f32], place: PassPlace<'_>) {
        let activated;
        let probabilities = if self.activated {
            answer
        } else {
            activated = self.decision.activate_pass(answer);
            &activated
        };
        let (tile, shape) = (place.grid.tile, self.shape);
        let tile_voxels: usize = tile.iter().product();
        let [[z0, z1], [y0, y1], [x0, x1]] = place.inside;
        let first = (place.start[0] + z0 as isize) as usize;
        let plane = shape[1] * shape[2];
        let turn =
            |axis: usize, v: usize| if place.mirrored.contains(&axis) { tile[axis] - 1 - v } else { v };
        // Rows of the tile in plane `z` of the volume: row of the weights, row of the answer, row of the plane.
        let rows = |z: usize| {
            let z = z - first + z0;
            (y0..y1).map(move |y| {
                let own = (z * tile[1] + y) * tile[2];
                let answered = (turn(0, z) * tile[1] + turn(1, y)) * tile[2];
                let row = (place.start[1] + y as isize) as usize * shape[2];
                (own, answered, row + (place.start[2] + x0 as isize) as usize)
            })
        };
        let reached = first..first + (z1 - z0);
        let (regions, outputs) = (self.outputs.len(), &self.outputs);
        self.sums.par_chunks_mut(plane).enumerate().for_each(|(i, sums)| {
            let (z, region, squared) = (i % shape[0], i / shape[0] % regions, i / shape[0] >= regions);
            if !reached.contains(&z) {
                return;
            }
            let answer = &probabilities[outputs[region] * tile_voxels..][..tile_voxels];
            for (own, answered, row) in rows(z) {
                for x in x0..x1 {
                    let p = answer[answered + turn(2, x)];
                    let value = if squared { p * p } else { p };
                    sums[row + x - x0] += place.weights[own + x] * value;
                }
            }
        });
        self.weight.par_chunks_mut(plane).enumerate().for_each(|(z, weight)| {
            if reached.contains(&z) {
                for (own, _, row) in rows(z) {
                    for x in x0..x1 {
                        weight[row + x - x0] += place.weights[own + x];
                    }
                }
            }
        });
    }

    /// Mean of `p` and of `p²` of every region, `[moment, region, z, y, x]`.
    fn means(mut self) -> Vec<f32> {
        let weight = &self.weight;
        self.sums.par_chunks_mut(weight.len()).for_each(|sums| {
            sums.iter_mut().zip(weight).for_each(|(s, w)| *s = if *w > 0.0 { *s / w } else { 0.0 });
        });
        self.sums
    }
}

/// The moments of a case over all its models, inside the cropped box, on the image's own grid.
#[derive(Debug, Default)]
pub(crate) struct CaseMoments {
    /// `[moment, region, z, y, x]`, summed over models.
    sums: Option<Boxed<f32>>,
    models: usize,
}

/// Maps of how sure the passes were, one channel per region; 0 outside the cropped box.
#[derive(Debug, Clone, PartialEq)]
pub struct UncertaintyMaps {
    entropy: Boxed<f32>,
    disagreement: Boxed<f32>,
    regions: usize,
    geometry: Geometry,
}

impl CaseMoments {
    /// Adds a model's moments; `logits` says how its answers lead back to the image, its values are not looked at.
    pub(crate) fn add(&mut self, moments: Moments, logits: &Logits<'_>) {
        let channels = 2 * moments.outputs.len();
        let means = moments.means();
        // Moments are no logits: they are not rounded on the way.
        let own = Logits { values: &means, precision: Accumulation::Single, ..logits.clone() };
        let more = own.resampled(channels);
        self.models += 1;
        match &mut self.sums {
            None => self.sums = Some(more),
            Some(sums) => sums.values.par_iter_mut().zip(more.values).for_each(|(s, v)| *s += v),
        }
    }

    /// The maps and the scores of the case; `map` holds the dataset's own labels.
    ///
    /// # Panics
    /// If no model was added.
    pub(crate) fn finish(self, labels: &Labels, map: &LabelMap) -> (CaseUncertainty, UncertaintyMaps) {
        let regions = regions(labels);
        let Boxed { values: sums, bbox, shape } = self.sums.expect("moments of at least one model");
        let voxels = sums.len() / (2 * regions.len());
        let models = self.models as f32;
        let (first, second) = sums.split_at(regions.len() * voxels);
        let mean: Vec<f32> = first.par_iter().map(|v| (v / models).clamp(0.0, 1.0)).collect();
        // Rounding must not make a variance negative.
        let deviation: Vec<f32> =
            second.par_iter().zip(&mean).map(|(s, m)| (s / models - m * m).clamp(0.0, 0.25).sqrt()).collect();
        let entropy: Vec<f32> = mean.par_iter().map(|&p| bits(p)).collect();
        let inside = crop::crop(map.data.clone(), map.shape(), bbox);
        let scores = regions.iter().enumerate().map(|(i, (name, values, _))| {
            let part = |all: &[f32]| -> (f64, f64) {
                let all = &all[i * voxels..(i + 1) * voxels];
                let segmented = all.iter().zip(&inside).filter(|(_, l)| values.contains(l));
                (all.iter().map(|&v| f64::from(v)).sum(), segmented.map(|(&v, _)| f64::from(v)).sum())
            };
            let count = map.count_of(values) as f64;
            let (everywhere, segmented) = part(&mean);
            let promised = (2.0 * segmented + 1.0) / (everywhere + count + 1.0);
            let average = |all: &[f32]| if count > 0.0 { rounded(part(all).1 / count) } else { 0.0 };
            RegionUncertainty {
                region: name.clone(),
                labels: values.clone(),
                score: rounded((1.0 - promised).clamp(0.0, 1.0)),
                entropy: average(&entropy),
                disagreement: average(&deviation),
            }
        });
        let scores: Vec<RegionUncertainty> = scores.collect();
        let score = rounded(scores.iter().map(|r| r.score).sum::<f64>() / scores.len().max(1) as f64);
        let boxed = |values: Vec<f32>| Boxed { values, bbox, shape };
        let maps = UncertaintyMaps {
            entropy: boxed(entropy),
            disagreement: boxed(deviation),
            regions: regions.len(),
            geometry: map.geometry.clone(),
        };
        (CaseUncertainty { score, regions: scores, entropy: None, disagreement: None }, maps)
    }
}

impl UncertaintyMaps {
    /// Entropy of the mean probability in bits, from 0 to 1 in steps of 1 / 1024.
    pub fn entropy(&self) -> Volume {
        self.volume(&self.entropy)
    }

    /// Standard deviation of the probabilities over passes, from 0 to 0.5 in steps of 1 / 1024.
    pub fn disagreement(&self) -> Volume {
        self.volume(&self.disagreement)
    }

    fn volume(&self, map: &Boxed<f32>) -> Volume {
        let values = map.values.par_iter().map(|v| (v * STEPS).round() / STEPS).collect();
        let coarse = Boxed { values, ..*map };
        let mut data = Vec::with_capacity(self.regions * self.geometry.voxels());
        for region in 0..self.regions {
            data.extend(coarse.channel(region, 0.0));
        }
        Volume { channels: self.regions, data, geometry: self.geometry.clone() }
    }
}

/// Entropy of a probability in bits.
fn bits(p: f32) -> f32 {
    let part = |p: f32| if p > 0.0 { -p * p.log2() } else { 0.0 };
    part(p) + part(1.0 - p)
}

fn rounded(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}
