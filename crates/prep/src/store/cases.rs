//! Prepared cases as the sampler of patches sees them.

use super::{PatchBox, StoreError, StoredCase};
use crate::augment::{CaseError, Cases, ClassSummary, Patch};

/// Prepared cases to take patches from, in the order given.
#[derive(Debug, Clone)]
pub struct StoredCases(pub Vec<StoredCase>);

impl StoredCases {
    /// The cases named, in that order.
    ///
    /// # Errors
    /// The first name that none of `cases` has.
    pub fn named<S: AsRef<str>>(cases: &[StoredCase], names: &[S]) -> Result<StoredCases, String> {
        let find = |name: &S| {
            let found = cases.iter().find(|case| case.name() == name.as_ref());
            found.cloned().ok_or_else(|| name.as_ref().to_owned())
        };
        Ok(StoredCases(names.iter().map(find).collect::<Result<_, _>>()?))
    }
}

fn failed(case: &StoredCase, error: StoreError) -> CaseError {
    CaseError { file: Some(case.path().to_owned()), cause: Box::new(error) }
}

impl Cases for StoredCases {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn name(&self, case: usize) -> &str {
        self.0[case].name()
    }

    fn shape(&self, case: usize) -> Result<[usize; 3], CaseError> {
        Ok(self.0[case].shape())
    }

    fn classes(&self, case: usize) -> Result<Vec<ClassSummary>, CaseError> {
        let case = &self.0[case];
        let summary = |class| ClassSummary {
            // Only the annotated part of a dataset with an ignore label lists what lies outside the image.
            annotated: case.class_labels(class).first() == Some(&-1),
            voxels: case.class_count(class),
        };
        Ok((0..case.num_classes()).map(summary).collect())
    }

    fn class_voxel(&self, case: usize, class: usize, index: usize) -> Result<[usize; 3], CaseError> {
        let case = &self.0[case];
        case.class_voxel(class, index).map_err(|e| failed(case, e))
    }

    fn read_box(&self, case: usize, start: [isize; 3], size: [usize; 3]) -> Result<Patch, CaseError> {
        let case = &self.0[case];
        let voxels: usize = size.iter().product();
        let mut patch =
            Patch { shape: size, data: vec![0.0; case.channels() * voxels], seg: vec![0; voxels] };
        case.read_box(PatchBox { start, size }, &mut patch.data, &mut patch.seg)
            .map_err(|e| failed(case, e))?;
        if let Some(previous) = case.previous() {
            patch.seg.resize(2 * voxels, -1);
            let read = previous.read_box(start, size, &mut patch.seg[voxels..]);
            read.map_err(|e| CaseError { file: Some(previous.path().to_owned()), cause: Box::new(e) })?;
        }
        Ok(patch)
    }
}
