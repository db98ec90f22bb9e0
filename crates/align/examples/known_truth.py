"""Registers pairs of known truth with the example `register_pair` and prints errors in mm and CPU seconds.

Usage: known_truth.py PROGRAM PAIRS [OPTION...]   (options go to the program). Needs numpy and nibabel.

PAIRS holds a folder for each pair: fixed.nii.gz, moving.nii.gz, mask.nii.gz (the brain of the fixed image) and truth.json with `T`, the
4 x 4 transform, point of the fixed image to that of the moving one, LPS mm. The error is the mean distance over points of the brain, every
fourth voxel. A pair NAME_0 is one that was not moved: pairs of the same NAME are then also compared with what was found there.
"""
import json
import os
import resource
import subprocess
import sys

import nibabel as nib
import numpy as np

PROGRAM, PAIRS, OPTIONS = sys.argv[1], sys.argv[2], sys.argv[3:]
FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])


def cpu():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def register(folder):
    before = cpu()
    done = subprocess.run([PROGRAM, f'{folder}/fixed.nii.gz', f'{folder}/moving.nii.gz', *OPTIONS], capture_output=True, text=True, check=True)
    rows = [[float(v) for v in line.split()] for line in done.stdout.splitlines()]
    return np.array([*rows, [0, 0, 0, 1]]), cpu() - before


def brain(folder):
    image = nib.load(f'{folder}/mask.nii.gz')
    voxels = np.argwhere(np.asarray(image.dataobj)[::4, ::4, ::4]) * 4
    return FLIP @ image.affine @ np.c_[voxels, np.ones(len(voxels))].T


def mean_distance(a, b, points):
    return float(np.linalg.norm(((a - b) @ points)[:3], axis=0).mean())


cases = sorted(c for c in os.listdir(PAIRS) if os.path.isdir(f'{PAIRS}/{c}'))
found = {}
for case in cases:
    folder = f'{PAIRS}/{case}'
    found[case] = register(folder)
table = {}
for case in cases:
    folder = f'{PAIRS}/{case}'
    truth, points = np.array(json.load(open(f'{folder}/truth.json'))['T']), brain(folder)
    transform, seconds = found[case]
    error = mean_distance(transform, truth, points)
    unmoved = case.rsplit('_', 1)[0] + '_0'
    own = mean_distance(transform, truth @ found[unmoved][0], points) if unmoved in found and unmoved != case else None
    table[case] = error, own, seconds
    print(f'{case:20s} mean {error:.3f}' + (f'  against its own result unmoved {own:.3f}' if own is not None else '') + f'  CPU {seconds:.2f} s')
for kind in sorted({case[0] for case in cases}):
    of = [v for c, v in table.items() if c[0] == kind and not c.endswith('_0')] or [v for c, v in table.items() if c[0] == kind]
    errors, owns, seconds = [v[0] for v in of], [v[1] for v in of if v[1] is not None], [v[2] for v in of]
    print(f'{kind}: {len(of)} pairs, mean error median {np.median(errors):.3f} largest {max(errors):.3f}, CPU {min(seconds):.2f} to {max(seconds):.2f} s'
          + (f', against own result median {np.median(owns):.3f} largest {max(owns):.3f}' if owns else ''))
