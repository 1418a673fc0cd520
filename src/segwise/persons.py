"""Generated persons that plans are run on, of families that no shipped model ever saw, as folders of a data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from segwise.demo import write_scan
from segwise.errors import PlanError
from segwise.records.types import Plan, Study
from segwise.synth.head import head
from segwise.synth.imaging import Scan, ct, mr
from segwise.synth.lesions import lesions
from segwise.synth.rare import rare_torso
from segwise.synth.torso import torso

FAMILIES = ("torso", "head", "thin-torso", "thick-torso", "lesions", "rare-torso")  # that no shipped model saw
FIRST = 900  # seed of the first person
APART = 10_000  # between the persons of data sets beside a study
EXTRA = 5900  # of the first one that is only trained on
RARE = 3000  # added for persons of rare anatomy: nobody is the same person with usual anatomy
HOME = {"rare-torso": "torso"}  # lies in the data set of another family: scanned alike, so no data set of its own
TORSO_MM, THIN_MM, THICK_MM, HEAD_MM = (3.0, 5.5, 5.5), (1.0, 4.0, 4.0), (6.0, 4.0, 4.0), (3.5, 3.5, 3.5)
LESIONS_MM = (4.0, 2.0, 2.0)
Tick = Callable[[int, int, str], None]


def of_study(study: Study, root: Path, *, tick: Tick | None = None) -> Path:
    """Write the generated persons of a study; those that are there are kept. The folder.

    Raises:
        PlanError: no such family.
    """
    return write(*study.persons, "study.persons", FIRST, root, tick)


def of_plan(plan: Plan, root: Path, *, tick: Tick | None = None) -> list[Path]:
    """Write the persons of a study, and beside them those of families that are only tested. The data sets in order.

    Raises:
        PlanError: no such family.
    """
    assert plan.study is not None
    if not plan.persons:
        return [of_study(plan.study, root, tick=tick)]
    family, n = plan.study.persons
    found = [write(family, n, "study.persons", FIRST, root / family, tick)]
    for k, (family, n) in enumerate(plan.persons):  # nobody who was trained on is seen by another scanner
        found.append(write(family, n, "persons", FIRST + APART * (k + 1), root / family, tick))
    return found


def write(family: str, n: int, where: str, first: int, root: Path, tick: Tick | None) -> Path:
    """Write n persons of a family; those that are there are kept. The folder.

    Args:
        family: one of FAMILIES.
        n: how many.
        where: of the plan, for messages.
        first: seed of the first one.
        root: the folder.
        tick: told how far it is.

    Raises:
        PlanError: no such family.
    """
    if family not in FAMILIES:
        raise PlanError(f'{where}.family: "{family}", expected one of {", ".join(FAMILIES)}')
    for i in range(n):
        if tick is not None:
            tick(i, n, f"making {family} {i}")
        folder = root / f"{family}_{first + i - FIRST:03d}"
        if not (folder / "case.json").is_file():
            seed = first + i + (RARE if family == "rare-torso" else 0)
            write_scan(folder, _person(family, seed), seed)
    return root


def _person(family: str, seed: int) -> Scan:
    if family == "torso":
        return ct(torso(seed, spacing_mm=2.2), seed, spacing_mm=TORSO_MM)
    if family == "thin-torso":
        return ct(torso(seed, spacing_mm=2.2), seed, spacing_mm=THIN_MM)
    if family == "thick-torso":  # as of another scanner: thick slices and twice the noise
        return ct(torso(seed, spacing_mm=2.2), seed, spacing_mm=THICK_MM, noise_hu=28.0)
    if family == "rare-torso":
        return rare_torso(seed, spacing_mm=TORSO_MM)
    if family == "lesions":
        return ct(lesions(seed), seed, spacing_mm=LESIONS_MM)
    return mr(head(seed), seed, spacing_mm=HEAD_MM)
