"""How well the failure signatures tell spoilt masks from good ones: ROC AUC on real masks spoilt in known ways.

    python benchmarks/failures.py ../shared/data --rows runs/failures.jsonl              # measure, print the AUCs
    python benchmarks/failures.py ../shared/data --rows runs/failures.jsonl --calibrate  # print signatures/scale.py

Real masks are split by the name of the structure, ways to spoil by name: half of each calibrates, the AUCs are of
names and ways that the calibration did not see. Good masks are the references themselves and the same with outlines
off by up to a voxel (`wobble` in levels 1 to 3). Nothing is measured twice: rows that are there are read.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from failures_masks import Structure, structures
from scipy import stats

from segwise.geometry import Array
from segwise.signatures import judge, look, scale
from segwise.synth import spoilt

CALIBRATES = ("dilation", "bleed", "jitter", "holes", "dropped", "islands", "tail", "shrinking")  # the other kinds test
PROMPTERS = ("box3d", "box2d")
BLIND = PROMPTERS  # sources of components: the prompt, and the image
ALONE = ("box3d alone", "box2d alone")  # the prompt without the image
SOURCES = ("reference", *BLIND, *ALONE)
IMAGED = {
    "leak": ("inner", "place", "foreign"),
    "overrun": ("blunt",),
    "decay": ("farther", "goes_on", "gnawed"),
}  # say nothing without one
KEPT = {  # with an image, the components that made the AUC on the calibrating half better
    "leak": ("beyond", "slice", "inner", "place", "foreign"),
    "decay": ("lost", "fading", "farther", "goes_on", "gnawed"),
}
N_GOOD = 3  # wobbles of each mask
LEVELS = (1, 3, 5)
SPECIFICITY = 0.95  # of a signature on good masks for calibration
LEAST = 0.005  # no component counts as 1 below this
Row = dict[str, Any]
SIGNATURES = tuple(judge.SIGNATURES)


def measured(structure: Structure) -> Iterator[Row]:
    """Components of every mask made of a structure, with the reference and (by prompter) without it."""
    for kind, level, mask in _masks(structure):
        seed = int.from_bytes(f"{structure.case}{structure.name}{kind}{level}".encode(), "little") % 2**32
        row = {"case": structure.case, "name": structure.name, "kind": kind, "level": level}
        row["dsc"] = float(2 * (mask & structure.target.mask).sum() / (mask.sum() + structure.target.mask.sum()))
        for prompter, alone in zip(BLIND, ALONE, strict=True):
            seen = look.look(structure.pair(mask, prompter, seed), plane="axial")
            if "reference" not in row:
                row["reference"] = {n: _values(module.with_reference(seen)) for n, module in judge.SIGNATURES.items()}
            for source, one in ((prompter, seen), (alone, dataclasses.replace(seen, sight=None))):
                row[source] = {name: _values(module.without(one)) for name, module in judge.SIGNATURES.items()}
        yield row


def _values(found: Mapping[str, look.Found]) -> dict[str, float]:
    return {key: round(one.value, 5) for key, one in found.items()}


def _masks(structure: Structure) -> Iterator[tuple[str, int, Array]]:
    yield "reference", 0, structure.target.mask
    for seed in range(N_GOOD):
        yield "wobble", 0, spoilt.spoil(structure.target, "wobble", level=seed + 1, seed=seed)
    for group in spoilt.KINDS.values():
        for kind in group:
            if (kind in CALIBRATES) != structure.calibrates:
                continue
            for level in LEVELS:
                mask = spoilt.spoil(structure.target, kind, level=level, seed=level)
                if mask.any() and (mask != structure.target.mask).any():
                    yield kind, level, mask


def rows(data: Path, file: Path) -> list[Row]:
    """All rows, measured where the file does not have them yet; those of an older benchmark are measured again."""
    found = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    found = [row for row in found if all(source in row for source in SOURCES)]
    known = {(row["case"], row["name"]) for row in found}
    start = time.perf_counter()
    for structure in structures(data):
        if (structure.case, structure.name) in known:
            continue
        new = [{**row, "calibrates": structure.calibrates} for row in measured(structure)]
        found += new
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as out:
            out.writelines(json.dumps(row) + "\n" for row in new)
        print(f"{time.perf_counter() - start:6.0f} s  {structure.case} {structure.name}", flush=True)
    return found


def auc(good: Array, bad: Array) -> float:
    """ROC AUC: the chance that a bad one has the higher value, ties one half. [N], [M]."""
    rank = stats.rankdata(np.concatenate([good, bad]))[len(good) :].sum()
    return float((rank - len(bad) * (len(bad) + 1) / 2) / (len(good) * len(bad)))


def severity(row: Row, source: str, signature: str) -> float:
    """As `judge.judge`, from a row's components."""
    every = scale.REFERENCE if source == "reference" else scale.BLIND if source in BLIND else scale.ALONE
    scales = every[signature]
    return max(row[source][signature][name] / unit for name, unit in scales.items())


def is_good(row: Row) -> bool:
    """It is no failure."""
    return row["kind"] in ("reference", "wobble")


def calibrate(found: list[Row]) -> None:
    """Print the value of each component that counts as 1, and what each component is worth by itself."""
    own = [row for row in found if row["calibrates"]]
    good = [row for row in own if is_good(row)]
    for title, sources in (("REFERENCE", ("reference",)), ("BLIND", BLIND), ("ALONE", ALONE)):
        print(f"\n{title}")
        for signature in SIGNATURES:
            bad = [row for row in own if row["kind"] in spoilt.KINDS[signature]]
            names = [
                name
                for name in good[0][sources[0]][signature]
                if (name not in IMAGED.get(signature, ()) if sources == ALONE else True)
                and (name in KEPT.get(signature, (name,)) if sources == BLIND else True)
            ]

            def values(of: list[Row], name: str, signature: str = signature, sources: Any = sources) -> Array:
                return np.array([row[s][signature][name] for s in sources for row in of])

            share = SPECIFICITY
            while True:  # components together must flag one good mask in twenty, not each of them
                units = {name: max(LEAST, float(np.quantile(values(good, name), share))) for name in names}
                worst = np.max([values(good, name) / unit for name, unit in units.items()], axis=0)
                if (worst <= 1).mean() >= SPECIFICITY or share > 0.999:
                    break
                share += 0.0025
            told = ", ".join(f'"{name}": {unit:.3g}' for name, unit in units.items())
            each = ", ".join(f"{name} {auc(values(good, name), values(bad, name)):.3f}" for name in names)
            print(f'    "{signature}": {{{told}}},\n        # AUC of each: {each}; quantile {share:.4f}')


def tables(found: list[Row]) -> None:
    """Print AUCs on names and ways that the calibration did not see, by signature, kind and level, and false flags."""
    test = [row for row in found if not row["calibrates"]]
    good = [row for row in test if is_good(row)]
    n_names = len({row["name"] for row in test})
    print(f"\n{len(test)} masks of {len({(r['case'], r['name']) for r in test})} structures ({n_names} names)")
    print(f"{'signature':15} {'kind':11} " + " ".join(f"{s:>11}" for s in SOURCES) + "   by level 1, 3, 5")
    for signature in SIGNATURES:
        kinds = [kind for kind in spoilt.KINDS[signature] if kind not in CALIBRATES]
        for kind in ["all", *kinds]:
            bad = [row for row in test if row["kind"] in (kinds if kind == "all" else (kind,))]
            cells, levels = [], []
            for source in SOURCES:
                get = _getter(source, signature)
                cells.append(f"{auc(get(good), get(bad)):11.3f}")
                own = [[r for r in bad if r["level"] == level] for level in LEVELS]
                levels.append(" ".join(f"{auc(get(good), get(part)):.2f}" if part else "  - " for part in own))
            print(f"{signature:15} {kind:11} {' '.join(cells)}   {' | '.join(levels)}")
    print("\nshare flagged (severity above 1): " + "; ".join(SOURCES))
    by_kind: dict[str, list[Row]] = defaultdict(list)
    for row in test:
        by_kind["good" if is_good(row) else row["kind"]].append(row)
    for kind, own in by_kind.items():
        cells = [
            " ".join(f"{(_getter(source, signature)(own) > 1).mean():5.2f}" for signature in SIGNATURES)
            for source in SOURCES
        ]
        print(f"{kind:12} {' | '.join(cells)}")


def _getter(source: str, signature: str) -> Callable[[list[Row]], Array]:
    return lambda of: np.array([severity(row, source, signature) for row in of])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of real cases")
    parser.add_argument("--rows", type=Path, required=True, help="where the measured components are kept")
    parser.add_argument("--calibrate", action="store_true", help="print the numbers of signatures/scale.py")
    args = parser.parse_args()
    found = rows(args.data, args.rows)
    if args.calibrate:
        calibrate(found)
    else:
        tables(found)


if __name__ == "__main__":
    main()
