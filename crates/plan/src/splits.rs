//! Which cases a fold trains on and which it is validated with.

use crate::PlanError;
use crate::json::{Node, read_json};
use glioseg_diagnose::first_few;
use glioseg_formats::atomic;
use glioseg_interop::{KeyOrder, RandomState, python_json};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};
use std::io::Write as _;
use std::path::Path;

/// nnU-Net's seed for everything about folds.
const SEED: u32 = 12345;

/// One fold of a cross-validation: names of cases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fold {
    /// Cases to train on.
    pub train: Vec<String>,
    /// Cases to validate with.
    pub val: Vec<String>,
}

/// The folds of a dataset, `splits_final.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Splits {
    /// Fold 0, 1, …; one that cannot be used is empty.
    pub folds: Vec<Fold>,
    /// Why folds cannot be used. The others can.
    faults: BTreeMap<usize, String>,
}

impl Splits {
    /// Name of the file next to the preprocessed data.
    pub const FILE: &'static str = "splits_final.json";

    /// nnU-Net's cross-validation of five folds.
    ///
    /// # Errors
    /// [`PlanError::TooFewCases`] if there are fewer than five cases.
    ///
    /// # Source
    /// nnU-Net v2, `generate_crossval_split` (scikit-learn's `KFold` with shuffling, seed 12345), on sorted names.
    pub fn five_folds<S: AsRef<str>>(cases: &[S]) -> Result<Splits, PlanError> {
        const FOLDS: usize = 5;
        let names = sorted(cases);
        if names.len() < FOLDS {
            return Err(PlanError::TooFewCases { cases: names.len(), folds: FOLDS });
        }
        let order = RandomState::new(SEED).permutation(names.len());
        let (size, longer) = (names.len() / FOLDS, names.len() % FOLDS);
        let mut start = 0;
        let folds = (0..FOLDS)
            .map(|fold| {
                let end = start + size + usize::from(fold < longer);
                let mut validates = vec![false; names.len()];
                order[start..end].iter().for_each(|&i| validates[i as usize] = true);
                start = end;
                let of = |val: bool| {
                    (0..names.len()).filter(|&i| validates[i] == val).map(|i| names[i].clone()).collect()
                };
                Fold { train: of(false), val: of(true) }
            })
            .collect();
        Ok(Splits { folds, faults: BTreeMap::new() })
    }

    /// Reads `splits_final.json`, which may have any number of folds.
    ///
    /// A fold that cannot be used does not stop the others: [`Splits::check`] tells what is wrong with it.
    ///
    /// # Errors
    /// Any [`PlanError`] that names the file if it holds no list.
    pub fn read(path: &Path) -> Result<Splits, PlanError> {
        let value = read_json(path)?;
        let (mut folds, mut faults) = (Vec::new(), BTreeMap::new());
        for (number, node) in Node::root(path, &value).list()?.iter().enumerate() {
            folds.push(read_fold(node).unwrap_or_else(|reason| {
                faults.insert(number, reason);
                Fold { train: Vec::new(), val: Vec::new() }
            }));
        }
        Ok(Splits { folds, faults })
    }

    /// Checks a fold of the file `path` against the cases of the dataset; returns what nnU-Net only warns of. A fold that
    /// the file does not have is a split of its own, and right.
    ///
    /// # Errors
    /// [`PlanError::Split`] if the fold has no lists `train` and `val`, trains on nothing, names a case twice in a list, or
    /// names a case that the dataset does not have.
    pub fn check<S: AsRef<str>>(
        &self,
        number: usize,
        cases: &[S],
        path: &Path,
    ) -> Result<Vec<String>, PlanError> {
        let wrong = |reason: String| PlanError::Split { path: path.to_owned(), fold: number, reason };
        if let Some(reason) = self.faults.get(&number) {
            return Err(wrong(reason.clone()));
        }
        let Some(fold) = self.folds.get(number) else { return Ok(Vec::new()) };
        let known: HashSet<&str> = cases.iter().map(AsRef::as_ref).collect();
        let mut warnings = Vec::new();
        let all = || fold.train.iter().chain(&fold.val).map(String::as_str);
        let unknown: Vec<&str> = all().filter(|name| !known.contains(name)).collect();
        if !unknown.is_empty() {
            return Err(wrong(format!(
                "names {} that {} not in the dataset: {}",
                if unknown.len() == 1 { "a case".to_owned() } else { format!("{} cases", unknown.len()) },
                if unknown.len() == 1 { "is" } else { "are" },
                first_few(&unknown, 5)
            )));
        }
        let train: HashSet<&str> = fold.train.iter().map(String::as_str).collect();
        let both: Vec<&str> = fold.val.iter().map(String::as_str).filter(|n| train.contains(n)).collect();
        if !both.is_empty() {
            warnings.push(format!(
                "fold {number} validates with cases that it trains on, so its score will be too high: {}",
                first_few(&both, 5)
            ));
        }
        let used: HashSet<&str> = all().collect();
        let left: Vec<&str> = cases.iter().map(AsRef::as_ref).filter(|n| !used.contains(n)).collect();
        if !left.is_empty() {
            warnings.push(format!(
                "fold {number} uses neither for training nor validation: {}",
                first_few(&left, 5)
            ));
        }
        Ok(warnings)
    }

    /// The fold `number`; beyond the folds there are, a random split of 80 to 20 that depends on the number alone.
    ///
    /// `cases` are all cases of the dataset.
    ///
    /// # Source
    /// nnU-Net v2, `nnUNetTrainer.do_split`.
    pub fn fold<S: AsRef<str>>(&self, number: usize, cases: &[S]) -> Fold {
        if let Some(fold) = self.folds.get(number) {
            return fold.clone();
        }
        let names = sorted(cases);
        let mut random = RandomState::new(SEED.wrapping_add(number as u32));
        let size = (names.len() as f64 * 0.8) as usize;
        let chosen = random.choose(names.len(), size);
        let trains: HashSet<u32> = chosen.iter().copied().collect();
        Fold {
            train: chosen.iter().map(|&i| names[i as usize].clone()).collect(),
            val: (0..names.len())
                .filter(|&i| !trains.contains(&(i as u32)))
                .map(|i| names[i].clone())
                .collect(),
        }
    }

    /// Fold `all`: every case is trained on and validated with.
    pub fn all<S: AsRef<str>>(cases: &[S]) -> Fold {
        Fold { train: sorted(cases), val: sorted(cases) }
    }

    /// The text of `splits_final.json`, byte for byte as nnU-Net writes it.
    pub fn to_json(&self) -> String {
        let folds: Vec<Value> = self.folds.iter().map(|f| json!({"train": f.train, "val": f.val})).collect();
        python_json(&Value::from(folds), KeyOrder::Sorted)
    }

    /// Writes `splits_final.json`.
    ///
    /// # Errors
    /// [`PlanError::Volume`] if the file cannot be written; an older one is then left as it was.
    pub fn write(&self, path: &Path) -> Result<(), PlanError> {
        Ok(atomic::write(path, |file| file.write_all(self.to_json().as_bytes()))?)
    }

    /// Takes over a user's `splits_final.json` from the raw dataset, as planning does; nothing where there is none.
    ///
    /// # Errors
    /// [`PlanError::SplitsDiffer`] if `to` exists and does not begin with the same folds; errors of reading and writing.
    ///
    /// # Source
    /// nnU-Net v2, `_maybe_copy_splits_file`.
    pub fn take_over(from: &Path, to: &Path) -> Result<(), PlanError> {
        if !from.exists() {
            return Ok(());
        }
        let theirs = Splits::read(from)?;
        if !to.exists() {
            if theirs.faults.is_empty() {
                return theirs.write(to);
            }
            // What is wrong with a fold is told where it is used.
            let text =
                std::fs::read(from).map_err(|source| PlanError::Read { path: from.to_owned(), source })?;
            return Ok(atomic::write(to, |file| file.write_all(&text))?);
        }
        let ours = Splits::read(to)?;
        let set = |names: &[String]| names.iter().cloned().collect::<HashSet<_>>();
        let same = |a: &Fold, b: &Fold| set(&a.train) == set(&b.train) && set(&a.val) == set(&b.val);
        let differs = |&i: &usize| !ours.folds.get(i).is_some_and(|fold| same(fold, &theirs.folds[i]));
        match (0..theirs.folds.len()).find(differs) {
            Some(fold) => {
                Err(PlanError::SplitsDiffer { source_path: from.to_owned(), path: to.to_owned(), fold })
            }
            None => Ok(()),
        }
    }
}

/// The two lists of a fold, or what is wrong with them.
fn read_fold(node: &Node<'_>) -> Result<Fold, String> {
    let names = |key: &str| -> Result<Vec<String>, String> {
        let list = node.get(key).and_then(|list| list.list()).map_err(|e| within(node, &e))?;
        let names: Vec<String> = list
            .iter()
            .map(|n| n.str().map(str::to_owned))
            .collect::<Result<_, _>>()
            .map_err(|e| within(node, &e))?;
        let mut seen = HashSet::new();
        match names.iter().find(|name| !seen.insert(name.as_str())) {
            Some(twice) => Err(format!("lists `{twice}` twice in \"{key}\"")),
            None => Ok(names),
        }
    };
    let fold = Fold { train: names("train")?, val: names("val")? };
    if fold.train.is_empty() {
        return Err("trains on no case".to_owned());
    }
    Ok(fold)
}

/// The message of an error without the file, which is named with the fold.
fn within(node: &Node<'_>, error: &PlanError) -> String {
    let text = error.to_string();
    let file = format!("{}: ", node.path().display());
    format!("is wrong: {}", text.strip_prefix(&file).unwrap_or(&text))
}

fn sorted<S: AsRef<str>>(cases: &[S]) -> Vec<String> {
    let mut names: Vec<String> = cases.iter().map(|c| c.as_ref().to_owned()).collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use glioseg_diagnose::Diagnose as _;

    fn names(n: usize) -> Vec<String> {
        (0..n).map(|i| format!("case_{i:04}")).collect()
    }

    fn numbers(names: &[String]) -> Vec<usize> {
        names.iter().map(|n| n[5..].parse().expect("a number")).collect()
    }

    #[test]
    fn five_folds_are_those_of_nnunet() {
        let splits = Splits::five_folds(&names(10)).expect("enough cases");
        let val: Vec<Vec<usize>> = splits.folds.iter().map(|f| numbers(&f.val)).collect();
        assert_eq!(val, [[0, 7], [3, 9], [4, 6], [1, 8], [2, 5]]);
        assert_eq!(numbers(&splits.folds[0].train), [1, 2, 3, 4, 5, 6, 8, 9]);

        let brats = Splits::five_folds(&names(1251)).expect("enough cases");
        let sizes: Vec<usize> = brats.folds.iter().map(|f| f.val.len()).collect();
        assert_eq!(sizes, [251, 250, 250, 250, 250]);
        let first: Vec<Vec<usize>> = brats.folds.iter().map(|f| numbers(&f.val[..8])).collect();
        assert_eq!(first[0], [0, 6, 10, 17, 20, 22, 25, 29]);
        assert_eq!(first[1], [3, 4, 7, 8, 14, 15, 26, 35]);
        assert_eq!(first[2], [11, 21, 27, 31, 32, 37, 46, 48]);
        assert_eq!(first[3], [2, 9, 12, 13, 18, 19, 24, 28]);
        assert_eq!(first[4], [1, 5, 16, 23, 34, 36, 39, 42]);
    }

    #[test]
    fn the_order_of_the_names_does_not_matter() {
        let mut turned = names(12);
        turned.reverse();
        assert_eq!(
            Splits::five_folds(&turned).expect("enough cases"),
            Splits::five_folds(&names(12)).expect("enough cases")
        );
    }

    #[test]
    fn a_fold_beyond_the_file_is_a_random_split_of_80_to_20() {
        let splits = Splits::five_folds(&names(10)).expect("enough cases");
        let fold = splits.fold(5, &names(10));
        assert_eq!(numbers(&fold.train), [0, 8, 4, 5, 3, 9, 7, 6]);
        assert_eq!(numbers(&fold.val), [1, 2]);
        assert_eq!(splits.fold(1, &names(10)), splits.folds[1]);
        let all = Splits::all(&names(3));
        assert_eq!((all.train.len(), all.val.len()), (3, 3));
    }

    #[test]
    fn fewer_cases_than_folds_are_refused_with_a_remedy() {
        let error = Splits::five_folds(&names(4)).expect_err("four cases");
        assert_eq!(error.to_string(), "4 cases cannot be split into 5 folds");
        assert!(error.hint().expect("a hint").contains("-f all"));
    }
}
