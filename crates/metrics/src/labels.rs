//! What label values mean: BraTS conventions, datasets, and guesses from the data.

use glioseg_plan::{Convention, Labels, TumourParts};
use serde::{Deserialize, Serialize};

use crate::error::MetricsError;
use crate::pair::Pair;

/// A name and the label values that are scored together under it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Region {
    /// Such as `WT`.
    pub name: String,
    /// The values; none means that the region is always empty.
    pub labels: Vec<u16>,
}

impl Region {
    /// A region.
    pub fn new(name: &str, labels: &[u16]) -> Self {
        Self { name: name.to_owned(), labels: labels.to_vec() }
    }
}

/// A class of nnU-Net's `summary.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Class {
    /// A label; its key is the number.
    Label(u16),
    /// A region; its key is a Python tuple.
    Region(Vec<u16>),
}

impl Class {
    /// The key in `summary.json`: `2`, `(1, 2, 3)` or `(3,)`.
    pub fn key(&self) -> String {
        match self {
            Self::Label(value) => value.to_string(),
            Self::Region(values) => {
                let list: Vec<String> = values.iter().map(ToString::to_string).collect();
                if let [one] = &list[..] { format!("({one},)") } else { format!("({})", list.join(", ")) }
            }
        }
    }

    /// The class of a key; `None` if it is neither a number nor a tuple of numbers.
    ///
    /// # Source
    /// nnU-Net v2, `key_to_label_or_region`.
    pub fn from_key(key: &str) -> Option<Self> {
        if let Ok(value) = key.trim().parse() {
            return Some(Self::Label(value));
        }
        let inner = key.trim().strip_prefix('(')?.strip_suffix(')')?;
        let values = inner.split(',').map(str::trim).filter(|v| !v.is_empty());
        values.map(|v| v.parse().ok()).collect::<Option<Vec<_>>>().map(Self::Region)
    }

    /// The label values that belong to it.
    pub fn labels(&self) -> &[u16] {
        match self {
            Self::Label(value) => std::slice::from_ref(value),
            Self::Region(values) => values,
        }
    }
}

/// Everything the rules need to know about the labels of a cohort.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelScheme {
    /// In words, for messages.
    pub name: String,
    /// Classes of nnU-Net's `summary.json`, in order.
    pub classes: Vec<Class>,
    /// Regions of the rules of BraTS 2018 to 2023.
    pub regions: Vec<Region>,
    /// Groups of the rule of BraTS 2026.
    pub groups: Vec<Region>,
    /// Values that may occur, with background and the ignore label, ascending.
    pub known: Vec<u16>,
    /// Value of voxels that are not scored.
    pub ignore: Option<u16>,
    /// The coding, where it is one of BraTS.
    pub convention: Option<Convention>,
}

impl LabelScheme {
    /// The scheme of a BraTS convention.
    pub fn brats(convention: Convention) -> Self {
        let TumourParts { necrosis: core, oedema, enhancing, cavity } = convention.parts();
        let sorted = |mut labels: Vec<u16>| {
            labels.sort_unstable();
            labels
        };
        let (whole, inner) = (sorted(vec![core, oedema, enhancing]), sorted(vec![core, enhancing]));
        let regions =
            vec![Region::new("WT", &whole), Region::new("TC", &inner), Region::new("ET", &[enhancing])];
        let groups = vec![
            Region::new("snfh", &[oedema]),
            Region::new("et", &[enhancing]),
            Region::new("netc", &[core]),
            Region::new("rc", cavity.as_slice()),
            Region::new("tc", &inner),
            Region::new("wt", &whole),
        ];
        let mut classes: Vec<Class> = regions.iter().map(|r| Class::Region(r.labels.clone())).collect();
        classes.extend(cavity.map(|value| Class::Region(vec![value])));
        Self {
            name: convention.describe().to_owned(),
            classes,
            regions,
            groups,
            known: convention.known(),
            ignore: None,
            convention: Some(convention),
        }
    }

    /// Plain labels without names, each scored for itself.
    pub fn plain(labels: &[u16]) -> Self {
        let mut known: Vec<u16> = std::iter::once(0).chain(labels.iter().copied()).collect();
        known.sort_unstable();
        known.dedup();
        let regions: Vec<Region> =
            known.iter().filter(|&&v| v != 0).map(|&v| Region::new(&v.to_string(), &[v])).collect();
        Self {
            name: "the list given".to_owned(),
            classes: regions.iter().map(|r| Class::Label(r.labels[0])).collect(),
            groups: regions.clone(),
            regions,
            known,
            ignore: None,
            convention: None,
        }
    }

    /// The same, but voxels of the reference with this value are not scored.
    #[must_use]
    pub fn ignoring(mut self, value: u16) -> Self {
        self.ignore = Some(value);
        if !self.known.contains(&value) {
            self.known.push(value);
            self.known.sort_unstable();
        }
        self
    }

    /// The scheme of a `dataset.json`. Regions that are those of BraTS get its names; labels of any other dataset are
    /// scored one by one, or region by region, under their own.
    pub fn dataset(labels: &Labels) -> Self {
        let mut known: Vec<u16> = labels.all_labels().to_vec();
        known.extend(labels.ignore_label());
        let named = |name: &str, values: &[u16]| {
            let list: Vec<String> = values.iter().map(ToString::to_string).collect();
            Region {
                name: if name.is_empty() { list.join("+") } else { name.to_owned() },
                labels: values.to_vec(),
            }
        };
        let (classes, regions): (Vec<Class>, Vec<Region>) = if labels.has_regions() {
            labels
                .regions()
                .iter()
                .map(|r| (Class::Region(r.labels.clone()), named(&r.name, &r.labels)))
                .unzip()
        } else {
            labels.foreground().into_iter().map(|(name, v)| (Class::Label(v), named(name, &[v]))).unzip()
        };
        let convention = convention_of(&regions);
        let (regions, groups) = match convention {
            Some(convention) => {
                let scheme = Self::brats(convention);
                (scheme.regions, scheme.groups)
            }
            None => (regions.clone(), regions),
        };
        let name = match convention {
            Some(convention) => format!("the dataset ({})", convention.describe()),
            None => "the dataset".to_owned(),
        };
        Self { name, classes, regions, groups, known, ignore: labels.ignore_label(), convention }
    }

    /// Refuses labels that the scheme does not know; `found` are the labels of `path`.
    ///
    /// # Errors
    /// [`MetricsError::UnknownLabels`] with a guess at the convention.
    pub fn check(&self, found: &[u16], path: &std::path::Path) -> Result<(), MetricsError> {
        let unknown: Vec<u16> = found.iter().copied().filter(|v| !self.known.contains(v)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let guess = Convention::ALL
            .into_iter()
            .filter(|&c| Some(c) != self.convention && found.iter().all(|v| c.known().contains(v)))
            .map(|c| c.describe().to_owned())
            .next();
        Err(MetricsError::UnknownLabels {
            path: path.to_owned(),
            unknown: unknown.into(),
            scheme: self.name.clone(),
            known: self.known.clone().into(),
            guess,
        })
    }
}

/// The BraTS coding whose whole tumour, core and enhancing tumour are among `regions`.
fn convention_of(regions: &[Region]) -> Option<Convention> {
    let sets: Vec<Vec<u16>> = regions
        .iter()
        .map(|r| {
            let mut labels = r.labels.clone();
            labels.sort_unstable();
            labels
        })
        .collect();
    // 1-2-3-4 has the regions of 1-2-3, so that it is never told apart here; a dataset with a cavity names it itself.
    [Convention::Brats124, Convention::Brats123, Convention::NnUnet].into_iter().find(|&convention| {
        let wanted = LabelScheme::brats(convention).regions;
        sets.len() == wanted.len() && wanted.iter().all(|w| sets.contains(&w.labels))
    })
}

/// The coding of predictions that agrees far better with references coded as `reference` than `prediction` does:
/// voxels of labels 1 and 2 that match are compared with those that would match if the two were exchanged.
pub fn better_coding<'a>(
    pairs: impl Iterator<Item = &'a Pair>,
    reference: Convention,
    prediction: Convention,
) -> Option<(Convention, u64, u64)> {
    let other = match prediction {
        Convention::Brats123 => Convention::NnUnet,
        Convention::NnUnet => Convention::Brats123,
        Convention::Brats124 | Convention::Brats1234 => return None,
    };
    let (mut as_given, mut as_other) = (0, 0);
    for pair in pairs {
        for (r, p, count) in pair.table() {
            if p == 1 || p == 2 {
                as_given += u64::from(prediction.recode(reference, p) == r) * count;
                as_other += u64::from(other.recode(reference, p) == r) * count;
            }
        }
    }
    (as_other > 3 * as_given && as_other > 1000).then_some((other, as_given, as_other))
}

/// Recodes a label map in place.
pub fn recode(data: &mut [u16], from: Convention, to: Convention) {
    if from == to {
        return;
    }
    for value in data {
        *value = from.recode(to, *value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use glioseg_diagnose::Diagnose as _;

    #[test]
    fn keys_are_those_of_nnunet() {
        for (class, key) in [
            (Class::Label(2), "2"),
            (Class::Region(vec![1, 2, 3]), "(1, 2, 3)"),
            (Class::Region(vec![3]), "(3,)"),
        ] {
            assert_eq!(class.key(), key);
            assert_eq!(Class::from_key(key), Some(class));
        }
        assert_eq!(Class::from_key("tumour"), None);
        assert_eq!(Class::from_key("(1, x)"), None);
    }

    #[test]
    fn regions_follow_the_convention() {
        let labels = |c| LabelScheme::brats(c).regions.into_iter().map(|r| r.labels).collect::<Vec<_>>();
        assert_eq!(labels(Convention::Brats124), [vec![1, 2, 4], vec![1, 4], vec![4]]);
        assert_eq!(labels(Convention::NnUnet), [vec![1, 2, 3], vec![2, 3], vec![3]]);
        assert_eq!(labels(Convention::Brats1234), [vec![1, 2, 3], vec![1, 3], vec![3]]);
    }

    #[test]
    fn strange_labels_are_refused_with_a_guess() {
        let scheme = LabelScheme::brats(Convention::NnUnet);
        assert!(scheme.check(&[0, 1, 3], std::path::Path::new("a.nii.gz")).is_ok());
        let error = scheme.check(&[0, 1, 2, 4], std::path::Path::new("a.nii.gz")).expect_err("4 is unknown");
        assert!(error.to_string().contains("a.nii.gz holds the label 4"), "{error}");
        assert!(error.hint().is_some_and(|h| h.contains("BraTS until 2022")), "{:?}", error.hint());
        let error = scheme.check(&[0, 700], std::path::Path::new("a.nii.gz")).expect_err("700 is unknown");
        assert!(error.hint().is_some_and(|h| h.contains("--dataset")), "{:?}", error.hint());
    }
}
