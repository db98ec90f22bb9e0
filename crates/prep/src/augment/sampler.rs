//! Which case, and where in it: nnU-Net's choice of patches.
//!
//! nnU-Net v1 lets a loader's margin grow for good when it meets a case smaller than the patch. That is an accident of
//! its loader processes; here every case has its own margin.

use super::random::PatchRng;
use super::spatial::crop_channels;
use super::{AugmentError, Patch};
use std::path::PathBuf;

/// Locations of one class of a case: a label, a region, or everything annotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassSummary {
    /// All labels that are not ignored, kept for datasets with an ignore label.
    pub annotated: bool,
    /// Locations that were stored.
    pub voxels: usize,
}

/// Why a case could not be read.
#[derive(Debug)]
pub struct CaseError {
    /// The file, where there is one.
    pub file: Option<PathBuf>,
    /// Why.
    pub cause: Box<dyn std::error::Error + Send + Sync>,
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for CaseError {
    fn from(error: E) -> CaseError {
        CaseError { file: None, cause: Box::new(error) }
    }
}

/// The cases that patches are taken from; `case` counts from 0.
pub trait Cases: Send + Sync {
    /// How many there are.
    fn count(&self) -> usize;

    /// The name of a case.
    fn name(&self, case: usize) -> &str;

    /// Voxels per axis.
    ///
    /// # Errors
    /// If the case cannot be read.
    fn shape(&self, case: usize) -> Result<[usize; 3], CaseError>;

    /// The classes that have stored locations, in a fixed order.
    ///
    /// # Errors
    /// If the case cannot be read.
    fn classes(&self, case: usize) -> Result<Vec<ClassSummary>, CaseError>;

    /// One stored location `[z, y, x]` of a class.
    ///
    /// # Errors
    /// If the case cannot be read.
    fn class_voxel(&self, case: usize, class: usize, index: usize) -> Result<[usize; 3], CaseError>;

    /// A box of image and segmentation that may reach outside the case: there the image is 0, the segmentation -1.
    ///
    /// # Errors
    /// If the case cannot be read.
    fn read_box(&self, case: usize, start: [isize; 3], size: [usize; 3]) -> Result<Patch, CaseError>;
}

impl Patch {
    /// A box that may reach outside: there the image is 0, the segmentation -1.
    #[must_use]
    pub fn cut(&self, start: [isize; 3], size: [usize; 3]) -> Patch {
        let mut out = Patch { shape: size, data: Vec::new(), seg: Vec::new() };
        crop_channels(&self.data, self.shape, start, size, 0.0, &mut out.data);
        crop_channels(&self.seg, self.shape, start, size, -1, &mut out.seg);
        out
    }
}

/// Which patches of a batch must show foreground.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Oversampling {
    /// The last ones of every batch: this fraction, rounded as nnU-Net rounds it.
    Last(f64),
    /// Each with this probability.
    Random(f64),
}

impl Oversampling {
    /// nnU-Net's.
    pub const DEFAULT: Oversampling = Oversampling::Last(0.33);

    /// Whether patch `index` of a batch of `batch_size` must show foreground.
    ///
    /// # Source
    /// nnU-Net v2, `_oversample_last_XX_percent` and `_probabilistic_oversampling`.
    pub fn forced(self, index: usize, batch_size: usize, rng: &mut PatchRng) -> bool {
        match self {
            Oversampling::Last(fraction) => {
                index >= (batch_size as f64 * (1.0 - fraction)).round_ties_even() as usize
            }
            Oversampling::Random(fraction) => rng.chance(fraction),
        }
    }
}

/// Where the lower corner of a patch may lie, per axis, both ends included.
///
/// `load` is the shape that is loaded, `patch` the final one: what is loaded may reach outside the case so far that the
/// final patch just does not, and further where the case is smaller than what is loaded.
///
/// # Source
/// nnU-Net v2, `nnUNetDataLoader.get_bbox`.
pub fn corner_range(case: [usize; 3], load: [usize; 3], patch: [usize; 3]) -> [(isize, isize); 3] {
    [0, 1, 2].map(|a| {
        let (s, p) = (case[a] as isize, load[a] as isize);
        let need = (p - patch[a] as isize).max(p - s);
        (-(need + 1).div_euclid(2), s + need.div_euclid(2) + need.rem_euclid(2) - p)
    })
}

/// What a patch must show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// Anything.
    Nothing,
    /// Something annotated (datasets with an ignore label).
    Annotated,
    /// Foreground.
    Foreground,
}

/// The lower corner of a patch: at random, or so that a random location of a random class is at its centre.
///
/// A forced patch is not kept from reaching past the upper end, as in nnU-Net; what is outside is padded.
///
/// # Errors
/// If the case cannot be read.
///
/// # Source
/// nnU-Net v2, `nnUNetDataLoader.get_bbox`.
pub fn choose_corner(
    cases: &(impl Cases + ?Sized),
    case: usize,
    load: [usize; 3],
    patch: [usize; 3],
    demand: Demand,
    rng: &mut PatchRng,
) -> Result<[isize; 3], CaseError> {
    let range = corner_range(cases.shape(case)?, load, patch);
    let class = match demand {
        Demand::Nothing => None,
        Demand::Annotated => {
            let found = cases.classes(case)?.into_iter().enumerate();
            found.into_iter().find(|(_, c)| c.annotated && c.voxels > 0)
        }
        Demand::Foreground => {
            let mut found: Vec<_> =
                cases.classes(case)?.into_iter().enumerate().filter(|(_, c)| c.voxels > 0).collect();
            if found.len() > 1 {
                found.retain(|(_, c)| !c.annotated);
            }
            if found.is_empty() { None } else { Some(found[rng.below(found.len())]) }
        }
    };
    let Some((class, summary)) = class else {
        return Ok(range.map(|(low, high)| rng.between(low, high)));
    };
    let voxel = cases.class_voxel(case, class, rng.below(summary.voxels))?;
    Ok([0, 1, 2].map(|a| range[a].0.max(voxel[a] as isize - (load[a] / 2) as isize)))
}

/// Adds the case to what went wrong.
pub(super) fn read_error(name: &str, error: CaseError) -> AugmentError {
    AugmentError::Read { case: name.into(), file: error.file, cause: error.cause }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Locations of a class, and whether it is everything annotated.
    type Class = (bool, Vec<[usize; 3]>);

    /// Cases in memory, with their classes.
    pub(in crate::augment) struct Memory(pub Vec<(Patch, Vec<Class>)>);

    impl Cases for Memory {
        fn count(&self) -> usize {
            self.0.len()
        }
        fn name(&self, case: usize) -> &str {
            ["first", "second", "third"][case]
        }
        fn shape(&self, case: usize) -> Result<[usize; 3], CaseError> {
            Ok(self.0[case].0.shape)
        }
        fn classes(&self, case: usize) -> Result<Vec<ClassSummary>, CaseError> {
            let summary = |c: &(bool, Vec<_>)| ClassSummary { annotated: c.0, voxels: c.1.len() };
            Ok(self.0[case].1.iter().map(summary).collect())
        }
        fn class_voxel(&self, case: usize, class: usize, index: usize) -> Result<[usize; 3], CaseError> {
            Ok(self.0[case].1[class].1[index])
        }
        fn read_box(&self, case: usize, start: [isize; 3], size: [usize; 3]) -> Result<Patch, CaseError> {
            Ok(self.0[case].0.cut(start, size))
        }
    }

    fn empty(shape: [usize; 3]) -> Patch {
        let n: usize = shape.iter().product();
        Patch::new(shape, vec![0.0; n], vec![0; n]).expect("fits")
    }

    #[test]
    fn the_last_third_of_a_batch_is_forced() {
        let forced = |batch: usize| -> Vec<usize> {
            let mut rng = PatchRng::new(0, 0, 0);
            (0..batch).filter(|&i| Oversampling::DEFAULT.forced(i, batch, &mut rng)).collect()
        };
        assert_eq!(forced(1), [0; 0]);
        assert_eq!(forced(2), [1]);
        assert_eq!(forced(3), [2]);
        assert_eq!(forced(4), [3]);
        assert_eq!(forced(5), [3, 4]);
        let mut rng = PatchRng::new(0, 0, 0);
        let often = (0..9000).filter(|_| Oversampling::Random(0.33).forced(0, 2, &mut rng)).count();
        assert!(often.abs_diff(2970) < 230, "{often}");
    }

    #[test]
    fn corners_range_as_in_nnunet() {
        // get_bbox of nnU-Net 2.8.1 for shapes (140, 60, 100), loaded (205, 205, 20), patch (128, 128, 20).
        let range = corner_range([140, 60, 100], [205, 205, 20], [128, 128, 20]);
        assert_eq!(range, [(-39, -26), (-73, -72), (0, 80)]);
        assert_eq!(corner_range([16, 30, 9], [17, 18, 19], [12, 13, 12]), [(-3, 2), (-3, 15), (-5, -5)]);
        // A slice of a 2d configuration is any slice.
        assert_eq!(corner_range([7, 60, 60], [1, 40, 40], [1, 32, 32])[0], (0, 6));
    }

    #[test]
    fn forced_patches_centre_a_voxel_of_any_class_alike() {
        let classes = vec![
            (false, vec![[30, 31, 32]; 3]),
            (false, vec![]),
            (false, vec![[1, 39, 20]]),
            (true, vec![[5, 5, 5]]),
        ];
        let cases = Memory(vec![(empty([40; 3]), classes)]);
        let mut rng = PatchRng::new(1, 0, 0);
        let mut first = 0;
        for _ in 0..2000 {
            let corner =
                choose_corner(&cases, 0, [16; 3], [10; 3], Demand::Foreground, &mut rng).expect("reads");
            if corner == [22, 23, 24] {
                first += 1;
            } else {
                // Clamped below, free above.
                assert_eq!(corner, [-3, 31, 12]);
            }
        }
        assert!((900..1100).contains(&first), "{first} of 2000");
        let corner = choose_corner(&cases, 0, [16; 3], [10; 3], Demand::Annotated, &mut rng).expect("reads");
        assert_eq!(corner, [-3, -3, -3]);
    }

    #[test]
    fn without_foreground_any_corner_is_as_likely() {
        let cases = Memory(vec![(empty([6, 4, 5]), vec![(true, vec![])])]);
        for demand in [Demand::Nothing, Demand::Annotated, Demand::Foreground] {
            let mut rng = PatchRng::new(2, 0, 0);
            let mut seen = [0usize; 5];
            for _ in 0..5000 {
                let corner = choose_corner(&cases, 0, [4, 4, 4], [4, 4, 4], demand, &mut rng).expect("reads");
                assert_eq!(corner[1], 0);
                assert!((0..=1).contains(&corner[2]));
                seen[corner[0] as usize] += 1;
            }
            assert!(seen[..3].iter().all(|c| c.abs_diff(1667) < 180), "{seen:?}");
        }
    }

    #[test]
    fn only_the_annotated_class_serves_if_there_is_no_other() {
        let cases = Memory(vec![(empty([6, 6, 6]), vec![(false, vec![]), (true, vec![[4, 4, 4]])])]);
        let mut rng = PatchRng::new(2, 0, 0);
        let corner = choose_corner(&cases, 0, [2; 3], [2; 3], Demand::Foreground, &mut rng).expect("reads");
        assert_eq!(corner, [3, 3, 3]);
    }
}
