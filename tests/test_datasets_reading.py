"""Every layout on a tiny tree: read with the right names, values and places; what does not fit is refused."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dataset_trees as trees
from dataset_rows import planted, rows, targets
from segwise.case import Case, Structure
from segwise.errors import DatasetError, GridError
from segwise.evaluate.inventory import find, recognising


def test_case_json(tmp_path: Path) -> None:
    _, root = planted("case_json", tmp_path)
    found = rows(root)
    assert list(found) == ["case_one", "case_two"]
    one = found["case_one"]
    assert targets(one) == {"liver": (1, 4), "left kidney": (2, 4), "right kidney": (3, 4)}
    assert [t["centroid_ras_mm"] for t in one["targets"]] == [trees.centroid(v) for v in (1, 2, 3)]
    assert one["spacing_mm"] == [3, 2, 1.5] and one["modality"] == "MR" and one["channels"] == ["FLAIR"]
    assert (one["subject"], one["quality"], one["licence"]) == ("person", "gold", "CC0")
    assert targets(found["case_two"]) == {"Odd_name": (4, 4)} and not found["case_two"]["targets"][0]["known"]
    assert rows(root, "case-json(channels=true)")["case_one"]["channels"] == ["FLAIR", "T1c"]
    assert list(rows(root / "one")) == ["case_one"]
    assert rows(root / "one")["case_one"]["images"] == ["one/image.nii.gz"]
    assert list(rows(root, "case-json", "dev")) == list(found) and rows(root, "case-json", "test") == {}


def two_grids(root: Path, *, registered: bool, away_mm: float = 0.0) -> Path:
    """A case whose second channel is the place along x in mm, on a coarser and shorter grid."""
    coarse = np.diag([2.0, 2, 2, 1])
    coarse[0, 3] = 1 + away_mm
    ramp = np.broadcast_to(1 + 2 * np.arange(4, dtype=np.float32), (3, 4, 4))
    trees.save(root / "image.nii.gz", np.zeros((4, 6, 10), np.float32), np.diag([1.0, 1, 2, 1]))
    trees.save(root / "image_ct.nii.gz", ramp, coarse)
    trees.save(root / "labels.nii.gz", trees.labels(1, shape=(4, 6, 10)), np.diag([1.0, 1, 2, 1]))
    told = {
        "id": "both",
        "modality": "MR",
        "label_map": {"1": "liver"},
        "channels": {"image.nii.gz": "MR", "image_ct.nii.gz": "CT"},
        "registered": registered,
    }
    (root / "case.json").write_text(json.dumps(told))
    return root


def test_registered_channels_come_onto_the_grid_of_the_first(tmp_path: Path) -> None:
    _, (case,) = find(two_grids(tmp_path / "both", registered=True), layout="case-json(channels=true)")
    volume = case.volume()
    assert [channel.modality for channel in volume.channels] == ["MR", "CT"]
    assert np.allclose(volume.array[1][:3, :, 1:8], np.arange(1, 8))  # linear in world space: nothing is moved
    assert (volume.array[1][..., 9] == 1).all() and volume.grid.shape == (4, 6, 10)  # beyond it: its lowest value


def test_channels_of_other_grids_are_refused_unless_registered(tmp_path: Path) -> None:
    _, (case,) = find(two_grids(tmp_path / "both", registered=False), layout="case-json(channels=true)")
    with pytest.raises(GridError, match=r'expected one grid; .*"registered": true'):
        case.volume()
    _, (case,) = find(two_grids(tmp_path / "away", registered=True, away_mm=500), layout="case-json(channels=true)")
    with pytest.raises(GridError, match=r"image_ct\.nii\.gz: lies nowhere in the field"):
        case.volume()


def test_links_to_one_case_are_cases_of_one_subject(tmp_path: Path) -> None:
    _, root = planted("case_json", tmp_path)
    (tmp_path / "copies").mkdir()
    for n in range(3):
        (tmp_path / "copies" / f"copy{n}").symlink_to(root / "one")
    found = rows(tmp_path / "copies")
    assert list(found) == ["copy0", "copy1", "copy2"]
    assert {row["subject"] for row in found.values()} == {"person"}


def test_a_damaged_case_does_not_stop_the_others(tmp_path: Path) -> None:
    _, root = planted("case_json", tmp_path)
    (root / "one" / "case.json").write_text("{ not json")
    (root / "two" / "labels.nii.gz").write_bytes(b"\x1f\x8b damaged")
    (root / "three").mkdir()
    (root / "three" / "case.json").write_text('{"id": "third", "label_map": {"1": "liver"}}')
    trees.case_json(tmp_path / "good")
    (tmp_path / "good" / "one").rename(root / "fine")
    found = rows(root)
    assert found["case_one"]["error"] == "" and found["case_one"]["targets"][0]["voxels"] == 4
    assert "no valid JSON" in found["one"]["error"]
    assert "labels.nii.gz" in found["case_two"]["error"] and found["case_two"]["targets"][0]["voxels"] is None
    assert "the case has no image; expected image.nii.gz" in found["third"]["error"]
    with pytest.raises(DatasetError, match="no valid JSON"):
        find(root / "one")


def test_pair(tmp_path: Path) -> None:
    _, root = planted("pair", tmp_path)
    found = rows(root)
    assert list(found) == ["a", "b_2"]
    assert targets(found["a"]) == {"label 1": (1, 4), "label 2": (2, 4)}
    (root / "labels.json").write_text('{"1": "Liver", "2": "liver_v2"}')
    assert targets(rows(root)["a"]) == {"liver": (1, 4), "liver_v2": (2, 4)}
    trees.save(root / "labels" / "a.nii.gz", trees.labels(1))
    with pytest.raises(DatasetError, match="both belong to the case a"):
        find(root)


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("case1.nii.gz", "case1.nii.gz"),
        ("case1_0000.nii.gz", "case1.nii.gz"),
        ("image_case1.nii.gz", "label_case1.nii.gz"),
        ("case1.nii", "case1-mask.nii.gz"),
    ],
)
def test_pairs_by_name(image: str, label: str, tmp_path: Path) -> None:
    trees.save(tmp_path / "images" / image, trees.image())
    trees.save(tmp_path / "masks" / label, trees.labels(1))
    assert list(rows(tmp_path)) == ["case1"]


def test_single(tmp_path: Path) -> None:
    _, root = planted("single", tmp_path)
    assert targets(rows(root)["single"]) == {"label 3": (3, 4)}
    trees.save(root / "third.nii.gz", trees.image())
    assert recognising(root) == []
    with pytest.raises(DatasetError, match="exactly one image and one label file"):
        find(root, "single")


def test_single_with_dicom(tmp_path: Path) -> None:
    trees.chaos(tmp_path / "chaos")
    (tmp_path / "one").mkdir()
    (tmp_path / "chaos" / "CT" / "1" / "DICOM_anon").rename(tmp_path / "one" / "scan")
    affine = np.diag([-1.5, -2, 3, 1.0])
    affine[:3, 3] = (-10, 20, 85)
    trees.save(tmp_path / "one" / "seg.nii.gz", trees.labels(1), affine)
    row = rows(tmp_path / "one")["one"]
    assert row["modality"] == "CT" and row["images"] == ["scan"] and targets(row) == {"label 1": (1, 4)}


def test_nnunet(tmp_path: Path) -> None:
    _, root = planted("nnunet", tmp_path)
    found = rows(root)
    assert list(found) == ["case_1", "case_2"]
    one = found["case_1"]
    assert targets(one) == {"whole tumor": ([1, 2, 3], 12), "tumor core": ([2, 3], 8), "enhancing tumor": (3, 4)}
    assert one["ignore"] == 4 and one["channels"] == ["FLAIR", "T1w"] and one["modality"] == "MR"
    assert one["images"] == [f"Dataset042_Brain/imagesTr/case_1_000{i}.nii.gz" for i in (0, 1)]
    assert list(rows(root / "Dataset042_Brain")) == ["case_1", "case_2"]
    case = find(root)[1][0]
    assert case.volume().array.shape == (2, 5, 6, 7) and case.ignore == 4
    (ignored,) = case.load_masks((Structure("ignore", "ignore", (4,), known=False),))
    np.testing.assert_array_equal(ignored, trees.labels(1, 2, 3, 4) == 4)


def test_nnunet_version_1(tmp_path: Path) -> None:
    _, root = planted("nnunet_v1", tmp_path)
    row = rows(root)["patient007_ED"]
    assert row["subject"] == "patient007" and row["modality"] == "CT"
    assert targets(row) == {"liver": (1, 4), "cancer": (2, 4)}
    assert [t["known"] for t in row["targets"]] == [True, False]


def test_msd(tmp_path: Path) -> None:
    _, root = planted("msd", tmp_path)
    found = rows(root)
    assert list(found) == ["liver_0", "liver_10"]
    assert targets(found["liver_0"]) == {"liver": (1, 4), "liver tumor": (2, 4)}
    assert found["liver_0"]["targets"][1]["raw"] == "cancer" and found["liver_0"]["dataset"] == "Task03_Liver"
    assert list(rows(root / "Task03_Liver")) == list(found)
    (root / "Task03_Liver").rename(root / "Task09_Other")
    trees.msd(root)
    assert sorted(rows(root)) == sorted(f"{t}_liver_{n}" for t in ("Task03_Liver", "Task09_Other") for n in (0, 10))


def test_msd_reads_four_channels(tmp_path: Path) -> None:
    _, root = planted("msd_brain", tmp_path)
    row = rows(root)["BRATS_001"]
    assert row["shape"] == [5, 6, 7] and row["channels"] == ["FLAIR", "T1", "T1c", "T2"] and row["modality"] == "MR"
    assert targets(row) == {
        "edema": (1, 4),
        "non-enhancing tumor": (2, 4),
        "enhancing tumor": (3, 4),
        "whole tumor": ([1, 2, 3], 12),
        "tumor core": ([2, 3], 8),
    }
    np.testing.assert_array_equal(find(root)[1][0].volume().array, trees.image(4))


def test_btcv(tmp_path: Path) -> None:
    _, root = planted("btcv", tmp_path)
    for start in (root, root / "RawData", root / "RawData" / "Training"):
        found = rows(start)
        assert list(found) == ["img0001", "img0010", "img0037"]
    got = targets(found["img0001"])
    assert len(got) == 13 and got["liver"] == (6, 4) and got["right kidney"] == (2, 4) and got["left kidney"] == (3, 4)
    assert got["pancreas"] == (11, 0)


def test_lits(tmp_path: Path) -> None:
    _, root = planted("lits", tmp_path)
    found = rows(root)
    assert list(found) == ["volume-0", "volume-27"]
    assert targets(found["volume-27"]) == {"liver": (1, 4), "liver tumor": (2, 4)}
    x, y, z = trees.centroid(1)
    assert found["volume-27"]["targets"][0]["centroid_ras_mm"] == [-20 - x, 40 - y, z]
    flat = tmp_path / "flat"
    for kind in ("volume", "segmentation"):
        trees.save(flat / {"volume": "images", "segmentation": "labels"}[kind] / f"{kind}-3.nii", trees.labels(1))
    assert recognising(flat) == ["lits"]


def test_kits(tmp_path: Path) -> None:
    _, root = planted("kits", tmp_path)
    found = rows(root)
    assert list(found) == ["case_00000", "case_00012"]
    row = found["case_00000"]
    assert row["spacing_mm"] == [0.7, 0.7, 3.0] and targets(row) == {"kidney": (1, 4), "kidney tumor": (2, 4)}
    # value 1: (i, j, k) = (1.5, 1.5, 1); x = 50 - 0.7 k, y = 60 - 0.7 j, z = 70 - 3 i
    assert row["targets"][0]["centroid_ras_mm"] == [49.3, 58.95, 65.5]
    assert "kidney cyst" in targets(rows(root, "kits(edition='2023')")["case_00000"])
    (root / "case_00000" / "instances").mkdir()
    assert "kidney cyst" in targets(rows(root)["case_00000"])
    assert recognising(root / "case_00012") == ["kits"]


def test_brats(tmp_path: Path) -> None:
    _, old = planted("brats2021", tmp_path)
    row = rows(old)["BraTS2021_00000"]
    assert row["channels"] == ["FLAIR", "T1", "T1c", "T2"] and row["subject"] == "BraTS2021_00000"
    assert targets(row) == {
        "necrosis": (1, 4),
        "edema": (2, 4),
        "enhancing tumor": (4, 4),
        "whole tumor": ([1, 2, 4], 12),
        "tumor core": ([1, 4], 8),
    }
    _, new = planted("brats2023", tmp_path)
    found = rows(new)
    assert list(found) == ["BraTS-GLI-00005-000", "BraTS-GLI-00005-001"]
    assert {row["subject"] for row in found.values()} == {"BraTS-GLI-00005"}
    assert targets(found["BraTS-GLI-00005-000"])["enhancing tumor"] == (3, 4)
    assert list(rows(new / "BraTS-GLI-00005-001")) == ["BraTS-GLI-00005-001"]
    assert found["BraTS-GLI-00005-000"]["channels"] == row["channels"]


def test_brats_of_the_wrong_edition_is_refused(tmp_path: Path) -> None:
    _, root = planted("brats2021", tmp_path)
    trees.save(root / "BraTS2021_00000" / "BraTS2021_00000_seg.nii.gz", trees.labels(1, 3))
    assert "holds the label 3, expected only 1, 2, 4" in rows(root)["BraTS2021_00000"]["error"]


def test_amos(tmp_path: Path) -> None:
    _, root = planted("amos", tmp_path)
    found = rows(root)
    assert {id_: row["modality"] for id_, row in found.items()} == {
        "amos_0001": "CT",
        "amos_0507": "MR",
        "amos_0008": "CT",
    }
    got = targets(found["amos_0001"])
    assert len(got) == 15 and got["liver"] == (6, 4) and got["aorta"] == (8, 4)
    assert {"inferior vena cava", "urinary bladder", "prostate or uterus", "gallbladder"} < got.keys()
    assert list(rows(root, "amos", "val")) == ["amos_0008"]


def test_totalsegmentator(tmp_path: Path) -> None:
    _, root = planted("totalsegmentator", tmp_path)
    found = rows(root)
    assert list(found) == ["s0000", "s0010"]
    got = targets(found["s0000"])
    assert got["liver"] == (1, 4) and got["prostate"] == (1, 0) and got["vertebra L1"] == (1, 4)
    centroids = {t["name"]: t["centroid_ras_mm"] for t in found["s0000"]["targets"]}
    assert centroids["liver"] == trees.centroid(3) and centroids["prostate"] is None
    assert list(rows(root, "totalsegmentator", "test")) == ["s0010"]
    assert list(rows(root / "s0010")) == ["s0010"]
    case = find(root)[1][0]
    both = case.targets(("kidney",), case.volume().grid)[0]
    assert both.mask.sum() == 8 and both.parts is not None
    assert [part.name for part in both.parts] == ["left kidney", "right kidney"]
    _, mr = planted("totalsegmentator_mr", tmp_path)
    assert rows(mr)["s0001"]["modality"] == "MR" and targets(rows(mr)["s0001"]) == {"left lung": (1, 4)}


def test_acdc(tmp_path: Path) -> None:
    _, root = planted("acdc", tmp_path)
    found = rows(root)
    assert sorted(found) == [f"patient{p}_frame{f}" for p, f in itertools.product(("001", "101"), ("01", "12"))]
    row = found["patient001_frame12"]
    assert row["subject"] == "patient001" and row["notes"] == ["end of systole"] and row["modality"] == "MR"
    assert targets(row) == {"right ventricle": (1, 4), "myocardium": (2, 4), "left ventricle": (3, 4)}
    assert {r["subject"] for r in rows(root, "acdc", "testing").values()} == {"patient101"}
    assert len(rows(root / "training" / "patient001")) == 2
    assert "184" not in json.dumps(found)


def test_chaos(tmp_path: Path) -> None:
    _, root = planted("chaos", tmp_path)
    found = rows(root)
    assert list(found) == ["CT-1", "MR-1-T1DUAL-InPhase", "MR-1-T1DUAL-OutPhase", "MR-1-T2SPIR"]
    assert {row["subject"] for row in found.values()} == {"CT-1", "MR-1"}
    assert targets(found["CT-1"]) == {"liver": (255, 8)}
    for id_ in list(found)[1:]:
        assert targets(found[id_]) == {
            "liver": (63, 8),
            "right kidney": (126, 0),
            "left kidney": (189, 2),
            "spleen": (252, 1),
        }
    for row in found.values():  # slice 2 lies at z = 94, rows 1..2, columns 0..3; LPS (10 + 1.5 c, -20 + 2 r)
        assert row["targets"][0]["centroid_ras_mm"] == [-12.25, 17.0, 94.0]


def test_chaos_says_what_does_not_fit(tmp_path: Path) -> None:
    _, root = planted("chaos", tmp_path)
    ground = root / "CT" / "1" / "Ground"
    (ground / "liver_GT_002.png").unlink()
    assert "4 PNGs for 5 slices" in rows(root)["CT-1"]["error"]
    trees.cv2.imwrite(str(root / "MR/1/T2SPIR/Ground/IMG-0004-00003.png"), np.full((6, 7), 90, np.uint8))
    assert "grey level 90 belongs to no organ" in rows(root)["MR-1-T2SPIR"]["error"]


def test_bids(tmp_path: Path) -> None:
    _, root = planted("bids", tmp_path)
    found = rows(root)
    assert list(found) == ["sub-01_ses-a_T1w", "sub-02_T2w"]
    first, second = found.values()
    assert targets(first) == {"left thalamus": (1, 4), "right thalamus": (2, 4)} and first["subject"] == "sub-01"
    assert first["channels"] == ["T1"] and targets(second) == {"lesion": (1, 4)} and second["channels"] == ["T2"]
    other = root / "derivatives" / "fs" / "sub-02" / "anat" / "sub-02_space-MNI152_dseg.nii.gz"
    trees.save(other, trees.labels(1, 2))
    assert list(rows(root)) == list(found)  # no image in that space: left out
    trees.save(other.with_name("sub-02_space-MNI152_desc-preproc_T2w.nii.gz"), trees.image())
    assert list(rows(root)) == ["sub-02_space-MNI152_desc-preproc_T2w", *found]


def test_npz(tmp_path: Path) -> None:
    _, root = planted("npz", tmp_path)
    found = rows(root)
    a, b = found["CT_a"], found["MR_b"]
    assert a["spacing_mm"] == [3, 2, 1.5] == b["spacing_mm"] and (a["modality"], b["modality"]) == ("CT", "MR")
    # value 1 lies at (k, j, i) = (1, 1.5, 1.5): LPS (10 + 1.5 i, -20 + 2 j, 30 + 3 k)
    assert a["targets"][0]["centroid_ras_mm"] == [-12.25, 17.0, 33.0] and a["notes"] == []
    assert b["notes"] == ["MR_b.npz does not say its direction, origin"]
    _, apart = planted("npz_apart", tmp_path)
    assert targets(rows(apart)["CT_x"]) == {"label 2": (2, 4)}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"imgs": np.zeros((5, 6, 7, 3), np.uint8), "gts": trees.labels(1)}, "colour and 2D are not read"),
        ({"imgs": trees.image(), "gts": trees.labels(1)[1:]}, "expected one shape"),
        ({"imgs": trees.image(), "gts": trees.labels(1), "spacing": (1.0, 2.0)}, "spacing has 2 values, expected 3"),
        ({"imgs": trees.image(), "gts": np.array([{"code": 1}], dtype=object)}, "Python objects"),
    ],
)
def test_npz_says_what_is_wrong(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "CT_bad.npz", **arrays)
    assert message in rows(tmp_path)["CT_bad"]["error"]


def test_grids_must_agree(tmp_path: Path) -> None:
    _, root = planted("single", tmp_path)
    near, far, shape = trees.AFFINE.copy(), trees.AFFINE.copy(), trees.labels(3)[:4]
    near[0, 3] += 5e-3
    far[0, 3] += 0.5
    trees.save(root / "scan_labels.nii.gz", trees.labels(3), near)
    row = rows(root)["single"]
    assert targets(row) == {"label 3": (3, 4)} and row["targets"][0]["centroid_ras_mm"] == trees.centroid(3)
    trees.save(root / "scan_labels.nii.gz", trees.labels(3), far)
    case = find(root)[1][0]
    with pytest.raises(GridError, match=r"scan.nii.gz and single/scan_labels.nii.gz lie up to 0.5 mm apart"):
        case.load_masks(case.structures)
    trees.save(root / "scan_labels.nii.gz", shape)
    assert "have (5, 6, 7) and (4, 6, 7) voxels" in rows(root)["single"]["error"]


def test_values_of_one_name_are_one_label(tmp_path: Path) -> None:
    _, root = planted("pair", tmp_path)
    (root / "labels.json").write_text('{"0": "background", "1": "lesion", "2": "lesion"}')
    assert targets(rows(root)["a"]) == {"lesion": ([1, 2], 8)}


@pytest.mark.parametrize("codes", ["LPS", "RAS", "LIA", "PSR", "AIL"])
def test_places_whatever_the_axes(codes: str, tmp_path: Path) -> None:
    nib = trees.nib
    turn = np.eye(4)
    turn[:3, :3] = np.array([[0.98, -0.199, 0], [0.199, 0.98, 0], [0, 0, 1]])
    base = nib.Nifti1Image(trees.labels(1, 2).T, turn @ trees.AFFINE)
    to = nib.orientations.ornt_transform(nib.io_orientation(base.affine), nib.orientations.axcodes2ornt(codes))
    made = base.as_reoriented(to)
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
        nib.save(made, tmp_path / name / "a.nii.gz")
    row = rows(tmp_path)["a"]
    array = np.asarray(made.dataobj)
    assert row["shape"] == list(array.shape[::-1])
    for value, target in zip((1, 2), row["targets"], strict=True):
        middle = nib.affines.apply_affine(made.affine, np.argwhere(array == value).mean(axis=0))
        np.testing.assert_allclose(target["centroid_ras_mm"], middle, atol=1e-4)


def test_a_4d_image_is_not_read_in_part(tmp_path: Path) -> None:
    trees.save(tmp_path / "images" / "a.nii.gz", trees.image(3))
    trees.save(tmp_path / "labels" / "a.nii.gz", trees.labels(1))
    assert "holds several volumes (4D)" in rows(tmp_path)["a"]["error"]


def test_chaos_numbers_may_stand_in_the_header(tmp_path: Path) -> None:
    _, root = planted("chaos", tmp_path)
    for i, path in enumerate(sorted((root / "CT/1/DICOM_anon").iterdir())):
        path.rename(path.with_name(f"x{(i * 3) % 5 + 40}.dcm"))
    for path in sorted((root / "CT/1/Ground").iterdir(), reverse=True):
        path.rename(path.with_name(f"liver_{int(path.stem[-3:]) + 1}.png"))
    assert rows(root)["CT-1"]["targets"][0]["centroid_ras_mm"] == [-12.25, 17.0, 94.0]


def test_two_labels_of_one_meaning_keep_their_own_names(tmp_path: Path) -> None:
    _, root = planted("pair", tmp_path)
    (root / "labels.json").write_text('{"Liver": 1, "liver": 2}')
    row = rows(root)["a"]
    assert targets(row) == {"Liver": (1, 4), "liver": (2, 4)}
    assert [t["known"] for t in row["targets"]] == [False, False]


def test_unions_are_found_but_not_listed(tmp_path: Path) -> None:
    _, root = planted("case_json", tmp_path)
    case: Case = find(root)[1][0]
    assert [s.name for s in case.structures] == ["liver", "left kidney", "right kidney"]
    union = case.structure("kidney")
    assert union is not None and union.sides == ("left kidney", "right kidney") and union.values == (2, 3)
    (target,) = case.targets(("kidney",), case.volume().grid)
    assert target.parts is not None and target.mask.sum() == 8
    assert np.array_equal(target.mask, target.parts[0].mask | target.parts[1].mask)
    assert case.structure("kidney_left") == case.structures[1] and case.structure("spleen") is None
    assert case.structure("tumor core") is None
