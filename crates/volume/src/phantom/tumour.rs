//! Gliomas: a core with an enhancing rim, and oedema about it that spreads along the white matter.

use super::Tumour;
use super::anatomy::{Anatomy, Tissue};
use super::noise::{Noise, V3, length, scale, sub};

/// One focus.
#[derive(Debug, Clone, Copy)]
struct Focus {
    centre: V3,
    /// Stretch along x, y, z.
    shape: V3,
    core_mm: f32,
    rim_mm: f32,
    oedema_mm: f32,
    shift_mm: f32,
}

/// All foci of a case.
#[derive(Debug)]
pub(crate) struct Foci {
    list: Vec<Focus>,
    edges: Noise,
    rim: Noise,
    spread: Noise,
    edge_mm: f32,
}

/// Shares of a voxel that are tumour, and its label in nnU-Net's coding.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Growth {
    pub(crate) oedema: f32,
    pub(crate) necrosis: f32,
    pub(crate) enhancing: f32,
    pub(crate) label: u16,
}

impl Foci {
    /// Draws the foci; `edge_mm`, about a voxel, bounds their size from below, so that the smallest still has a few voxels.
    pub(crate) fn new(kind: Tumour, seed: u64, anatomy: &Anatomy, edge_mm: f32) -> Self {
        let draw = Noise::new(seed, 20);
        let kind = match kind {
            Tumour::Any => match draw.uniform(0, 0.0, 1.0) {
                u if u < 0.5 => Tumour::Enhancing,
                u if u < 0.68 => Tumour::NonEnhancing,
                u if u < 0.86 => Tumour::Multifocal,
                _ => Tumour::Tiny,
            },
            kind => kind,
        };
        let count = match kind {
            Tumour::None => 0,
            Tumour::Multifocal => 2 + (draw.uniform(1, 0.0, 1.99) as u64),
            _ => 1,
        };
        let mut foci: Vec<Focus> = Vec::new();
        for i in 0..count {
            let draw = Noise::new(seed, 21 + i);
            let smallest = edge_mm * 1.2;
            let (core, rim, oedema) = match (kind, i) {
                (Tumour::Tiny, _) => {
                    (draw.uniform(0, 4.5, 7.0), draw.uniform(1, 1.5, 3.0), draw.uniform(2, 3.0, 7.0))
                }
                (Tumour::NonEnhancing, _) => (draw.uniform(0, 14.0, 23.0), 0.0, draw.uniform(2, 3.0, 8.0)),
                (_, 0) => {
                    (draw.uniform(0, 11.0, 19.0), draw.uniform(1, 2.5, 5.5), draw.uniform(2, 7.0, 16.0))
                }
                _ => (draw.uniform(0, 6.0, 10.0), draw.uniform(1, 2.0, 4.0), draw.uniform(2, 4.0, 9.0)),
            };
            let core_mm = core.max(smallest);
            foci.push(Focus {
                centre: centre(draw, anatomy, &foci, core_mm + oedema),
                shape: [10, 11, 12].map(|k| draw.uniform(k, 0.78, 1.25)),
                core_mm,
                rim_mm: if rim > 0.0 { rim.max(0.7 * edge_mm) } else { 0.0 },
                oedema_mm: oedema.max(0.8 * edge_mm),
                shift_mm: 0.28 * core,
            });
        }
        Self {
            list: foci,
            edges: Noise::new(seed, 30),
            rim: Noise::new(seed, 31),
            spread: Noise::new(seed, 32),
            edge_mm,
        }
    }

    /// Where the tissue at `p` would lie without the tumours, which push it aside.
    pub(crate) fn unshifted(&self, p: V3) -> V3 {
        self.list.iter().fold(p, |p, focus| {
            let away = sub(p, focus.centre);
            let r = length(away);
            let reach = focus.core_mm + focus.oedema_mm;
            // The push grows to its full length at the edge of the core and fades far outside.
            let fade = (1.0 - r / (3.0 * reach)).max(0.0);
            let push = focus.shift_mm * fade * fade * (r / focus.core_mm).min(1.0);
            if r > 0.0 { sub(p, scale(away, push / r)) } else { p }
        })
    }

    /// What grows at `p`, where the healthy brain would have `tissue`; `depth_mm` lies under its surface.
    pub(crate) fn growth(&self, p: V3, tissue: Tissue, depth_mm: f32) -> Growth {
        let mut best = Growth::default();
        for focus in &self.list {
            let q = sub(p, focus.centre);
            let stretched = [q[0] * focus.shape[0], q[1] * focus.shape[1], q[2] * focus.shape[2]];
            let r = length(stretched);
            if r > focus.core_mm + 2.2 * focus.oedema_mm + 6.0 {
                continue;
            }
            let wobble = self.edges.layered(scale(p, 1.6 / (focus.core_mm + 6.0)), 3);
            let core = r - focus.core_mm * (1.0 + 0.42 * wobble);
            // Oedema follows the white matter in fingers and stops at the cortex and at fluid.
            let fingers = self.spread.layered(scale(p, 1.0 / 15.0), 2);
            let barrier = 0.75 * focus.oedema_mm * (tissue.grey + 1.6 * tissue.csf);
            let oedema = r - focus.core_mm - focus.oedema_mm * (1.0 + 0.9 * fingers) + barrier;
            let thickness = focus.rim_mm * (1.0 + 0.9 * self.rim.smooth(scale(p, 1.0 / 8.0)));
            // Nothing grows in fluid or outside the brain, but a core fills the sulci that it meets.
            let fluid = (tissue.csf - 0.5).max(0.0) * 12.0 * (1.0 + core / 4.0).clamp(0.0, 1.0);
            let hindrance = fluid + (0.5 * self.edge_mm - depth_mm).max(0.0);
            let core = core + hindrance;
            let oedema = oedema.min(core) + hindrance;
            let soft = |inside_mm: f32, width_mm: f32| (inside_mm / width_mm + 0.5).clamp(0.0, 1.0);
            let ramp = |inside_mm: f32| soft(inside_mm, self.edge_mm);
            // Oedema fades out; a core has an edge.
            let (whole, inner) = (soft(-oedema, self.edge_mm + 2.5), ramp(-core));
            let necrosis = if focus.rim_mm > 0.0 { ramp(-core - thickness) } else { inner };
            let label = if oedema >= 0.0 {
                0
            } else if core >= 0.0 {
                1
            } else if focus.rim_mm > 0.0 && -core < thickness {
                3
            } else {
                2
            };
            let growth =
                Growth { oedema: (whole - inner).max(0.0), necrosis, enhancing: inner - necrosis, label };
            // Core over oedema, enhancing over necrotic; of two foci the stronger.
            let rank = |g: &Growth| (g.label, g.oedema + g.necrosis + g.enhancing);
            if rank(&growth) > rank(&best) {
                best = growth;
            }
        }
        best
    }
}

/// A place in a hemisphere that is deep enough for a focus of `radius_mm` and clear of those before.
fn centre(draw: Noise, anatomy: &Anatomy, before: &[Focus], radius_mm: f32) -> V3 {
    let size = anatomy.size();
    let mut best = ([28.0, 0.0, 14.0], f32::MIN);
    for attempt in 0..40u64 {
        let u = |k: u64, low: f32, high: f32| draw.uniform(100 + 4 * attempt + k, low, high);
        let side = if u(0, 0.0, 1.0) < 0.5 { -1.0 } else { 1.0 };
        let p = [side * u(1, 16.0, 46.0) * size[0], u(2, -52.0, 52.0) * size[1], u(3, -16.0, 40.0) * size[2]];
        let depth = -anatomy.surface(p);
        let clear =
            before.iter().map(|f| length(sub(p, f.centre)) - f.core_mm - radius_mm).fold(f32::MAX, f32::min);
        let fit = (depth - 0.75 * radius_mm).min(clear).min(p[0].abs() - 0.6 * radius_mm);
        if fit > best.1 {
            best = (p, fit);
        }
        if fit > 0.0 {
            break;
        }
    }
    best.0
}
