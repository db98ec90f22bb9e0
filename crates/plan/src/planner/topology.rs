//! How often each axis is pooled, and with which kernels.

/// The least size of a feature map along an axis that is pooled.
const MIN_EDGE: f64 = 4.0;

/// Strides and kernels of a U-Net for a patch, and the patch padded so that it can be pooled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Topology {
    /// Stride at the entry of every stage; the first is all ones.
    pub strides: Vec<Vec<usize>>,
    /// Kernel of every stage.
    pub kernels: Vec<Vec<usize>>,
    /// The patch, padded up to a multiple of `divisor`.
    pub patch: Vec<usize>,
    /// 2 to the power of the poolings along every axis.
    pub divisor: Vec<usize>,
}

impl Topology {
    /// The topology for a patch of `size` voxels (which may be halves) of `spacing_mm`.
    ///
    /// # Source
    /// nnU-Net v2, `get_pool_and_conv_props` with a minimum of 4 and no maximum.
    pub(crate) fn of(spacing_mm: &[f64], size: &[f64]) -> Topology {
        let dim = spacing_mm.len();
        let (mut spacing, mut now) = (spacing_mm.to_vec(), size.to_vec());
        let mut poolings = vec![0u32; dim];
        let mut kernel = vec![1; dim];
        let (mut strides, mut kernels) = (vec![vec![1; dim]], Vec::new());
        loop {
            let large: Vec<usize> = (0..dim).filter(|&a| now[a] >= 2.0 * MIN_EDGE).collect();
            let finest = large.iter().map(|&a| spacing[a]).fold(f64::INFINITY, f64::min);
            let pooled: Vec<usize> = large.into_iter().filter(|&a| spacing[a] / finest < 2.0).collect();
            match pooled[..] {
                [] => break,
                [only] if now[only] < 3.0 * MIN_EDGE => break,
                _ => {}
            }
            let finest = spacing.iter().copied().fold(f64::INFINITY, f64::min);
            for a in 0..dim {
                if spacing[a] / finest < 2.0 {
                    kernel[a] = 3;
                }
            }
            kernels.push(kernel.clone());
            strides.push((0..dim).map(|a| if pooled.contains(&a) { 2 } else { 1 }).collect());
            for a in pooled {
                poolings[a] += 1;
                spacing[a] *= 2.0;
                now[a] = (now[a] / 2.0).ceil();
            }
        }
        kernels.push(vec![3; dim]);
        let divisor: Vec<usize> = poolings.iter().map(|&p| 1usize << p).collect();
        let pad = |a: usize| {
            let divisor = divisor[a] as f64;
            let rest = size[a] % divisor;
            (if rest == 0.0 { size[a] } else { size[a] + divisor - rest }) as usize
        };
        let patch = (0..dim).map(pad).collect();
        Topology { strides, kernels, patch, divisor }
    }

    /// Number of stages, the bottleneck included.
    pub(crate) fn stages(&self) -> usize {
        self.strides.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Case {
        spacing: &'static [f64],
        patch: &'static [f64],
        poolings: &'static [u32],
        strides: &'static [[usize; 3]],
        thin_kernels: usize,
        padded: &'static [usize],
    }

    #[test]
    fn topologies_are_those_of_nnunet() {
        const ALL: [usize; 3] = [2, 2, 2];
        const FLAT: [usize; 3] = [1, 2, 2];
        let cases = [
            Case {
                spacing: &[1.0, 1.0, 1.0],
                patch: &[140.0, 171.0, 137.0],
                poolings: &[5, 5, 5],
                strides: &[ALL, ALL, ALL, ALL, ALL],
                thin_kernels: 0,
                padded: &[160, 192, 160],
            },
            Case {
                spacing: &[3.6, 0.625, 0.625],
                patch: &[20.0, 320.0, 319.0],
                poolings: &[2, 6, 6],
                strides: &[FLAT, FLAT, ALL, ALL, FLAT, FLAT],
                thin_kernels: 2,
                padded: &[20, 320, 320],
            },
            Case {
                spacing: &[10.0, 1.5625, 1.5625],
                patch: &[9.0, 256.0, 216.0],
                poolings: &[1, 5, 5],
                strides: &[FLAT, FLAT, ALL, FLAT, FLAT],
                thin_kernels: 2,
                padded: &[10, 256, 224],
            },
            Case {
                spacing: &[3.0, 0.8, 0.8],
                patch: &[40.0, 192.0, 192.0],
                poolings: &[3, 5, 5],
                strides: &[FLAT, ALL, ALL, ALL, FLAT],
                thin_kernels: 1,
                padded: &[40, 192, 192],
            },
            Case {
                spacing: &[2.5, 0.76, 0.76],
                patch: &[28.0, 256.0, 256.0],
                poolings: &[2, 6, 6],
                strides: &[FLAT, ALL, ALL, FLAT, FLAT, FLAT],
                thin_kernels: 1,
                padded: &[28, 256, 256],
            },
        ];
        for case in &cases {
            let t = Topology::of(case.spacing, case.patch);
            assert_eq!(t.strides[0], [1, 1, 1], "{case:?}");
            assert_eq!(t.strides[1..], *case.strides, "{case:?}");
            let divisor: Vec<usize> = case.poolings.iter().map(|&p| 1 << p).collect();
            assert_eq!(t.divisor, divisor, "{case:?}");
            assert_eq!(t.patch, case.padded, "{case:?}");
            assert_eq!(t.kernels.len(), t.stages(), "{case:?}");
            let thin = t.kernels.iter().take_while(|k| **k == [1, 3, 3]).count();
            assert_eq!(thin, case.thin_kernels, "{case:?}");
            assert!(t.kernels[thin..].iter().all(|k| *k == [3, 3, 3]), "{case:?}");
        }
    }

    #[test]
    fn a_2d_patch_is_pooled_along_both_axes() {
        let t = Topology::of(&[1.0, 1.0], &[171.0, 137.0]);
        assert_eq!(t.strides[1..], vec![vec![2, 2]; 5]);
        assert_eq!(t.kernels, vec![vec![3, 3]; 6]);
        assert_eq!(t.patch, [192, 160]);
    }

    #[test]
    fn a_small_patch_is_not_pooled() {
        let t = Topology::of(&[1.0, 1.0, 1.0], &[7.0, 4.0, 3.0]);
        assert_eq!((t.strides, t.kernels), (vec![vec![1; 3]], vec![vec![3; 3]]));
        assert_eq!(t.patch, [7, 4, 3]);
    }
}
