"""The real cases: all are found and hold what their case.json says."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segwise import anatomy
from segwise.case import Case
from segwise.evaluate.inventory import find, inventory, recognising


@pytest.fixture(scope="module")
def cases(data: Path) -> dict[str, Case]:
    layout, found = find(data)
    assert layout == "case-json"
    return {case.id: case for case in found}


def told(data: Path, id_: str) -> dict[str, Any]:
    what: dict[str, Any] = json.loads((data / id_ / "case.json").read_text())
    return what


def test_all_cases_are_listed(data: Path, cases: dict[str, Case]) -> None:
    with (data / "manifest.csv").open(encoding="utf-8") as file:
        manifest = {row["id"]: row for row in csv.DictReader(file)}
    assert recognising(data) == ["case-json"]
    assert list(cases) == sorted(manifest) and len(cases) == 25
    for id_, case in cases.items():
        assert case.subject == manifest[id_]["subject"] and case.quality == manifest[id_]["label_quality"]
        assert case.modality == manifest[id_]["modality"]
        assert all(structure.known for structure in case.structures)
    assert cases["ct_abdomen_ts"].subject == cases["ct_trunk_vertebrae_ts"].subject
    assert cases["ct_sarcoma_sts002"].subject == cases["mr_sarcoma_sts002"].subject


def test_voxels_of_all_cases(data: Path, cases: dict[str, Case]) -> None:
    for row in inventory(cases.values()):
        what = told(data, row["id"])
        assert row["error"] == ""
        assert row["shape"] == what["shape"][::-1]
        np.testing.assert_allclose(row["spacing_mm"], what["spacing_mm"][::-1], atol=1e-3)
        plain = {str(t["value"]): t["voxels"] for t in row["targets"] if not isinstance(t["value"], list)}
        assert plain == what["label_voxels"]


def test_whole_tumors(data: Path, cases: dict[str, Case]) -> None:
    for number in (1, 3, 5):
        case = cases[f"mr_brain_glioma_brats13_{number}"]
        voxels = told(data, case.id)["label_voxels"]
        whole, core = case.structure("whole tumor"), case.structure("tumor core")
        assert whole is not None and whole.values == (1, 2, 3, 4)
        assert core is not None and core.values == (1, 3, 4)
        assert whole.raw == "necrosis+edema+non_enhancing_tumor+enhancing_tumor"
        masks = case.load_masks((whole, core))
        assert [mask.sum() for mask in masks] == [sum(voxels.values()), sum(voxels.values()) - voxels["2"]]


def test_targets_of_the_floor_are_there(data: Path, cases: dict[str, Case]) -> None:
    with (data / "floor.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found = cases[row["case"]].structure(row["labels"])
            assert found is not None and "+".join(map(str, found.values)) == row["values"]


def test_both_sides_together(data: Path, cases: dict[str, Case]) -> None:
    case, voxels = cases["mr_brain_t1_freesurfer"], told(data, "mr_brain_t1_freesurfer")["label_voxels"]
    for name, left, right in (("thalamus", 10, 49), ("hippocampus", 17, 53), ("cerebral cortex", 3, 42)):
        union = case.structure(name)
        assert union is not None and union.sides == anatomy.union_of(name) and union.values == (left, right)
        (mask,) = case.load_masks((union,))
        assert mask.sum() == voxels[str(left)] + voxels[str(right)]
    assert case.structure("vessel") is None  # of the right side alone


def test_a_centroid_by_another_library(data: Path, cases: dict[str, Case]) -> None:
    nib = pytest.importorskip("nibabel")
    labels = nib.load(data / "mr_spine_t2_sct" / "labels.nii.gz")
    there = np.argwhere(np.asarray(labels.dataobj) == 1)
    (row,) = inventory([cases["mr_spine_t2_sct"]])
    expected = nib.affines.apply_affine(labels.affine, there.mean(axis=0))
    np.testing.assert_allclose(row["targets"][0]["centroid_ras_mm"], expected, atol=1e-4)


def test_one_case_folder_and_a_tree_of_links(data: Path, tmp_path: Path) -> None:
    assert [case.id for case in find(data / "mr_spine_t2_sct")[1]] == ["mr_spine_t2_sct"]
    for name in ("mr_spine_t2_sct", "ct_abdomen_ts"):
        (tmp_path / name).symlink_to(data / name)
    found = find(tmp_path)[1]
    assert [case.id for case in found] == ["ct_abdomen_ts", "mr_spine_t2_sct"]
    assert found[0].images == ("ct_abdomen_ts/image.nii.gz",)


def test_labels_without_images_are_no_layout_of_their_own(data: Path) -> None:
    assert recognising(data / "labels_only") == []


def test_kits_labels_in_their_layout(data: Path, tmp_path: Path) -> None:
    """A real label file of KiTS19 with itself as the image: slices on the first axis, qform only."""
    home = tmp_path / "kits19" / "case_00015"
    home.mkdir(parents=True)
    for name in ("imaging", "segmentation"):
        (home / f"{name}.nii.gz").symlink_to(data / "labels_only" / "kits19_case_00015.nii.gz")
    layout, (case,) = find(tmp_path / "kits19")
    assert layout == "kits" and [s.name for s in case.structures] == ["kidney", "kidney tumor"]
    grid = case.volume().grid
    assert grid.shape == (512, 512, 75) and grid.axes[2] == "I"
    kidney, tumor = case.load_masks(case.structures)
    assert kidney.sum() > tumor.sum() > 0
