//! Kernels on maps, heads, losses and updates.

use crate::common::{Bench, near};
use glioseg_cuda::launch::{Form, Launch, Logits, LossRule, LossTarget, Map, NormRule};
use glioseg_cuda::{Element, Machine as _, Slice};

/// Sizes around the edges of blocks: voxels that rows do not divide, one group of channels and many.
const SHAPES: [(usize, [usize; 3], usize, usize); 5] = [
    (2, [3, 5, 7], 8, 6),
    (1, [5, 7, 9], 24, 20),
    (2, [2, 3, 1], 320, 320),
    (3, [1, 1, 5], 64, 60),
    (1, [7, 9, 10], 32, 32),
];

/// What a value may be away from the exact one, relative to the largest: that of its rounding.
fn rounding(element: Element) -> f64 {
    match element {
        Element::F32 => 3e-6,
        Element::Bf16 => 5e-3,
        Element::F16 => 7e-4,
    }
}

#[test]
fn values_are_rounded_to_nearest_even() {
    let Some(mut bench) = Bench::new() else { return };
    let special = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        1.0 + 0.5f32.powi(9),
        1.0 + 0.5f32.powi(11),
        65504.0,
        65519.9,
        65520.0,
        1e-5,
        6e-8,
        2.9e-8,
        3e-8,
        1e-40,
        3.39e38,
        f32::INFINITY,
        f32::NEG_INFINITY,
        0.1,
        6.1e-5,
        6.0e-5,
    ];
    let values: Vec<f32> = special.into_iter().chain(bench.random(1000, 100.0)).collect();
    for element in [Element::Bf16, Element::F16] {
        let from = bench.put(&values, Element::F32);
        let to = bench.space(values.len(), element);
        bench.run(&Launch::copy(from, to, element, values.len()));
        let expected = glioseg_cuda::host::decode(&glioseg_cuda::host::encode(&values, element), element);
        assert_eq!(bench.get(to, element), expected, "{element:?}");
    }
}

#[test]
fn a_patch_becomes_a_map() {
    let Some(mut bench) = Bench::new() else { return };
    for element in Element::ALL {
        let (n, size, c) = (2, [3, 4, 25], 5);
        let voxels: usize = size.iter().product();
        let patch = bench.random(n * c * voxels, 1.0);
        let from = bench.put(&patch, Element::F32);
        let map = Map { at: bench.space(patch.len(), element), batch: n, size, channels: c, element };
        bench.run(&Launch::pack(from, &map));
        let found = bench.get(map.at, element);
        let expected: Vec<f64> = (0..patch.len())
            .map(|i| f64::from(patch[(i / c / voxels * c + i % c) * voxels + i / c % voxels]))
            .collect();
        near("pack", &found, &expected, rounding(element));
    }
}

/// Everything that belongs to a normalisation of one map.
struct Setting {
    n: usize,
    voxels: usize,
    c: usize,
    real: usize,
    y: Vec<f32>,
    dz: Vec<f32>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
    biases: [Vec<f32>; 3],
    mask: Option<Vec<f32>>,
    slope: f64,
}

/// What a normalisation and its derivative are, as they read: values, gradient of `y`, of factor, offset and bias.
struct Expected {
    z: Vec<f64>,
    dy: Vec<f64>,
    parameters: [Vec<f64>; 3],
    moments: Vec<[f64; 3]>,
}

impl Setting {
    fn at(&self, s: usize, v: usize, ch: usize) -> usize {
        (s * self.voxels + v) * self.c + ch
    }

    fn expected(&self, rule: NormRule, kept: &[[f64; 2]]) -> Expected {
        let Self { n, voxels, c, real, .. } = *self;
        let bias = |ch: usize| self.biases.iter().map(|b| f64::from(b[ch])).sum::<f64>();
        let factor = |s: usize, ch: usize| self.mask.as_ref().map_or(1.0, |m| f64::from(m[s * real + ch]));
        let raw =
            |s: usize, v: usize, ch: usize| factor(s, ch) * (f64::from(self.y[self.at(s, v, ch)]) + bias(ch));
        let set_of = |s: usize, ch: usize| -> Vec<(usize, usize)> {
            let NormRule::Own { per, batch, .. } = rule else { return vec![] };
            let channels = ch / per * per..ch / per * per + per;
            let samples = if batch { 0..n } else { s..s + 1 };
            samples.flat_map(|s| channels.clone().map(move |ch| (s, ch))).collect()
        };
        let mut expected = Expected {
            z: vec![0.0; self.y.len()],
            dy: vec![0.0; self.y.len()],
            parameters: [0, 1, 2].map(|_| vec![0.0; real]),
            moments: vec![],
        };
        for s in 0..n {
            for ch in 0..real {
                let set = set_of(s, ch);
                let count = (set.len() * voxels) as f64;
                let over = |f: &dyn Fn(usize, usize, usize) -> f64| -> f64 {
                    set.iter().map(|&(s, ch)| (0..voxels).map(|v| f(s, v, ch)).sum::<f64>()).sum::<f64>()
                        / count
                };
                let (mean, root) = match rule {
                    NormRule::None => (0.0, 1.0),
                    NormRule::Kept { eps } => (kept[ch][0], (kept[ch][1] + f64::from(eps)).sqrt()),
                    NormRule::Own { eps, .. } => {
                        let mean = over(&raw);
                        let var = over(&|s, v, ch| (raw(s, v, ch) - mean).powi(2));
                        if s == 0 {
                            expected.moments.push([mean, var, count]);
                        }
                        (mean, (var + f64::from(eps)).sqrt())
                    }
                };
                let none = rule == NormRule::None;
                let gamma = |ch: usize| if none { 1.0 } else { f64::from(self.gamma[ch]) };
                let beta = |ch: usize| if none { 0.0 } else { f64::from(self.beta[ch]) };
                let hat = |s: usize, v: usize, ch: usize| (raw(s, v, ch) - mean) / root;
                let t = |s: usize, v: usize, ch: usize| {
                    let z = gamma(ch) * hat(s, v, ch) + beta(ch);
                    f64::from(self.dz[self.at(s, v, ch)]) * if z > 0.0 { 1.0 } else { self.slope }
                };
                let own = matches!(rule, NormRule::Own { .. });
                let (a, b) = if own {
                    (
                        over(&|s, v, ch| gamma(ch) * t(s, v, ch)),
                        over(&|s, v, ch| gamma(ch) * t(s, v, ch) * hat(s, v, ch)),
                    )
                } else {
                    (0.0, 0.0)
                };
                for v in 0..voxels {
                    let z = gamma(ch) * hat(s, v, ch) + beta(ch);
                    let dy = factor(s, ch) * (gamma(ch) * t(s, v, ch) - a - hat(s, v, ch) * b) / root;
                    let at = (s * voxels + v) * c + ch;
                    expected.z[at] = if z > 0.0 { z } else { z * self.slope };
                    expected.dy[at] = dy;
                    expected.parameters[0][ch] += t(s, v, ch) * hat(s, v, ch);
                    expected.parameters[1][ch] += t(s, v, ch);
                    expected.parameters[2][ch] += dy;
                }
            }
        }
        expected
    }
}

/// Values of a map, rounded as they are kept, with 0 in the padding.
fn padded(bench: &mut Bench, rows: usize, c: usize, real: usize, element: Element) -> Vec<f32> {
    let values = bench.random(rows * c, 1.5);
    let values: Vec<f32> =
        values.iter().enumerate().map(|(i, v)| if i % c < real { v + 0.3 } else { 0.0 }).collect();
    glioseg_cuda::host::decode(&glioseg_cuda::host::encode(&values, element), element)
}

#[test]
fn normalisations_and_their_gradients() {
    let Some(mut bench) = Bench::new() else { return };
    for (i, (n, size, c, real)) in SHAPES.into_iter().enumerate() {
        for element in Element::ALL {
            let voxels: usize = size.iter().product();
            let eps = 1e-5;
            let groups = NormRule::Own { per: real / 2, batch: false, eps };
            let rules = [
                NormRule::None,
                NormRule::Own { per: 1, batch: false, eps },
                NormRule::Own { per: 1, batch: true, eps },
                groups,
                NormRule::Kept { eps },
            ];
            for rule in rules {
                // A set of one value has no spread.
                let positive = |values: Vec<f32>| values.iter().map(|v| 0.6 + v * 0.2).collect::<Vec<f32>>();
                let mask = (i % 2 == 0).then(|| {
                    (0..n * real).map(|k| if k % 7 == 3 { 0.0 } else { 1.25 }).collect::<Vec<f32>>()
                });
                let setting = Setting {
                    n,
                    voxels,
                    c,
                    real,
                    y: padded(&mut bench, n * voxels, c, real, element),
                    dz: padded(&mut bench, n * voxels, c, real, element),
                    gamma: positive(bench.random(real, 1.0)),
                    beta: bench.random(real, 0.3),
                    biases: [0, 1, 2].map(|_| bench.random(real, 0.2)),
                    mask: mask.filter(|_| !matches!(rule, NormRule::Kept { .. })),
                    slope: 0.01,
                };
                assert_norm(&mut bench, &setting, (size, element), rule);
            }
        }
    }
}

fn assert_norm(bench: &mut Bench, of: &Setting, (size, element): ([usize; 3], Element), rule: NormRule) {
    let name = format!("{rule:?} of {}x{size:?}x{} ({}) in {element:?}", of.n, of.c, of.real);
    let rows = of.n * of.c;
    let map = |bench: &mut Bench, values: &[f32]| Map {
        at: bench.put(values, element),
        batch: of.n,
        size,
        channels: of.c,
        element,
    };
    let (y, dz) = (map(bench, &of.y), map(bench, &of.dz));
    let z = map(bench, &vec![0.0; of.y.len()]);
    let kept: Vec<[f64; 2]> =
        (0..of.real).map(|i| [0.1 * (i % 3) as f64, 1.0 + 0.1 * (i % 4) as f64]).collect();
    let as_f32 = |i: usize| kept.iter().map(|k| k[i] as f32).collect::<Vec<f32>>();
    let none = rule == NormRule::None;
    let vector = |bench: &mut Bench, values: &[f32]| bench.put(values, Element::F32);
    let kept_at = [vector(bench, &as_f32(0)), vector(bench, &as_f32(1))];
    let batch = matches!(rule, NormRule::Own { batch: true, .. } | NormRule::Kept { .. });
    let form = Form {
        rule,
        real: of.real,
        gamma: (!none).then(|| vector(bench, &of.gamma)),
        beta: (!none).then(|| vector(bench, &of.beta)),
        biases: [0, 1, 2].map(|i| Some(vector(bench, &of.biases[i]))),
        mask: of.mask.as_ref().map(|mask| vector(bench, mask)),
        kept: batch.then_some(kept_at),
        form: bench.space(rows * 4, Element::F32),
        total: bench.space(rows, Element::F32),
    };
    let part = bench.space(y.part_values(of.n), Element::F32);
    let sums = bench.space(y.sum_values(of.n) * 2, Element::F32);
    bench.run(&Launch::stats(&y, part));
    bench.run(&Launch::fold(&y, of.n, part, sums));
    bench.run(&Launch::affine(&y, sums, &form));
    // Into a joined map too, behind eight other channels.
    let joined = Map { at: bench.space(of.n * of.voxels * (of.c + 16), element), channels: of.c + 16, ..y };
    bench.run(&Launch::apply(&y, &form, Some(&z), Some((&joined, 8)), of.slope as f32));
    let expected = of.expected(rule, &kept);
    let found = bench.get(z.at, element);
    near(&name, &found, &expected.z, rounding(element));
    let of_joined = bench.get(joined.at, element);
    let joined_at = |i: usize| of_joined[i / of.c * (of.c + 16) + 8 + i % of.c];
    let same = (0..found.len()).all(|i| joined_at(i).to_bits() == found[i].to_bits());
    assert!(same, "{name}: the joined map");
    if let (NormRule::Own { .. }, true) = (rule, batch) {
        for (ch, [mean, var, count]) in expected.moments.iter().enumerate() {
            let now = [0, 1].map(|i| bench.get(kept_at[i], Element::F32)[ch]);
            let unbiased = var * count / (count - 1.0);
            let wanted = [kept[ch][0] * 0.9 + mean * 0.1, kept[ch][1] * 0.9 + unbiased * 0.1];
            assert!(
                (0..2).all(|i| (f64::from(now[i]) - wanted[i]).abs() < 1e-5),
                "{name}: {now:?}, {wanted:?}"
            );
        }
    }
    if matches!(rule, NormRule::Kept { .. }) {
        return;
    }
    bench.run(&Launch::norm_sums(&y, &dz, &form, part, of.slope as f32));
    bench.run(&Launch::fold(&y, of.n, part, sums));
    let terms = bench.space(rows * 2, Element::F32);
    let gradients = [0; 5].map(|_| bench.space(of.real, Element::F32));
    let [gamma, beta, biases @ ..] = gradients.map(Some);
    bench.run(&Launch::norm_terms(&y, sums, &form, terms, [gamma, beta], biases));
    // In place, as the engine does it.
    bench.run(&Launch::norm_backward(&y, [&dz, &dz], &form, terms, of.slope as f32));
    near(&format!("{name}: dy"), &bench.get(dz.at, element), &expected.dy, 2.0 * rounding(element));
    for (i, what) in [(0, 0), (1, 1), (2, 2), (3, 2), (4, 2)] {
        if none && i == 0 {
            continue;
        }
        let found = bench.get(gradients[i], Element::F32);
        // A bias before a norm of its channel alone has no influence: the exact gradient is 0.
        let size = of.dz.len() as f64 / of.c as f64;
        let far = found.iter().zip(&expected.parameters[what]).map(|(&f, e)| (f64::from(f) - e).abs());
        let far = far.fold(0.0, f64::max);
        assert!(far < 2e-5 * size + 1e-5, "{name}: parameter gradient {i} is {far} away");
    }
}

#[test]
fn copies_sums_and_means() {
    let Some(mut bench) = Bench::new() else { return };
    for element in Element::ALL {
        let (n, size, c) = (2, [2, 6, 4], 16);
        let voxels: usize = size.iter().product();
        let map = |bench: &mut Bench, c: usize, size: [usize; 3]| {
            let values = padded(bench, n * size.iter().product::<usize>(), c, c, element);
            (Map { at: bench.put(&values, element), batch: n, size, channels: c, element }, values)
        };
        let wide = |v: &[f32]| v.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
        let (a, va) = map(&mut bench, c, size);
        let (b, vb) = map(&mut bench, c, size);
        let (joined, vj) = map(&mut bench, 40, size);
        let (out, _) = map(&mut bench, c, size);
        bench.run(&Launch::add([&a, &b], &out, 0.25));
        let leaky = |v: f64| if v > 0.0 { v } else { v * 0.25 };
        let sum: Vec<f64> = va.iter().zip(&vb).map(|(a, b)| leaky(f64::from(a + b))).collect();
        near("add", &bench.get(out.at, element), &sum, rounding(element));

        let of_sum = bench.get(out.at, element);
        let through = |i: usize| f64::from(vb[i]) * if of_sum[i] > 0.0 { 1.0 } else { 0.25 };
        bench.run(&Launch::through(&out, [&b, &a], true, 0.25));
        let expected: Vec<f64> = (0..va.len()).map(|i| f64::from(va[i]) + through(i)).collect();
        near("through, added", &bench.get(a.at, element), &expected, rounding(element));
        bench.run(&Launch::through(&out, [&b, &b], false, 0.25));
        let expected: Vec<f64> = (0..va.len()).map(through).collect();
        near("through", &bench.get(b.at, element), &expected, rounding(element));

        let (x, vx) = map(&mut bench, c, size);
        let part = |i: usize| vj[i / c * 40 + 16 + i % c];
        bench.run(&Launch::take(&joined, 16, &x, true));
        let expected: Vec<f64> = (0..vx.len()).map(|i| f64::from(vx[i] + part(i))).collect();
        near("take, added", &bench.get(x.at, element), &expected, rounding(element));
        bench.run(&Launch::take(&joined, 16, &x, false));
        near(
            "take",
            &bench.get(x.at, element),
            &(0..vx.len()).map(|i| f64::from(part(i))).collect::<Vec<_>>(),
            0.0,
        );
        let (y, vy) = map(&mut bench, c, size);
        bench.run(&Launch::put(&y, &joined, 24));
        let now = bench.get(joined.at, element);
        for (i, &v) in now.iter().enumerate() {
            let (voxel, ch) = (i / 40, i % 40);
            let expected = if ch >= 24 { vy[voxel * c + ch - 24] } else { vj[i] };
            assert!(v.to_bits() == expected.to_bits(), "put: channel {ch}");
        }

        let kernel = [1, 3, 2];
        let (means, _) = map(&mut bench, c, [2, 2, 2]);
        let (of, vof) = map(&mut bench, c, size);
        bench.run(&Launch::pool(&of, kernel, &means));
        let mut expected = vec![0.0; n * 8 * c];
        let block = |i: usize| {
            let (ch, v, s) = (i % c, i / c % voxels, i / c / voxels);
            let (z, y, x) = (v / 24, v / 4 % 6, v % 4);
            (s * 8 + z * 4 + y / 3 * 2 + x / 2) * c + ch
        };
        for (i, &v) in vof.iter().enumerate() {
            expected[block(i)] += f64::from(v) / 6.0;
        }
        near("pool", &bench.get(means.at, element), &expected, rounding(element));
        let means_now = wide(&bench.get(means.at, element));
        bench.run(&Launch::pool_backward(&means, kernel, &of, true));
        let expected: Vec<f64> =
            (0..vof.len()).map(|i| f64::from(vof[i]) + means_now[block(i)] / 6.0).collect();
        near("pool backward", &bench.get(of.at, element), &expected, rounding(element));
    }
}

#[test]
fn heads_and_their_gradients() {
    let Some(mut bench) = Bench::new() else { return };
    for (n, size, c, outs) in [(2, [3, 5, 7], 8, 3), (1, [9, 11, 13], 24, 5), (2, [2, 2, 2], 320, 1)] {
        for element in Element::ALL {
            let voxels: usize = size.iter().product();
            let x = padded(&mut bench, n * voxels, c, c, element);
            let (w, b) = (bench.random(outs * c, 0.5), bench.random(outs, 0.5));
            let d = bench.random(n * outs * voxels, 0.5);
            let map = Map { at: bench.put(&x, element), batch: n, size, channels: c, element };
            let [weights, bias, gradient] = [&w, &b, &d].map(|v| bench.put(v, Element::F32));
            let mut logits =
                Logits { at: bench.space(d.len(), Element::F32), batch: n, outputs: outs, voxels };
            bench.run(&Launch::head(&map, weights, Some(bias), &logits));
            let at = |s: usize, v: usize| (s * voxels + v) * c;
            let dot = |s: usize, o: usize, v: usize| -> f64 {
                (0..c).map(|k| f64::from(w[o * c + k]) * f64::from(x[at(s, v) + k])).sum()
            };
            let expected: Vec<f64> = (0..d.len())
                .map(|i| {
                    dot(i / voxels / outs, i / voxels % outs, i % voxels) + f64::from(b[i / voxels % outs])
                })
                .collect();
            near("head", &bench.get(logits.at, Element::F32), &expected, 3e-6);
            logits.at = gradient;
            for add in [false, true] {
                bench.run(&Launch::head_data(&logits, weights, &map, add));
                let times = if add { 2.0 } else { 1.0 };
                let expected: Vec<f64> = (0..x.len())
                    .map(|i| {
                        let (k, v, s) = (i % c, i / c % voxels, i / c / voxels);
                        let of =
                            |o: usize| f64::from(d[(s * outs + o) * voxels + v]) * f64::from(w[o * c + k]);
                        times * (0..outs).map(of).sum::<f64>()
                    })
                    .collect();
                near("head data", &bench.get(map.at, element), &expected, 2.0 * rounding(element));
            }
            let map = Map { at: bench.put(&x, element), ..map };
            let part = bench.space(map.part_values(n * outs), Element::F32);
            let sums = bench.space(map.sum_values(n * outs) * 2, Element::F32);
            let (dw, db) = (bench.space(w.len(), Element::F32), bench.space(outs, Element::F32));
            bench.run(&Launch::head_weights(&map, &logits, part));
            bench.run(&Launch::fold(&map, n * outs, part, sums));
            bench.run(&Launch::head_terms(&map, &logits, sums, dw, Some(db)));
            let over = |o: usize, f: &dyn Fn(usize, usize) -> f64| -> f64 {
                (0..n * voxels)
                    .map(|i| {
                        f64::from(d[(i / voxels * outs + o) * voxels + i % voxels])
                            * f(i / voxels, i % voxels)
                    })
                    .sum()
            };
            let expected: Vec<f64> =
                (0..w.len()).map(|i| over(i / c, &|s, v| f64::from(x[at(s, v) + i % c]))).collect();
            near("head weights", &bench.get(dw, Element::F32), &expected, 3e-6);
            let expected: Vec<f64> = (0..outs).map(|o| over(o, &|_, _| 1.0)).collect();
            near("head bias", &bench.get(db, Element::F32), &expected, 3e-6);
        }
    }
}

/// Loss and gradient by finite differences of its definition.
#[test]
fn losses_and_their_gradients() {
    let Some(mut bench) = Bench::new() else { return };
    let (n, outs, voxels) = (2, 3, 1500);
    for case in 0..8 {
        let regions = case % 2 == 0;
        let rule = LossRule {
            dice_weight: 1.0,
            voxel_weight: 0.7,
            smooth: 1e-5,
            weight: 0.5,
            batch_dice: case % 4 < 2,
            background: regions,
            v1: case >= 4,
        };
        let ignoring = case >= 4;
        let x = bench.random(n * outs * voxels, 2.0);
        let stored = outs + usize::from(ignoring);
        let picks: Vec<usize> =
            bench.random(n * stored * voxels, 1.0).iter().map(|v| (v.abs() * 991.0) as usize).collect();
        let labels: Vec<i16> =
            (0..n * voxels).map(|i| (picks[i] % if ignoring { outs + 1 } else { outs }) as i16).collect();
        let flags: Vec<u8> = picks.iter().map(|p| u8::from(p % 5 == 0)).collect();
        let bytes: Vec<u8> =
            if regions { flags.clone() } else { labels.iter().flat_map(|l| l.to_ne_bytes()).collect() };
        let at = bench.put_bytes(&bytes);
        let ignored = (outs as i16).into();
        let target = if regions {
            LossTarget::Regions { at, ignoring }
        } else {
            LossTarget::Labels { at, ignored: if ignoring { ignored } else { None } }
        };
        let logits = Logits { at: bench.put(&x, Element::F32), batch: n, outputs: outs, voxels };
        let probabilities = bench.space(x.len(), Element::F32);
        let part = bench.space(logits.part_values() * 2, Element::F32);
        let sums = bench.space(logits.sum_values() * 2, Element::F32);
        let terms = bench.space(logits.term_values(), Element::F32);
        let loss = bench.space(6, Element::F32);
        bench.run(&Launch::loss(&logits, target, probabilities, part));
        bench.run(&Launch::loss_terms(&logits, target, &rule, [part, sums], [terms, loss]));
        bench.run(&Launch::loss_gradient(&logits, target, terms, probabilities));
        let value = |x: &[f64]| -> [f64; 3] {
            let weight = |s: usize, v: usize| -> f64 {
                let off = if regions {
                    flags[(s * stored + stored - 1) * voxels + v] == 1
                } else {
                    labels[s * voxels + v] == outs as i16
                };
                if ignoring && off { 0.0 } else { 1.0 }
            };
            let (mut entropy, mut count) = (0.0, 0.0);
            let mut p = vec![0.0; x.len()];
            let mut t = vec![0.0; x.len()];
            for s in 0..n {
                for v in 0..voxels {
                    let i = |o: usize| (s * outs + o) * voxels + v;
                    let w = weight(s, v);
                    if regions {
                        for o in 0..outs {
                            p[i(o)] = 1.0 / (1.0 + (-x[i(o)]).exp());
                            t[i(o)] = f64::from(flags[(s * stored + o) * voxels + v]);
                            entropy -= w * (t[i(o)] * p[i(o)].ln() + (1.0 - t[i(o)]) * (1.0 - p[i(o)]).ln());
                            count += if ignoring { w / outs as f64 } else { w };
                        }
                    } else {
                        let sum: f64 = (0..outs).map(|o| x[i(o)].exp()).sum();
                        for o in 0..outs {
                            p[i(o)] = x[i(o)].exp() / sum;
                            t[i(o)] = f64::from(u8::from(labels[s * voxels + v] == o as i16));
                            entropy -= w * t[i(o)] * p[i(o)].ln();
                        }
                        count += w;
                    }
                    for o in 0..outs {
                        p[i(o)] *= w;
                        t[i(o)] *= w;
                    }
                }
            }
            let first = usize::from(!rule.background);
            let sets: Vec<Vec<usize>> =
                if rule.batch_dice { vec![(0..n).collect()] } else { (0..n).map(|s| vec![s]).collect() };
            let mut dice = 0.0;
            for set in &sets {
                for o in first..outs {
                    let sum = |f: &dyn Fn(usize) -> f64| -> f64 {
                        set.iter()
                            .map(|s| (0..voxels).map(|v| f((s * outs + o) * voxels + v)).sum::<f64>())
                            .sum()
                    };
                    let (both, all) = (sum(&|i| p[i] * t[i]), sum(&|i| p[i] + t[i]));
                    let bottom = all + rule.smooth + if rule.v1 { 1e-8 } else { 0.0 };
                    dice -= (2.0 * both + rule.smooth) / bottom / (sets.len() * (outs - first)) as f64;
                }
            }
            let voxel = entropy / count;
            [rule.dice_weight * dice + rule.voxel_weight * voxel, dice, voxel]
        };
        let wide: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
        let found = bench.doubles(loss);
        let expected = value(&wide);
        assert!(
            (0..3).all(|i| (found[i] - expected[i]).abs() < 1e-6),
            "case {case}: {found:?}, {expected:?}"
        );
        let gradient = bench.get(probabilities, Element::F32);
        for i in (0..x.len()).step_by(611) {
            let eps = 1e-4;
            let moved = |by: f64| {
                let mut x = wide.clone();
                x[i] += by;
                value(&x)[0]
            };
            let expected = rule.weight * (moved(eps) - moved(-eps)) / (2.0 * eps);
            let far = (f64::from(gradient[i]) - expected).abs();
            assert!(
                far < 1e-8 + 1e-3 * expected.abs(),
                "case {case}: logit {i}: {}, {expected}",
                gradient[i]
            );
        }
    }
}

#[test]
fn updates_are_pytorchs_and_refuse_what_is_not_finite() {
    let Some(mut bench) = Bench::new() else { return };
    let len = 70_000;
    for element in Element::ALL {
        let (w, v, g) =
            (bench.random(len, 1.0), bench.random(len, 1.0), padded(&mut bench, len / 8, 8, 8, element));
        let gradient = bench.put(&g, element);
        let [weights, velocity, mean] = [&w, &v, &v].map(|v| bench.put(v, Element::F32));
        let square = bench.put(&v.iter().map(|v| v * v).collect::<Vec<_>>(), Element::F32);
        let copy = bench.space(len, element);
        let parts = Launch::square_parts(len);
        let part = bench.space(parts * 2, Element::F32);
        let (control, norm) = (bench.space(2, Element::F32), bench.space(2, Element::F32));
        let losses = bench.put_bytes(&[1.5f64, f64::NAN, f64::NAN].map(f64::to_ne_bytes).concat());
        bench.run(&Launch::squares(gradient, element, len, part));
        bench.run(&Launch::norm_total((part, parts), (losses, 1), control, norm, Some(12.0), 0.5));
        let length = 0.5 * g.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt();
        assert!((bench.doubles(norm)[0] / length - 1.0).abs() < 1e-9, "{:?}, {length}", bench.doubles(norm));
        let factor = (12.0 / (length + 1e-6)).min(1.0) * 0.5;
        let found = bench.get(control, Element::F32);
        assert!((f64::from(found[0]) / factor - 1.0).abs() < 1e-6 && found[1] > 0.0, "{found:?}, {factor}");
        let hyper = bench.put(&[0.01, 0.99, 3e-5, 1.0, 0.0], Element::F32);
        bench.run(&Launch::sgd([weights, velocity], (gradient, element), Some(copy), [control, hyper], len));
        let expected: Vec<f64> = (0..len)
            .map(|i| {
                let (w, g) = (f64::from(w[i]), f64::from(g[i]));
                let g = g * factor + 3e-5 * w;
                w - 0.01 * (g + 0.99 * (f64::from(v[i]) * 0.99 + g))
            })
            .collect();
        near("sgd", &bench.get(weights, Element::F32), &expected, 1e-6);
        near("sgd, copy", &bench.get(copy, element), &expected, rounding(element));
        let weights = bench.put(&w, Element::F32);
        let hyper = bench.put(&[0.9, 0.999, 1e-8, 0.02, 0.5, 0.9999], Element::F32);
        bench.run(&Launch::adamw([weights, mean, square], (gradient, element), None, [control, hyper], len));
        let expected: Vec<f64> = (0..len)
            .map(|i| {
                let (w, g, v) = (f64::from(w[i]), f64::from(g[i]) * factor, f64::from(v[i]));
                let (m, s) = (v + (g - v) * 0.1, v * v * 0.999 + 0.001 * g * g);
                w * 0.9999 - 0.02 * m / (s.sqrt() / 0.5 + 1e-8)
            })
            .collect();
        near("adamw", &bench.get(weights, Element::F32), &expected, 1e-4);

        let losses = bench.put_bytes(&[1.0, 0.0, 0.0, f64::NAN, 0.0, 0.0].map(f64::to_ne_bytes).concat());
        bench.run(&Launch::norm_total((part, parts), (losses, 2), control, norm, None, 1.0));
        assert_eq!(bench.get(control, Element::F32), [1.0, 0.0]);
        let before = bench.get(weights, Element::F32);
        bench.run(&Launch::sgd([weights, velocity], (gradient, element), Some(copy), [control, hyper], len));
        assert_eq!(before, bench.get(weights, Element::F32), "a step that is refused changes nothing");
    }
}

#[test]
fn unused_memory_of_the_host_is_not_a_number() {
    let Some(mut bench) = Bench::new() else { return };
    let at: Slice = bench.space(4, Element::F32);
    assert!(bench.get(at, Element::F32).iter().all(|v| v.is_nan()));
    bench.host.clear(at).expect("cleared");
    assert_eq!(bench.get(at, Element::F32), [0.0; 4]);
}
