"""Times this crate against medpy and BraTS-evaluation (panoptica) on pairs of label maps, in one run.

    cargo build --release -p glioseg-metrics --example score_pair
    python crates/metrics/examples/bench_peers.py target/release/examples/score_pair FOLDER [REPEATS]

FOLDER holds CASE/CASE_seg.nii.gz and CASE/CASE_algo-*.nii.gz with labels 1-2-4. Needs medpy, BraTS-evaluation, nibabel.
Each repetition times, one after the other: the Python programs on a pair (reading, Dice and HD95 of WT, TC, ET by medpy;
reading and all groups by BraTS-evaluation), then the whole process of this crate on the same files with every rule
(the two above, nnU-Net's, BraTS 2023's, surfaces), with one thread and with all, and with one thread and only the numbers of
medpy, or only those of BraTS-evaluation. Numbers are compared first.
"""
import json, logging, os, subprocess, sys, tempfile, time, warnings
from importlib.resources import files
from pathlib import Path
from statistics import median
import nibabel as nib
import numpy as np
from medpy.metric import binary
from panoptica import Panoptica_Evaluator

warnings.simplefilter("ignore"); logging.disable(logging.WARNING)
binary_path, folder = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
repeats = int(sys.argv[3]) if len(sys.argv) > 3 else 3
REGIONS = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}
evaluator = Panoptica_Evaluator.load_from_config(str(files("brats_evaluation").joinpath("configs", "config_gli.yaml")))


def by_medpy(ref, pred):
    r, p = (np.asanyarray(nib.load(f).dataobj) for f in (ref, pred))
    out = {}
    for name, labels in REGIONS.items():
        a, b = np.isin(r, labels), np.isin(p, labels)
        if a.any() and b.any():
            out[name] = (float(binary.dc(b, a)), float(binary.hd95(b, a, voxelspacing=(1, 1, 1))))
        else:
            out[name] = (1.0, 0.0) if a.any() == b.any() else (0.0, 373.1287)
    return out


def timed(f, *args):
    start = time.perf_counter()
    out = f(*args)
    return out, time.perf_counter() - start


def by_us(ref, pred, threads, rules="all"):
    env = dict(os.environ) | ({"RAYON_NUM_THREADS": str(threads)} if threads else {})
    return json.loads(subprocess.run([binary_path, ref, pred, "1-2-3", "1", rules], check=True, capture_output=True, env=env).stdout)


def check(ours, medpy, panoptica):
    rules = {s["rule"]: {r["region"]: r["values"] for r in s["regions"]} for s in ours["scores"]}
    for name, (dice, hd95) in medpy.items():
        found = rules["brats2021"][name]
        assert abs(found["Dice"] - dice) < 1e-6 and abs(found["HD95"] - hd95) < 1e-6, (name, found, dice, hd95)
    for group, result in panoptica.items():
        for key, value in result.to_dict(False).items():
            assert np.isclose(float(rules["brats2026"][group][key]), value, atol=1e-6, equal_nan=True), (group, key)


rows = []
with tempfile.TemporaryDirectory() as made:
    for case in sorted(p for p in folder.iterdir() if p.is_dir()):
        for algorithm in sorted(case.glob("*_algo-*.nii.gz")):
            # BraTS-evaluation knows the labels 1-2-3 only.
            paths = []
            for source in (case / f"{case.name}_seg.nii.gz", algorithm):
                image = nib.load(source)
                data = np.asanyarray(image.dataobj)
                nib.save(nib.Nifti1Image(np.where(data == 4, 3, data).astype(np.uint8), image.affine), f"{made}/{source.name}")
                paths.append(f"{made}/{source.name}")
            times = []
            for _ in range(repeats):
                medpy, t_medpy = timed(by_medpy, *paths)
                panoptica, t_panoptica = timed(evaluator.evaluate, paths[1], paths[0])
                ours, t_one = timed(by_us, *paths, 1)
                _, t_all = timed(by_us, *paths, 0)
                _, t_2021 = timed(by_us, *paths, 1, "brats2021")
                _, t_2026 = timed(by_us, *paths, 1, "brats2026")
                times.append((t_medpy, t_panoptica, t_one, t_all, t_2021, t_2026))
            check(ours, medpy, panoptica)
            rows.append([median(t) for t in zip(*times)])
            m, p, one, all_, only_2021, only_2026 = rows[-1]
            print(f"{algorithm.name[:-7]:36} medpy {m:6.2f} s  panoptica {p:6.2f} s  ours {one:6.3f} s (1 thread) {all_:6.3f} s (all)"
                  f"  ratio {(m + p) / one:5.1f} {(m + p) / all_:5.1f}  same numbers {m / only_2021:5.1f} {p / only_2026:5.1f}", flush=True)
m, p, one, all_, only_2021, only_2026 = (sum(c) / len(c) for c in zip(*rows))
print(f"mean of {len(rows)} pairs: medpy {m:.2f} s, BraTS-evaluation {p:.2f} s, ours {one:.3f} s with 1 thread, {all_:.3f} s with all; "
      f"ratio {(m + p) / one:.1f} and {(m + p) / all_:.1f}; the same numbers only, 1 thread: {only_2021:.3f} s, {m / only_2021:.1f} times as fast as medpy; "
      f"{only_2026:.3f} s, {p / only_2026:.1f} times as fast as BraTS-evaluation")
