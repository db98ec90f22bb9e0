//! Attention, and tiles of predictions, against plain loops.

use crate::common::{Bench, near};
use glioseg_cuda::host::{decode, encode};
use glioseg_cuda::launch::{Launch, Lines, Map, Tile};
use glioseg_cuda::{Element, Slice};

fn map(bench: &mut Bench, n: usize, size: [usize; 3], channels: usize, element: Element) -> (Map, Vec<f64>) {
    let values = bench.random(n * size.iter().product::<usize>() * channels, 1.0);
    let values = decode(&encode(&values, element), element);
    let map = Map { at: bench.put(&values, element), batch: n, size, channels, element };
    (map, values.into_iter().map(f64::from).collect())
}

/// Result and gradients of queries and keys with values, one line after the other.
fn expected(lines: &Lines, [q, kv]: [&Map; 2], [vq, vkv, d]: [&[f64]; 3]) -> [Vec<f64>; 3] {
    let (length, dim, hidden) = (q.size[lines.axis], lines.dim, lines.hidden());
    let inner: usize = q.size[lines.axis + 1..].iter().product();
    let mut found = [vec![0.0; vq.len()], vec![0.0; vq.len()], vec![0.0; vkv.len()]];
    let scale = 1.0 / (dim as f64).sqrt();
    for line in 0..q.batch * q.voxels() / length {
        let voxel = |t: usize| (line / inner * length + t) * inner + line % inner;
        for head in 0..lines.heads {
            let of_q = |t: usize, e: usize| voxel(t) * q.channels + head * dim + e;
            let of_k = |t: usize, e: usize| voxel(t) * kv.channels + head * dim + e;
            let of_v = |t: usize, e: usize| of_k(t, e) + hidden;
            for t in 0..length {
                let over = |f: &dyn Fn(usize) -> f64| (0..dim).map(f).sum::<f64>();
                let scores: Vec<f64> =
                    (0..length).map(|s| over(&|e| vq[of_q(t, e)] * vkv[of_k(s, e)]) * scale).collect();
                let sum: f64 = scores.iter().map(|s| s.exp()).sum();
                let weights: Vec<f64> = scores.iter().map(|s| s.exp() / sum).collect();
                let of_weights: Vec<f64> =
                    (0..length).map(|s| over(&|e| d[of_q(t, e)] * vkv[of_v(s, e)])).collect();
                let mean: f64 = weights.iter().zip(&of_weights).map(|(w, d)| w * d).sum();
                for s in 0..length {
                    let of_score = weights[s] * (of_weights[s] - mean) * scale;
                    for e in 0..dim {
                        found[0][of_q(t, e)] += weights[s] * vkv[of_v(s, e)];
                        found[1][of_q(t, e)] += of_score * vkv[of_k(s, e)];
                        found[2][of_k(s, e)] += of_score * vq[of_q(t, e)];
                        found[2][of_v(s, e)] += weights[s] * d[of_q(t, e)];
                    }
                }
            }
        }
    }
    found
}

#[test]
fn attention_and_its_gradients_along_every_axis() {
    let Some(mut bench) = Bench::new() else { return };
    for (axis, heads, dim, size) in [(0, 2, 8, [5, 2, 3]), (1, 1, 4, [2, 40, 1]), (2, 4, 6, [1, 2, 17])] {
        for element in [Element::F32, Element::Bf16] {
            let lines = Lines { axis, heads, dim };
            let (q, vq) = map(&mut bench, 2, size, 24, element);
            let (kv, vkv) = map(&mut bench, 2, size, 48, element);
            let (d, vd) = map(&mut bench, 2, size, 24, element);
            let (result, before) = map(&mut bench, 2, size, 24, element);
            let (dq, of_dq) = map(&mut bench, 2, size, 24, element);
            let (dkv, of_dkv) = map(&mut bench, 2, size, 48, element);
            let rows = bench.space(lines.row_values(&q), Element::F32);
            bench.run(&Launch::attention(&lines, &q, &kv, &result));
            bench.run(&Launch::attention_queries(&lines, [&q, &kv], &d, &dq, rows));
            bench.run(&Launch::attention_keys(&lines, [&q, &kv], &d, &dkv, rows));
            let [mut of_result, mut of_q, mut of_kv] = expected(&lines, [&q, &kv], [&vq, &vkv, &vd]);
            // Padding is left as it is.
            let hidden = lines.hidden();
            for (values, old, c, used) in [
                (&mut of_result, &before, 24, hidden),
                (&mut of_q, &of_dq, 24, hidden),
                (&mut of_kv, &of_dkv, 48, 2 * hidden),
            ] {
                (0..values.len()).filter(|i| i % c >= used).for_each(|i| values[i] = old[i]);
            }
            let tolerance = if element == Element::F32 { 5e-6 } else { 5e-3 };
            let name = |what: &str| format!("{what}, {lines:?}, {element:?}");
            near(&name("result"), &bench.get(result.at, element), &of_result, tolerance);
            near(&name("queries"), &bench.get(dq.at, element), &of_q, tolerance);
            near(&name("keys"), &bench.get(dkv.at, element), &of_kv, tolerance);
        }
    }
}

#[test]
fn embeddings_and_their_gradients() {
    let Some(mut bench) = Bench::new() else { return };
    let (size, real) = ([3, 4, 5], 11);
    for element in Element::ALL {
        let (x, vx) = map(&mut bench, 2, size, 16, element);
        let (z, _) = map(&mut bench, 2, size, 16, element);
        let positions = size.map(|length| bench.random(real * length, 0.5));
        let at = positions.each_ref().map(|values| bench.put(values, Element::F32));
        bench.run(&Launch::embed(&x, at, real, &z));
        let place = |i: usize| [i / 16 / 20 % 3, i / 16 / 5 % 4, i / 16 % 5];
        let sum = |i: usize| -> f64 {
            (0..3).map(|a| f64::from(positions[a][i % 16 * size[a] + place(i)[a]])).sum()
        };
        let expected: Vec<f64> =
            (0..vx.len()).map(|i| if i % 16 < real { vx[i] + sum(i) } else { vx[i] }).collect();
        near("embed", &bench.get(z.at, element), &expected, 5e-3);
        for axis in 0..3 {
            let to = bench.space(real * size[axis], Element::F32);
            bench.run(&Launch::embed_backward(&x, axis, real, to));
            let mut expected = vec![0.0; real * size[axis]];
            for (i, v) in vx.iter().enumerate().filter(|(i, _)| i % 16 < real) {
                expected[i % 16 * size[axis] + place(i)[axis]] += v;
            }
            near("embed backward", &bench.get(to, Element::F32), &expected, 1e-6);
        }
    }
}

/// A case, its tiles in every mirroring, and the sums of their logits, rounded as on the CPU.
#[test]
fn tiles_are_cut_mirrored_and_added_up_as_on_the_cpu() {
    let Some(mut bench) = Bench::new() else { return };
    let (shape, size, channels): ([usize; 3], [usize; 3], usize) = ([5, 6, 7], [4, 4, 8], 3);
    let (voxels, volume): (usize, usize) = (size.iter().product(), shape.iter().product());
    let case = bench.random(channels * volume, 1.0);
    let weights = bench.random(voxels, 1.0);
    let (at, weights_at) = (bench.put(&case, Element::F32), bench.put(&weights, Element::F32));
    let inside = |tile: &Tile, place: [usize; 3]| -> Option<usize> {
        let at: [isize; 3] = std::array::from_fn(|a| tile.start[a] + place[a] as isize);
        let inside = (0..3).all(|a| (0..shape[a] as isize).contains(&at[a]));
        inside.then(|| at.iter().zip(shape).fold(0, |sum, (&a, s)| sum * s + a as usize))
    };
    for (mirror, start) in [[-1, 2, 0], [0, 0, -1], [1, -2, -1], [3, 4, 2]].into_iter().enumerate() {
        let mirrored = [mirror & 1 != 0, mirror & 2 != 0, mirror == 3];
        let tile = Tile { shape, size, start, mirrored };
        let flipped = |place: [usize; 3]| {
            std::array::from_fn(|a| if mirrored[a] { size[a] - 1 - place[a] } else { place[a] })
        };
        let places: Vec<[usize; 3]> = (0..voxels).map(|i| [i / 32, i / 8 % 4, i % 8]).collect();
        for element in Element::ALL {
            let to = Map { at: bench.space(voxels * channels, element), batch: 1, size, channels, element };
            bench.run(&Launch::gather(at, &tile, &to));
            let value = |i: usize| {
                let from = inside(&tile, flipped(places[i / channels]));
                from.map_or(0.0, |v| case[i % channels * volume + v])
            };
            let expected: Vec<f32> = (0..voxels * channels).map(value).collect();
            assert_eq!(bench.get(to.at, element), decode(&encode(&expected, element), element), "{tile:?}");
        }
        let logits = bench.random(channels * voxels, 3.0);
        let from = bench.put(&logits, Element::F32);
        let before = bench.random(channels * voxels, 3.0);
        for add in [false, true] {
            let mean: Slice = bench.put(&before, Element::F32);
            bench.run(&Launch::unmirror(from, &tile, channels, mean, add));
            let index = |[z, y, x]: [usize; 3]| (z * 4 + y) * 8 + x;
            let value = |i: usize| {
                let l = logits[i / voxels * voxels + index(flipped(places[i % voxels]))];
                if add { before[i] + l } else { l }
            };
            let expected: Vec<f32> = (0..channels * voxels).map(value).collect();
            assert_eq!(bench.get(mean, Element::F32), expected, "{tile:?}");
        }
        for element in [Element::F32, Element::F16] {
            let old = decode(&encode(&bench.random(channels * volume, 5.0), element), element);
            let sums = bench.put(&old, element);
            let share = 1.0 / 8.0;
            bench.run(&Launch::accumulate([from, weights_at], &tile, channels, (sums, element), share));
            let mut expected = old;
            for c in 0..channels {
                for (i, &place) in places.iter().enumerate() {
                    if let Some(v) = inside(&tile, place) {
                        expected[c * volume + v] += logits[c * voxels + i] * share * weights[i];
                    }
                }
            }
            assert_eq!(bench.get(sums, element), decode(&encode(&expected, element), element), "{tile:?}");
        }
    }
}
