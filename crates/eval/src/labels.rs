//! What label values mean: BraTS conventions, datasets, and guesses from the data.

use glioseg_plan::Labels;
use serde::{Deserialize, Serialize};

use crate::error::EvalError;
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

/// A coding of the tumour's parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Convention {
    /// BraTS until 2022: 1 necrotic core, 2 oedema, 4 enhancing tumour.
    #[serde(rename = "1-2-4")]
    Brats124,
    /// BraTS 2023: 1 necrotic core, 2 oedema, 3 enhancing tumour.
    #[serde(rename = "1-2-3")]
    Brats123,
    /// BraTS after treatment (2024 on): as 1-2-3, and 4 resection cavity.
    #[serde(rename = "1-2-3-4")]
    Brats1234,
    /// nnU-Net's own BraTS coding: 1 oedema, 2 necrotic core, 3 enhancing tumour.
    #[serde(rename = "nnunet")]
    NnUnet,
}

impl Convention {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Brats124, Self::Brats123, Self::Brats1234, Self::NnUnet];

    /// As on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Brats124 => "1-2-4",
            Self::Brats123 => "1-2-3",
            Self::Brats1234 => "1-2-3-4",
            Self::NnUnet => "nnunet",
        }
    }

    /// In words.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Brats124 => "BraTS until 2022 (1 necrotic core, 2 oedema, 4 enhancing tumour)",
            Self::Brats123 => "BraTS 2023 (1 necrotic core, 2 oedema, 3 enhancing tumour)",
            Self::Brats1234 => {
                "BraTS 2024 (1 necrotic core, 2 oedema, 3 enhancing tumour, 4 resection cavity)"
            }
            Self::NnUnet => "nnU-Net's BraTS coding (1 oedema, 2 necrotic core, 3 enhancing tumour)",
        }
    }

    /// Values of necrotic core, oedema, enhancing tumour and resection cavity.
    pub const fn parts(self) -> (u16, u16, u16, Option<u16>) {
        match self {
            Self::Brats124 => (1, 2, 4, None),
            Self::Brats123 => (1, 2, 3, None),
            Self::Brats1234 => (1, 2, 3, Some(4)),
            Self::NnUnet => (2, 1, 3, None),
        }
    }

    /// All values that occur in it, with background, ascending.
    pub fn known(self) -> Vec<u16> {
        let (core, oedema, enhancing, cavity) = self.parts();
        let mut known = vec![0, core, oedema, enhancing];
        known.extend(cavity);
        known.sort_unstable();
        known
    }

    /// The table that takes labels of this convention to those of `to`; values unknown to either stay as they are.
    fn recode(self, to: Self, label: u16) -> u16 {
        let (a, b) = (self.parts(), to.parts());
        match label {
            v if v == a.0 => b.0,
            v if v == a.1 => b.1,
            v if v == a.2 => b.2,
            v => v,
        }
    }
}

impl std::str::FromStr for Convention {
    type Err = EvalError;

    fn from_str(text: &str) -> Result<Self, EvalError> {
        Self::ALL.into_iter().find(|c| c.name() == text).ok_or_else(|| EvalError::UnknownConvention {
            name: text.to_owned(),
            known: Self::ALL.iter().map(|c| c.name().to_owned()).collect(),
        })
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
        let (core, oedema, enhancing, cavity) = convention.parts();
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
    /// [`EvalError::UnknownLabels`] with a guess at the convention.
    pub fn check(&self, found: &[u16], path: &std::path::Path) -> Result<(), EvalError> {
        let unknown: Vec<u16> = found.iter().copied().filter(|v| !self.known.contains(v)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let guess = Convention::ALL
            .into_iter()
            .filter(|&c| Some(c) != self.convention && found.iter().all(|v| c.known().contains(v)))
            .map(|c| c.describe().to_owned())
            .next();
        Err(EvalError::UnknownLabels {
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

/// What the labels of some files say about their coding: which occur, and how much of the surface of labels 1 and 2
/// borders on background.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Labels that occur, ascending.
    pub labels: Vec<u16>,
    /// Faces of voxels of label 1 and of label 2 towards background.
    pub outside: [u64; 2],
}

impl Evidence {
    /// Adds a label map `[z, y, x]` of `shape`; what lies around it is background.
    pub fn add(&mut self, data: &[u16], shape: [usize; 3]) {
        let [_, height, width] = shape;
        for run in data.chunk_by(|a, b| a == b) {
            if let Err(at) = self.labels.binary_search(&run[0]) {
                self.labels.insert(at, run[0]);
            }
        }
        let mut count = |a: u16, b: u16| {
            let (low, high) = (a.min(b), a.max(b));
            if low == 0 && (high == 1 || high == 2) {
                self.outside[usize::from(high) - 1] += 1;
            }
        };
        let (last, slice) = ([shape[0].max(1) - 1, height.max(1) - 1, width.max(1) - 1], width * height);
        for (i, &label) in data.iter().enumerate() {
            let place = [i / slice, i / width % height, i % width];
            for (axis, step) in [slice, width, 1].into_iter().enumerate() {
                count(label, if place[axis] > 0 { data[i - step] } else { 0 });
                if place[axis] == last[axis] {
                    count(label, 0);
                }
            }
        }
    }

    /// The coding, where the evidence is clear: oedema lies around the core, so that its label has the longer border
    /// with background.
    pub fn guess(&self) -> Option<Convention> {
        let has = |v: u16| self.labels.binary_search(&v).is_ok();
        if self.labels.iter().any(|&v| v > 4) || self.labels.iter().all(|&v| v == 0) {
            return None;
        }
        match (has(3), has(4)) {
            (true, true) => Some(Convention::Brats1234),
            (false, true) => Some(Convention::Brats124),
            _ if self.outside[1] > 3 * self.outside[0] => Some(Convention::Brats123),
            _ if self.outside[0] > 3 * self.outside[1] => Some(Convention::NnUnet),
            _ => None,
        }
    }
}

/// The coding of label maps, told from a few of them; `None` where it is not clear.
pub fn guess_convention(files: &[&std::path::Path]) -> Option<Convention> {
    let mut evidence = Evidence::default();
    for map in files.iter().filter_map(|f| glioseg_volume::nifti::read_labels(f).ok()) {
        evidence.add(&map.data, map.shape());
    }
    evidence.guess()
}

/// The coding of predictions that agrees far better with references coded as `reference` than `prediction` does:
/// voxels of labels 1 and 2 that match are compared with those that would match if the two were exchanged.
pub(crate) fn better_coding<'a>(
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
pub(crate) fn recode(data: &mut [u16], from: Convention, to: Convention) {
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

    #[test]
    fn the_outer_label_is_the_oedema() {
        // A cube of 1 inside a cube of 2.
        let mut data = vec![0; 1000];
        for z in 1..9 {
            for y in 1..9 {
                for x in 1..9 {
                    let inner = [z, y, x].iter().all(|v| (3..7).contains(v));
                    data[(z * 10 + y) * 10 + x] = if inner { 1 } else { 2 };
                }
            }
        }
        let guess = |data: &[u16]| {
            let mut evidence = Evidence::default();
            evidence.add(data, [10, 10, 10]);
            evidence.guess()
        };
        assert_eq!(guess(&data), Some(Convention::Brats123));
        recode(&mut data, Convention::Brats123, Convention::NnUnet);
        assert_eq!(guess(&data), Some(Convention::NnUnet));
        data[0] = 4;
        assert_eq!(guess(&data), Some(Convention::Brats124));
        data[1] = 3;
        assert_eq!(guess(&data), Some(Convention::Brats1234));
        data[2] = 9;
        assert_eq!(guess(&data), None);
        assert_eq!(guess(&[0; 1000]), None);
    }
}
