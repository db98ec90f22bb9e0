"""Compares two folders of results, file by file; used by same-bytes.sh.

    same_bytes.py OLD_FOLDER NEW_FOLDER

Prints the first difference of every file that differs (of the first few) and exits with 1 if there is one, with 2 if the folders hold nothing to compare.

What counts is what was computed: voxels and headers of label maps, arrays in npz files, names and values of tensors, numbers in JSON
and CSV. What does not count: compression, times, paths, versions, messages, pictures and pages.
"""

import csv
import gzip
import json
import struct
import sys
import zipfile
from pathlib import Path

# Drawn from other files, a record of the clock, or left by a program that was killed.
SKIPPED_ENDINGS = (".png", ".html", ".txt", ".log", ".partial", ".part")
SKIPPED_STARTS = ("events.out.tfevents", ".tmp")

# Files that later versions write too: not missed where the older one has none. Properties of a case lie next to its arrays.
ADDED = ("dataset_fingerprint_sources.json", "made_with.json", ".pkl", "plans.json")

# Keys of JSON objects that tell of the run instead of the result.
SKIPPED_KEYS = {
    # times
    "seconds", "epoch_seconds", "started", "ended", "time", "date",
    # places and programs
    "path", "files", "file", "folder", "reference_file", "prediction_file", "postprocessing_file", "some_plans_file", "command",
    "program", "version", "notice", "device", "precision", "engine", "kernels", "threads", "memory",
    # words
    "message", "messages", "warnings", "hint", "error", "note", "notes",
}
# Of predict.json, what is known of a case; models and settings are given by the caller.
RECORD_KEYS = {"case", "status", "volume_ml", "postprocessed_voxels", "flags", "uncertainty"}
# Where the voxels of a prepared case begin, in multiples of bytes.
CASE_ALIGNMENT = 64
# So many files that differ are named.
SHOWN = 5


class Different(Exception):
    """The first difference of a file."""


def bytes_differ(old, new, unit="byte"):
    """Says where two byte strings differ first."""
    at = next((i for i, (a, b) in enumerate(zip(old, new)) if a != b), min(len(old), len(new)))
    if len(old) != len(new):
        raise Different(f"{len(old)} and {len(new)} bytes, different from {unit} {at}")
    raise Different(f"{unit} {at} of {len(old)}")


def compare_bytes(old, new):
    if old != new:
        bytes_differ(old, new)


def compare_gzip(old, new):
    compare_bytes(gzip.decompress(old.read_bytes()), gzip.decompress(new.read_bytes()))


def compare_npz(old, new):
    with zipfile.ZipFile(old) as a, zipfile.ZipFile(new) as b:
        names = compare_sets(a.namelist(), b.namelist(), "array")
        for name in names:
            try:
                compare_bytes(a.read(name), b.read(name))
            except Different as difference:
                raise Different(f"array {name}: {difference}") from None


def tensors(path):
    """Names, types, shapes and bytes of a safetensors file; its metadata are left out."""
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    body = memoryview(data)[8 + length :]
    return {
        name: (entry["dtype"], entry["shape"], bytes(body[slice(*entry["data_offsets"])]))
        for name, entry in header.items()
    }


def compare_tensors(old, new):
    a, b = tensors(old), tensors(new)
    for name in compare_sets(a, b, "tensor"):
        if a[name][:2] != b[name][:2]:
            raise Different(f"tensor {name}: {a[name][:2]} and {b[name][:2]}")
        x, y = a[name][2], b[name][2]
        if x == y:
            continue
        if a[name][0] == "F32":
            x, y = (struct.unpack(f"<{len(v) // 4}f", v) for v in (x, y))
            wrong = [i for i, (p, q) in enumerate(zip(x, y)) if struct.pack("<f", p) != struct.pack("<f", q)]
            at = wrong[0]
            raise Different(f"tensor {name}: {len(wrong)} of {len(x)} values, first {at}: {x[at]!r} and {y[at]!r}")
        bytes_differ(x, y, f"tensor {name}: byte")


def compare_sets(old, new, what):
    """The common names of two collections, which must be all of them."""
    for names, others, which in ((old, new, "OLD"), (new, old, "NEW")):
        alone = sorted(set(names) - set(others))
        if alone:
            raise Different(f"only {which} has the {what} {alone[0]}" + (f" and {len(alone) - 1} more" if alone[1:] else ""))
    return sorted(old)


def compare_values(old, new, at, skipped):
    if isinstance(old, dict) and isinstance(new, dict):
        old, new = ({k: v for k, v in d.items() if k not in skipped} for d in (old, new))
        for key in compare_sets(old, new, f"entry {at}.".replace("entry .", "entry ")):
            compare_values(old[key], new[key], f"{at}.{key}" if at else key, skipped)
    elif isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            raise Different(f"{at}: {len(old)} and {len(new)} entries")
        for i, (a, b) in enumerate(zip(old, new)):
            compare_values(a, b, f"{at}[{i}]", skipped)
    elif repr(old) != repr(new):
        # `repr` tells 1 from 1.0 and finds NaN equal to itself.
        raise Different(f"{at}: {old!r} and {new!r}")


def record(path):
    """The results in a predict.json."""
    cases = [{k: v for k, v in case.items() if k in RECORD_KEYS} for case in json.loads(path.read_bytes())["cases"]]
    for case in cases:
        # Where the maps of uncertainty lie; the maps themselves are compared as files.
        for key in ("entropy", "disagreement"):
            case.get("uncertainty", {}).pop(key, None)
    return cases


def compare_json(old, new):
    if old.name.startswith("predict") and old.name.endswith(".json"):
        compare_values(record(old), record(new), "cases", SKIPPED_KEYS)
    else:
        compare_values(json.loads(old.read_bytes()), json.loads(new.read_bytes()), "", SKIPPED_KEYS)


def compare_json_lines(old, new):
    a, b = (path.read_text().splitlines() for path in (old, new))
    compare_values([json.loads(line) for line in a], [json.loads(line) for line in b], "line", SKIPPED_KEYS)


def compare_csv(old, new):
    a, b = (list(csv.reader(path.read_text().splitlines())) for path in (old, new))
    for i, (x, y) in enumerate(zip(a, b)):
        if len(x) != len(y):
            raise Different(f"line {i + 1}: {len(x)} and {len(y)} fields")
        for column, (v, w) in enumerate(zip(x, y)):
            if v != w:
                raise Different(f"line {i + 1}, column {a[0][column]}: {v} and {w}")
    if len(a) != len(b):
        raise Different(f"{len(a)} and {len(b)} lines")


def compare_case(old, new):
    """A prepared case: all but its header, which names files and digests."""
    compare_bytes(case_data(old.read_bytes()), case_data(new.read_bytes()))


def case_data(case):
    """What follows the header, whose length stands after magic and version."""
    (length,) = struct.unpack_from("<I", case, 12)
    start = 16 + length
    return case[start + -start % CASE_ALIGNMENT :]


COMPARE = {
    ".nii.gz": compare_gzip,
    ".npz": compare_npz,
    ".safetensors": compare_tensors,
    ".json": compare_json,
    ".jsonl": compare_json_lines,
    ".csv": compare_csv,
    ".case": compare_case,
}


def compare_file(old, new):
    for ending, compare in COMPARE.items():
        if old.name.endswith(ending):
            return compare(old, new)
    return compare_bytes(old.read_bytes(), new.read_bytes())


def files(folder):
    """Relative paths of what is compared."""
    found = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return {p for p in found if not p.name.endswith(SKIPPED_ENDINGS) and not p.name.startswith(SKIPPED_STARTS)}


def main(old, new):
    try:
        there, made = files(old), files(new)
        made = {name for name in made if name in there or not name.name.endswith(ADDED)}
        names = compare_sets(there, made, "file")
    except Different as difference:
        print(difference)
        return 1
    if not names:
        print("neither has a file to compare")
        return 2
    differences = []
    for name in names:
        try:
            compare_file(old / name, new / name)
        except Different as difference:
            differences.append(f"{name}: {difference}")
    print("\n".join(differences[:SHOWN]))
    if len(differences) > SHOWN:
        print(f"and {len(differences) - SHOWN} more files")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
