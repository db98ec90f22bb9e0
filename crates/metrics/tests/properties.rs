//! What must hold for any pair of label maps.

use std::time::Instant;

use glioseg_metrics::rules::Challenge;
use glioseg_metrics::{LabelScheme, Pair, RegionScores, Rule, ScoreOptions};
use glioseg_plan::Convention;
use glioseg_volume::{Affine, Geometry, LabelMap};
use proptest::prelude::*;

fn scheme() -> LabelScheme {
    LabelScheme::brats(Convention::Brats123)
}

/// All rules and their regions.
fn scores(reference: &LabelMap, prediction: &LabelMap) -> Vec<(Rule, RegionScores)> {
    scores_at(reference, prediction, 1.0)
}

fn scores_at(reference: &LabelMap, prediction: &LabelMap, tolerance_mm: f64) -> Vec<(Rule, RegionScores)> {
    let pair = Pair::new(reference, prediction, None);
    let options = ScoreOptions { tolerance_mm };
    Rule::every()
        .flat_map(|rule| rule.score(&pair, &scheme(), &options).regions.into_iter().map(move |r| (rule, r)))
        .collect()
}

fn map(data: Vec<u16>, shape: [usize; 3]) -> LabelMap {
    LabelMap::new(data, Geometry::isotropic(shape)).expect("right length")
}

fn spaced(data: Vec<u16>, shape: [usize; 3], [x, y, z]: [f64; 3]) -> LabelMap {
    let affine = Affine::from_rows([[x, 0.0, 0.0, 0.0], [0.0, y, 0.0, 0.0], [0.0, 0.0, z, 0.0]]);
    LabelMap::new(data, Geometry::from_affine(shape, affine).expect("regular")).expect("right length")
}

/// Blocks of labels, so that there are lesions rather than noise.
fn maps() -> impl Strategy<Value = ([usize; 3], Vec<u16>, Vec<u16>)> {
    let shape = [4..11usize, 4..11usize, 4..12usize];
    shape.prop_flat_map(|shape| {
        let block = (0..shape[0], 0..shape[1], 0..shape[2], [1..5usize, 1..5usize, 1..5usize], 0..4u16);
        let blocks = prop::collection::vec(block, 0..6);
        let paint = move |blocks: Vec<(usize, usize, usize, [usize; 3], u16)>| {
            let mut data = vec![0; shape.iter().product()];
            for (z, y, x, size, label) in blocks {
                for z in z..(z + size[0]).min(shape[0]) {
                    for y in y..(y + size[1]).min(shape[1]) {
                        for x in x..(x + size[2]).min(shape[2]) {
                            data[(z * shape[1] + y) * shape[2] + x] = label;
                        }
                    }
                }
            }
            data
        };
        (Just(shape), blocks.clone().prop_map(paint), blocks.prop_map(paint))
    })
}

fn same(a: f64, b: f64) -> bool {
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-9 * b.abs().max(1.0)
}

/// Distance in mm from every border voxel of a region in `from` to the nearest in `to`, all pairs tried; `None` if a region is
/// empty. `spacing` is that of x, y, z.
fn brute_force(
    from: &[u16],
    to: &[u16],
    labels: &[u16],
    shape: [usize; 3],
    [x, y, z]: [f64; 3],
) -> Option<Vec<f64>> {
    let spacing = [z, y, x];
    let place = |i: usize| [i / (shape[1] * shape[2]), i / shape[2] % shape[1], i % shape[2]];
    let border = |data: &[u16]| -> Vec<[usize; 3]> {
        let inside = |p: [usize; 3]| labels.contains(&data[(p[0] * shape[1] + p[1]) * shape[2] + p[2]]);
        let open = |p: [usize; 3]| {
            (0..3).any(|axis| {
                [-1, 1].into_iter().any(|step| {
                    let mut q = p;
                    match p[axis].checked_add_signed(step).filter(|&v| v < shape[axis]) {
                        None => true,
                        Some(v) => {
                            q[axis] = v;
                            !inside(q)
                        }
                    }
                })
            })
        };
        (0..data.len()).map(place).filter(|&p| inside(p) && open(p)).collect()
    };
    let (from, to) = (border(from), border(to));
    let far = |p: [usize; 3], q: [usize; 3]| {
        (0..3).map(|a| ((p[a] as f64 - q[a] as f64) * spacing[a]).powi(2)).sum::<f64>().sqrt()
    };
    let nearest = |&p: &[usize; 3]| to.iter().map(|&q| far(p, q)).fold(f64::INFINITY, f64::min);
    (!from.is_empty() && !to.is_empty()).then(|| from.iter().map(nearest).collect())
}

/// Values that depend on the size of the image.
const OF_THE_IMAGE: [&str; 3] = ["TN", "Specificity", "specificity"];

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_map_agrees_with_itself((shape, data, _) in maps()) {
        let map = map(data, shape);
        for (rule, region) in scores(&map, &map) {
            for (metric, value) in region.values.iter() {
                let perfect = match metric {
                    "HD95" | "Legacy_HD95" | "LesionWise_Score_HD95" | "sq_hd95" | "global_bin_hd95" | "ASD" | "FP"
                    | "FN" | "fp" | "fn" | "Num_FP" | "Num_FN" | "volume_difference_mL" => 0.0,
                    "Dice" | "IoU" | "Sensitivity" | "Specificity" | "Legacy_Dice" | "LesionWise_Score_Dice" | "NSD"
                    | "sq_dsc" | "sq_nsd" | "rq" | "prec" | "rec" | "global_bin_dsc" | "global_bin_nsd" => 1.0,
                    _ => continue,
                };
                prop_assert!(value.is_nan() || (value - perfect).abs() < 1e-12, "{:?} {} {metric} {value}", rule, region.region);
            }
        }
    }

    #[test]
    fn symmetric_metrics_are_symmetric((shape, a, b) in maps()) {
        let (a, b) = (map(a, shape), map(b, shape));
        let symmetric = ["Dice", "IoU", "HD95", "Legacy_Dice", "Legacy_HD95", "NSD", "ASD", "rq", "global_bin_dsc", "global_bin_nsd", "global_bin_hd95"];
        for ((rule, one), (_, two)) in scores(&a, &b).iter().zip(&scores(&b, &a)) {
            for metric in symmetric {
                if let (Some(x), Some(y)) = (one.values.get(metric), two.values.get(metric)) {
                    prop_assert!(same(x, y), "{rule:?} {} {metric}: {x} {y}", one.region);
                }
            }
            for (mine, theirs) in [("FP", "FN"), ("fp", "fn"), ("n_pred", "n_ref"), ("lesions_reference", "lesions_prediction")] {
                prop_assert_eq!(one.values.get(mine), two.values.get(theirs));
            }
        }
    }

    #[test]
    fn empty_margins_change_nothing((shape, a, b) in maps(), before in [0..4usize, 0..4usize, 0..4usize], after in [0..4usize, 0..4usize, 0..4usize]) {
        let wide = [0, 1, 2].map(|k| shape[k] + before[k] + after[k]);
        let spread = |data: &[u16]| {
            let mut out = vec![0; wide.iter().product()];
            for (i, &v) in data.iter().enumerate() {
                let p = [i / (shape[1] * shape[2]), i / shape[2] % shape[1], i % shape[2]];
                let [z, y, x] = [0, 1, 2].map(|k| p[k] + before[k]);
                out[(z * wide[1] + y) * wide[2] + x] = v;
            }
            map(out, wide)
        };
        let inner = scores(&map(a.clone(), shape), &map(b.clone(), shape));
        let outer = scores(&spread(&a), &spread(&b));
        for ((rule, one), (_, two)) in inner.iter().zip(&outer) {
            for ((metric, x), (_, y)) in one.values.iter().zip(two.values.iter()) {
                prop_assert!(OF_THE_IMAGE.contains(&metric) || same(x, y), "{rule:?} {} {metric}: {x} {y}", one.region);
            }
            prop_assert_eq!(one.lesions.len(), two.lesions.len());
        }
    }

    #[test]
    fn distances_scale_with_the_spacing((shape, a, b) in maps(), factor in prop::sample::select(vec![0.5, 2.0, 4.0])) {
        let base = [1.0, 1.5, 0.75];
        // The tolerance of a surface Dice is a distance too.
        let at = |f: f64| {
            let spacing = base.map(|s| s * f);
            scores_at(&spaced(a.clone(), shape, spacing), &spaced(b.clone(), shape, spacing), 1.25 * f)
        };
        for ((rule, one), (_, two)) in at(1.0).iter().zip(&at(factor)) {
            for (metric, x) in one.values.iter() {
                let y = two.values.get(metric).unwrap_or(f64::NAN);
                let expected = match metric {
                    // Penalties are not distances.
                    "HD95" | "Legacy_HD95" | "sq_hd95" if x.is_infinite() || [373.1287, 374.0].contains(&x) => x,
                    "HD95" | "Legacy_HD95" | "ASD" | "sq_hd95" => x * factor,
                    "volume_reference_mL" | "volume_difference_mL" | "GT_Complete_Volume" => x * factor.powi(3),
                    "Dice" | "Legacy_Dice" | "sq_dsc" | "sq_nsd" | "rq" | "TP" | "NSD" => x,
                    _ => continue,
                };
                prop_assert!(same(y, expected), "{rule:?} {} {metric}: {y}, not {expected}", one.region);
            }
        }
    }

    #[test]
    fn distances_are_those_of_trying_every_pair_of_border_voxels((shape, a, b) in maps(), spacing in prop::array::uniform3(prop::sample::select(vec![0.5, 1.0, 0.9375, 3.0]))) {
        let found = scores(&spaced(a.clone(), shape, spacing), &spaced(b.clone(), shape, spacing));
        for (name, labels) in [("WT", &[1, 2, 3][..]), ("TC", &[1, 3]), ("ET", &[3])] {
            let value = |rule: Rule, metric: &str| {
                let own = found.iter().find(|(r, region)| *r == rule && region.region == name);
                own.and_then(|(_, region)| region.values.get(metric)).expect("every rule scores every region")
            };
            let ways = brute_force(&a, &b, labels, shape, spacing).zip(brute_force(&b, &a, labels, shape, spacing));
            let (hd95, average) = if let Some((there, back)) = ways {
                let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
                let average = f64::midpoint(mean(&there), mean(&back));
                let mut all = [there, back].concat();
                all.sort_by(f64::total_cmp);
                let at = 0.95 * (all.len() - 1) as f64;
                let (low, high) = (all[at.floor() as usize], all[at.ceil() as usize]);
                (low + (high - low) * at.fract(), average)
            } else {
                let empty = |data: &[u16]| !data.iter().any(|l| labels.contains(l));
                (if empty(&a) && empty(&b) { 0.0 } else { 373.1287 }, f64::NAN)
            };
            prop_assert!(same(value(Rule::Brats2021, "HD95"), hd95), "{name}: {}, not {hd95}", value(Rule::Brats2021, "HD95"));
            prop_assert!(same(value(Rule::Extra, "ASD"), average), "{name}: {}, not {average}", value(Rule::Extra, "ASD"));
        }
    }

    #[test]
    fn thread_counts_change_no_bit((shape, a, b) in maps()) {
        let (a, b) = (map(a, shape), map(b, shape));
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            let found = pool.install(|| scores(&a, &b));
            found.iter().flat_map(|(_, r)| r.values.iter().map(|(_, v)| v.to_bits()).collect::<Vec<_>>()).collect::<Vec<_>>()
        };
        prop_assert_eq!(with(1), with(3));
    }
}

/// `count` lesions of `voxels` voxels in all, spread over a grid of cells in an image; in the prediction each lies a voxel to the
/// right.
fn spread(count: usize, voxels: usize) -> (LabelMap, LabelMap) {
    let shape = [150, 160, 160];
    let cells = (count as f64).cbrt().round() as usize;
    assert_eq!(cells.pow(3), count, "a cube");
    let side = ((voxels / count) as f64).cbrt().round() as usize;
    let pitch = shape.map(|n| (n - 2) / cells);
    let (mut a, mut b) = (vec![0u16; shape.iter().product()], vec![0u16; shape.iter().product()]);
    for n in 0..count {
        let cell = [n / (cells * cells), n / cells % cells, n % cells];
        for i in 0..side.pow(3) {
            let inside = [i / (side * side), i / side % side, i % side];
            let p = [0, 1, 2].map(|k| 1 + cell[k] * pitch[k] + inside[k]);
            let at = (p[0] * shape[1] + p[1]) * shape[2] + p[2];
            a[at] = 1 + (n % 3) as u16;
            b[at + 1] = 1 + (n % 3) as u16;
        }
    }
    (map(a, shape), map(b, shape))
}

#[test]
fn a_thousand_lesions_cost_little_more_than_a_few() {
    let scored = |count: usize| {
        let (a, b) = spread(count, 64_000);
        let pair = Pair::new(&a, &b, None);
        // The best of three: what else the machine does is not part of the comparison.
        let mut best = f64::INFINITY;
        let mut found = Vec::new();
        for _ in 0..3 {
            let start = Instant::now();
            found = Rule::ALL.map(|rule| rule.score(&pair, &scheme(), &ScoreOptions::default())).to_vec();
            best = best.min(start.elapsed().as_secs_f64());
        }
        (found, best)
    };
    let ((few, seconds_few), (many, seconds_many)) = (scored(8), scored(1000));
    let whole = |found: &[glioseg_metrics::RuleScores], rule: Rule, region: &str, metric: &str| {
        let regions = &found.iter().find(|f| f.rule == rule)?.regions;
        regions.iter().find(|r| r.region == region)?.values.get(metric)
    };
    for (found, count) in [(&few, 8.0), (&many, 1000.0)] {
        assert_eq!(whole(found, Rule::Brats2026, "wt", "n_ref_instances"), Some(count));
        assert_eq!(whole(found, Rule::Extra, "WT", "lesions_reference"), Some(count));
    }
    assert_eq!(whole(&many, Rule::Brats2023(Challenge::Gli), "WT", "Num_TP"), Some(1000.0));
    // 125 times the lesions of the same voxels in all. A cost per lesion that grows with the image would be a hundredfold.
    let ratio = seconds_many / seconds_few;
    assert!(
        ratio < 25.0,
        "a thousand lesions take {seconds_many} s, eight {seconds_few} s: {ratio} times as long"
    );
}
