//! A healthy brain as a function of place.
//!
//! Places are millimetres of a grown head about its centre, x to the right, y forwards, z upwards. Structures are
//! distances to simple bodies; folds of the cortex are the zeros of smooth noise, which lie on closed sheets much as
//! sulci do.

use super::noise::{Noise, V3, add, dot, length, scale, sub};

/// Half the extent of the head of [`Anatomy`] along x, y, z in mm, with a small margin.
pub(crate) const HALF_EXTENT_MM: V3 = [70.0, 88.0, 72.0];

/// Strength of the waves that make the surface irregular.
const WAVES_MM: f32 = 3.0;

/// Shares of the tissues in a voxel; their sum is 1.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tissue {
    pub(crate) white: f32,
    pub(crate) grey: f32,
    pub(crate) csf: f32,
}

/// One brain, drawn from a seed.
#[derive(Debug)]
pub(crate) struct Anatomy {
    size: V3,
    ventricles: f32,
    sulci_mm: f32,
    surface: Noise,
    warp: Noise,
    folds: Noise,
    depth: Noise,
    fine: Noise,
    /// Width of the transition between two tissues: about a voxel.
    edge_mm: f32,
}

/// About the distance to an ellipsoid, negative inside.
fn ellipsoid(p: V3, centre: V3, half: V3) -> f32 {
    let q = sub(p, centre);
    let scaled = [q[0] / half[0], q[1] / half[1], q[2] / half[2]];
    let k = length(scaled);
    let gradient = length([scaled[0] / half[0], scaled[1] / half[1], scaled[2] / half[2]]);
    if gradient > 0.0 { k * (k - 1.0) / gradient } else { -half[0].min(half[1]).min(half[2]) }
}

/// Distance to a segment less a radius that changes evenly from `a` to `b`.
fn capsule(p: V3, a: V3, b: V3, radii: [f32; 2]) -> f32 {
    let (ab, ap) = (sub(b, a), sub(p, a));
    let t = (dot(ap, ab) / dot(ab, ab)).clamp(0.0, 1.0);
    length(sub(ap, scale(ab, t))) - (radii[0] + (radii[1] - radii[0]) * t)
}

/// The smaller distance, rounded where both are about equal.
fn union(a: f32, b: f32, round_mm: f32) -> f32 {
    let h = (round_mm - (a - b).abs()).max(0.0) / round_mm;
    a.min(b) - h * h * round_mm / 4.0
}

impl Anatomy {
    pub(crate) fn new(seed: u64, edge_mm: f32) -> Self {
        let draw = Noise::new(seed, 1);
        Self {
            size: [0, 1, 2].map(|i| draw.uniform(i, 0.92, 1.0)),
            ventricles: draw.uniform(3, 0.75, 1.45),
            sulci_mm: draw.uniform(4, 0.55, 1.1),
            surface: Noise::new(seed, 2),
            warp: Noise::new(seed, 3),
            folds: Noise::new(seed, 4),
            depth: Noise::new(seed, 5),
            fine: Noise::new(seed, 6),
            edge_mm,
        }
    }

    /// Extent of the brain along each axis against the standard head.
    pub(crate) fn size(&self) -> V3 {
        self.size
    }

    fn shrunk(&self, p: V3) -> V3 {
        [p[0] / self.size[0], p[1] / self.size[1], p[2] / self.size[2]]
    }

    /// Distances to cerebrum, cerebellum and brain stem.
    fn parts(&self, p: V3) -> [f32; 3] {
        Self::smooth_parts(add(p, scale(self.surface.vector(scale(p, 1.0 / 34.0)), WAVES_MM)))
    }

    fn smooth_parts(p: V3) -> [f32; 3] {
        // The forehead is narrower than the back of the head.
        let x = p[0] / (1.0 - 0.14 * p[1] / 84.0);
        let q = [x, p[1], p[2]];
        let upper = ellipsoid(q, [0.0, 0.0, 6.0], [66.0, 83.0, 60.0]).max(-20.0 - p[2] - 0.004 * p[1] * p[1]);
        let temporal = ellipsoid([x.abs(), p[1], p[2]], [40.0, 8.0, -24.0], [23.0, 40.0, 22.0]);
        let cerebrum = union(upper, temporal, 10.0);
        let cerebellum = ellipsoid([p[0].abs(), p[1], p[2]], [22.0, -46.0, -40.0], [29.0, 30.0, 22.0]);
        let stem = capsule(p, [0.0, -14.0, -14.0], [0.0, -26.0, -66.0], [15.0, 9.0]);
        [cerebrum, cerebellum, stem]
    }

    /// Distance to the surface of the brain, negative inside.
    pub(crate) fn surface(&self, p: V3) -> f32 {
        let p = self.shrunk(p);
        // Far outside, the waves of the surface need not be known.
        let far = Self::smooth_parts(p).into_iter().fold(f32::MAX, f32::min);
        if far > 5.0 * WAVES_MM {
            return far;
        }
        let [cerebrum, cerebellum, stem] = self.parts(p);
        union(union(cerebrum, cerebellum, 4.0), stem, 5.0)
    }

    /// Distance to the ventricles.
    fn ventricle(&self, p: V3) -> f32 {
        let p = add(p, scale(self.warp.vector(scale(p, 1.0 / 15.0)), 2.5));
        let side = [p[0].abs(), p[1], p[2]];
        let r = self.ventricles;
        let horn = capsule(side, [7.0, 30.0, 6.0], [9.0, 8.0, 15.0], [4.5 * r, 4.5 * r]);
        let body = capsule(side, [9.0, 8.0, 15.0], [12.0, -22.0, 17.0], [4.5 * r, 4.5 * r]);
        let atrium = capsule(side, [12.0, -22.0, 17.0], [26.0, -42.0, 6.0], [5.0 * r, 5.5 * r]);
        let back = capsule(side, [26.0, -42.0, 6.0], [23.0, -58.0, 4.0], [5.0 * r, 2.0 * r]);
        let below = capsule(side, [26.0, -42.0, 6.0], [33.0, -8.0, -18.0], [4.0 * r, 1.5 * r]);
        let lateral = [body, atrium, back, below].into_iter().fold(horn, |a, b| union(a, b, 4.0));
        // A sheet keeps the two sides apart.
        let lateral = lateral.max(1.2 - side[0]);
        let third = ellipsoid(p, [0.0, -6.0, -2.0], [1.6 + 1.2 * r, 13.0, 11.0]);
        let fourth = ellipsoid(p, [0.0, -34.0, -36.0], [6.0 * r, 4.5 * r, 9.0]);
        lateral.min(third).min(fourth)
    }

    /// Distance to the grey nuclei next to the ventricles.
    fn nuclei(p: V3) -> f32 {
        let side = [p[0].abs(), p[1], p[2]];
        let thalamus = ellipsoid(side, [11.0, -10.0, 4.0], [8.5, 14.0, 9.0]);
        let caudate = capsule(side, [13.5, 24.0, 6.0], [17.0, -4.0, 17.0], [6.0, 3.0]);
        let putamen = ellipsoid(side, [25.0, 5.0, 2.0], [5.5, 15.0, 10.0]);
        thalamus.min(caudate).min(putamen)
    }

    /// Tissue at `p`, a place inside the brain.
    pub(crate) fn tissue(&self, p: V3) -> Tissue {
        let p = self.shrunk(p);
        let ramp = |inside_mm: f32| (inside_mm / self.edge_mm + 0.5).clamp(0.0, 1.0);
        let [cerebrum, cerebellum, stem] = self.parts(p);
        let warped = add(p, scale(self.warp.vector(scale(p, 1.0 / 21.0)), 5.0));
        // `cortex` is the distance to the nearest surface of the cortex, outer or in a fold; `thick` its thickness.
        let (cortex, gap, thick) = if cerebrum <= cerebellum && cerebrum <= stem {
            let coarse = self.folds.smooth(scale(warped, 1.0 / 16.0));
            let medium = self.fine.smooth(scale(warped, 1.0 / 8.0));
            let fold = (coarse + 0.3 * medium).abs() * 10.5;
            let reach = 19.0 + 11.0 * self.depth.smooth(scale(p, 1.0 / 26.0));
            let fold = fold + 1.2 * (-cerebrum - reach).max(0.0);
            // The gap between the hemispheres ends at the corpus callosum.
            let callosum = ellipsoid(p, [0.0, -6.0, 4.0], [30.0, 46.0, 24.0]);
            let between = p[0].abs() + 1.5 * (0.8 - callosum).max(0.0);
            ((-cerebrum).min(fold).min(between), self.sulci_mm, 3.4)
        } else if cerebellum <= stem {
            // Leaves of the cerebellum: thin folds about parallel to its upper face.
            let sheets =
                (self.folds.smooth([warped[0] / 24.0, warped[1] / 11.0, warped[2] / 6.5])).abs() * 5.5;
            let sheets = sheets + 0.9 * (-cerebellum - 12.0).max(0.0);
            ((-cerebellum).min(sheets), 0.35, 2.6)
        } else {
            (-stem + 2.5, 1.2, 1.0)
        };
        let mut csf = ramp(gap - cortex);
        let mut grey = ramp(gap + thick - cortex) - csf;
        if cerebrum < -8.0 {
            let nuclei = 0.8 * ramp(-Self::nuclei(p));
            grey = grey.max(nuclei * (1.0 - csf));
        }
        let ventricle = ramp(-self.ventricle(p));
        csf = csf.max(ventricle);
        grey = grey.min(1.0 - csf);
        Tissue { white: 1.0 - csf - grey, grey, csf }
    }
}
