//! What label values of a brain tumour mean: the codings of BraTS, the parts of a tumour, and guesses from the data.

use serde::{Deserialize, Serialize};

use crate::{Dataset, Labels, PlanError};

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

    /// The challenges that stand for one, for messages.
    const YEARS: [&str; 3] = ["brats2018 to brats2022", "brats2023", "brats2024"];

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
    pub const fn parts(self) -> TumourParts {
        let (necrosis, oedema, enhancing, cavity) = match self {
            Self::Brats124 => (1, 2, 4, None),
            Self::Brats123 => (1, 2, 3, None),
            Self::Brats1234 => (1, 2, 3, Some(4)),
            Self::NnUnet => (2, 1, 3, None),
        };
        TumourParts { necrosis, oedema, enhancing, cavity }
    }

    /// All values that occur in it, with background, ascending.
    pub fn known(self) -> Vec<u16> {
        let TumourParts { necrosis, oedema, enhancing, cavity } = self.parts();
        let mut known = vec![0, necrosis, oedema, enhancing];
        known.extend(cavity);
        known.sort_unstable();
        known
    }

    /// A label of this convention in that of `to`; values unknown to this one stay as they are.
    pub const fn recode(self, to: Self, label: u16) -> u16 {
        let (a, b) = (self.parts(), to.parts());
        match label {
            v if v == a.necrosis => b.necrosis,
            v if v == a.oedema => b.oedema,
            v if v == a.enhancing => b.enhancing,
            v => v,
        }
    }
}

impl std::str::FromStr for Convention {
    type Err = PlanError;

    /// A coding by its name, or by the challenge that used it: `brats2021`, `BraTS-2021`, `2021`; `brats` alone is the one until 2022.
    fn from_str(text: &str) -> Result<Self, PlanError> {
        let plain = text.trim().to_lowercase();
        if let Some(found) = Self::ALL.into_iter().find(|c| c.name() == plain) {
            return Ok(found);
        }
        let year = plain
            .strip_prefix("brats")
            .map_or(plain.as_str(), |year| year.trim_start_matches(['-', '_', ' ']));
        match year {
            "" if !plain.is_empty() => Ok(Self::Brats124),
            "2018" | "2019" | "2020" | "2021" | "2022" => Ok(Self::Brats124),
            "2023" => Ok(Self::Brats123),
            "2024" => Ok(Self::Brats1234),
            _ => Err(PlanError::UnknownConvention {
                name: text.to_owned(),
                known: Self::ALL.iter().map(|c| c.name()).chain(Self::YEARS).map(str::to_owned).collect(),
            }),
        }
    }
}

/// Label values of the parts of a tumour, whatever the coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TumourParts {
    /// Necrotic and non-enhancing core.
    pub necrosis: u16,
    /// Oedema.
    pub oedema: u16,
    /// Enhancing tumour.
    pub enhancing: u16,
    /// Resection cavity, where the coding has one.
    pub cavity: Option<u16>,
}

impl TumourParts {
    /// The parts that a dataset labels, told from its regions or, where it has plain labels, from their names.
    ///
    /// Regions tell by inclusion: the whole tumour has three labels, the core two of them and the enhancing tumour one
    /// of these; a region of one label apart from them is the resection cavity.
    ///
    /// # Errors
    /// [`PlanError::TumourParts`] with the reason. The names in a `dataset.json` of nnU-Net v1 are not trusted: the
    /// BraTS 2021 winner's gives the names of oedema and necrotic core to each other's values.
    pub fn of(dataset: &Dataset) -> Result<Self, PlanError> {
        let refused = |reason: String| PlanError::TumourParts { reason };
        let labels = &dataset.labels;
        if labels.has_regions() {
            return Self::of_regions(labels).ok_or_else(|| {
                let regions: Vec<String> =
                    labels.regions().iter().map(|r| format!("{} {:?}", r.name, r.labels)).collect();
                refused(format!(
                    "the regions {} are not whole tumour, tumour core and enhancing tumour, each within the one before",
                    regions.join(", ")
                ))
            });
        }
        if dataset.raw.get("channel_names").is_none() {
            return Err(refused(
                "a dataset.json of nnU-Net v1 names labels, but its names are not reliable".into(),
            ));
        }
        Self::of_names(labels).map_err(refused)
    }

    fn of_regions(labels: &Labels) -> Option<Self> {
        let regions: Vec<&[u16]> = labels.regions().iter().map(|r| r.labels.as_slice()).collect();
        let only = |found: Vec<&[u16]>| if let [one] = found[..] { Some(one.to_vec()) } else { None };
        let within = |inner: &[u16], outer: &[u16]| inner.iter().all(|v| outer.contains(v));
        let of_size = |n: usize| regions.iter().copied().filter(move |r| r.len() == n);
        let whole = only(of_size(3).collect())?;
        let core = only(of_size(2).filter(|r| within(r, &whole)).collect())?;
        let enhancing = only(of_size(1).filter(|r| within(r, &core)).collect())?;
        let apart: Vec<&[u16]> = of_size(1).filter(|r| !within(r, &whole)).collect();
        if regions.len() != 3 + apart.len() || apart.len() > 1 {
            return None;
        }
        Some(Self {
            necrosis: *core.iter().find(|v| !enhancing.contains(v))?,
            oedema: *whole.iter().find(|v| !core.contains(v))?,
            enhancing: enhancing[0],
            cavity: apart.first().map(|r| r[0]),
        })
    }

    fn of_names(labels: &Labels) -> Result<Self, String> {
        let mut found: [Option<u16>; 4] = [None; 4];
        for (name, value) in labels.foreground() {
            let plain: String =
                name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
            let has = |word: &str| plain.contains(word);
            let part = match plain.as_str() {
                "ncr" | "net" | "netc" | "ncrnet" => 0,
                _ if has("necro") || (has("non") && has("enhanc")) => 0,
                "ed" | "snfh" => 1,
                _ if has("edema") || has("flairhyper") => 1,
                "et" | "at" => 2,
                _ if has("enhanc") => 2,
                "rc" => 3,
                _ if has("resection") || has("cavity") => 3,
                _ => return Err(format!("label {value} (`{name}`) is not part of a tumour by its name")),
            };
            if let Some(first) = found[part].replace(value) {
                return Err(format!("labels {first} and {value} have names of the same part of a tumour"));
            }
        }
        if let [Some(necrosis), Some(oedema), Some(enhancing), cavity] = found {
            return Ok(Self { necrosis, oedema, enhancing, cavity });
        }
        let names = ["necrotic core", "oedema", "enhancing tumour"];
        let missing: Vec<&str> =
            names.into_iter().zip(found).filter(|(_, v)| v.is_none()).map(|(n, _)| n).collect();
        Err(format!("no label is named {}", missing.join(", nor ")))
    }

    /// Every part's value here and in `to`, background included.
    ///
    /// # Errors
    /// [`PlanError::TumourParts`] if there is a resection cavity here, but not in `to`.
    pub fn recoding(&self, to: &Self) -> Result<Vec<(u16, u16)>, PlanError> {
        let mut table = vec![
            (0, 0),
            (self.necrosis, to.necrosis),
            (self.oedema, to.oedema),
            (self.enhancing, to.enhancing),
        ];
        match (self.cavity, to.cavity) {
            (Some(from), Some(to)) => table.push((from, to)),
            (Some(from), None) => {
                return Err(PlanError::TumourParts {
                    reason: format!(
                        "label {from} is a resection cavity, which the other coding does not have"
                    ),
                });
            }
            (None, _) => {}
        }
        Ok(table)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outer_label_is_the_oedema() {
        // A cube of 1 inside a cube of 2.
        let mut data = [0; 1000];
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
        let mut data = data.map(|v| Convention::Brats123.recode(Convention::NnUnet, v));
        assert_eq!(guess(&data), Some(Convention::NnUnet));
        data[0] = 4;
        assert_eq!(guess(&data), Some(Convention::Brats124));
        data[1] = 3;
        assert_eq!(guess(&data), Some(Convention::Brats1234));
        data[2] = 9;
        assert_eq!(guess(&data), None);
        assert_eq!(guess(&[0; 1000]), None);
    }

    #[test]
    fn a_coding_is_also_named_by_its_challenge() {
        use Convention::{Brats123, Brats124, Brats1234, NnUnet};
        for (text, expected) in [
            ("brats2021", Brats124),
            ("BraTS2018", Brats124),
            ("brats-2022", Brats124),
            ("2020", Brats124),
            ("brats", Brats124),
            ("1-2-4", Brats124),
            ("brats2023", Brats123),
            ("2024", Brats1234),
            ("BraTS_2024", Brats1234),
            ("nnU-Net".to_lowercase().replace('-', "").as_str(), NnUnet),
        ] {
            assert_eq!(text.parse::<Convention>().expect(text), expected, "{text}");
        }
        for text in ["", "brats2016", "2030", "brats21x", "dataset"] {
            let error = text.parse::<Convention>().expect_err(text).to_string();
            assert!(error.contains("1-2-4") && error.contains("brats2018 to brats2022"), "{error}");
        }
    }

    fn dataset(labels: &str) -> Dataset {
        let text = format!(r#"{{"channel_names": {{"0": "T1"}}, "file_ending": ".nii.gz", {labels}}}"#);
        Dataset::parse(text.as_bytes(), std::path::Path::new("dataset.json")).expect("a dataset")
    }

    #[test]
    fn parts_of_the_tumour_follow_from_regions_in_any_order_or_from_names() {
        let parts = |labels: &str| TumourParts::of(&dataset(labels)).map_err(|e| e.to_string());
        let nnunet = r#""labels": {"background": 0, "a": [1, 2, 3], "b": [2, 3], "c": 3}, "regions_class_order": [1, 2, 3]"#;
        assert_eq!(parts(nnunet), Ok(Convention::NnUnet.parts()));
        let brats = r#""labels": {"background": 0, "ET": 3, "RC": 4, "WT": [3, 1, 2], "TC": [1, 3]}, "regions_class_order": [3, 4, 2, 1]"#;
        assert_eq!(parts(brats), Ok(Convention::Brats1234.parts()));
        let names = r#""labels": {"background": 0, "NETC": 1, "SNFH": 2, "ET": 3, "RC": 4}"#;
        assert_eq!(parts(names), Ok(Convention::Brats1234.parts()));
        let names =
            r#""labels": {"background": 0, "edema": 1, "non-enhancing tumor": 2, "enhancing tumour": 3}"#;
        assert_eq!(parts(names), Ok(Convention::NnUnet.parts()));
        let error = parts(r#""labels": {"background": 0, "edema": 1, "ET": 2}"#).expect_err("no core");
        assert!(error.contains("no label is named necrotic core"), "{error}");
        let error = parts(r#""labels": {"background": 0, "liver": 1}"#).expect_err("no tumour");
        assert!(error.contains("label 1 (`liver`) is not part of a tumour"), "{error}");
        let odd = r#""labels": {"background": 0, "WT": [1, 2, 3], "ET": 3}, "regions_class_order": [1, 3]"#;
        let error = parts(odd).expect_err("no core");
        assert!(error.contains("the regions WT [1, 2, 3], ET [3] are not whole tumour"), "{error}");
    }

    #[test]
    fn a_cavity_has_no_place_in_a_coding_without_one() {
        let post = Convention::Brats1234.parts();
        let error = post.recoding(&Convention::Brats124.parts()).expect_err("4 is the enhancing tumour");
        assert!(error.to_string().contains("label 4 is a resection cavity"), "{error}");
        let table = Convention::NnUnet.parts().recoding(&Convention::Brats124.parts()).expect("possible");
        assert_eq!(table, [(0, 0), (2, 1), (1, 2), (3, 4)]);
    }
}
