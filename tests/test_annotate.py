"""`segwise annotate`: one thing said or taken back a call, a file remembers the rest."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from segwise import assemble
from segwise.annotate import annotate
from segwise.asked import marks_of
from segwise.errors import FileError, PromptError
from segwise.geometry import Grid

SHAPE = (12, 14, 16)


@pytest.fixture
def scan(tmp_path):
    image = np.random.default_rng(0).normal(0, 5, SHAPE).astype(np.float32)
    image[3:8, 4:9, 5:11] += 100
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(image, np.diag([1.5, 2.0, 3.0, 1.0])), path)
    return path


def test_a_session_goes_on_from_call_to_call(scan, tmp_path):
    kept, out = tmp_path / "kept.json", tmp_path / "mask.nii.gz"
    first = annotate(kept, scan, model="threshold", target="liver", boxes=("3,4,5,8,9,11",), modality="CT")
    assert first.did == "asked about liver" and first.targets["liver"]["voxels"] > 50
    second = annotate(kept, scan, points=("5,6,7,+", "1,1,1,-"), modality="CT")
    assert second.targets["liver"]["interactions"] == 3 and second.targets["liver"]["rounds"] == 2
    assert "liver" in annotate(kept, scan, deed="undo", modality="CT").did
    redone = annotate(kept, scan, deed="redo", modality="CT", out=out)
    assert redone.targets["liver"] == second.targets["liver"]
    assert int((nib.load(out).get_fdata() == 1).sum()) == second.targets["liver"]["voxels"]
    annotate(kept, scan, target="spleen", boxes=("1,1,1,4,4,4",), modality="CT")
    switched = annotate(kept, scan, model="box-fill", modality="CT", deed="accept", target="spleen")
    assert switched.did == "switched to box-fill; accepted spleen" and switched.model == "box-fill"
    assert switched.targets["spleen"] == {
        "voxels": 27,
        "ml": pytest.approx(0.243),
        "rounds": 1,
        "interactions": 1,
        "accepted": True,
    }


def test_strokes_are_read():
    grid = Grid((9, 9, 9), np.diag([3.0, 2.0, 1.0, 1.0]))
    along, beside = marks_of(grid, strokes=("5,6,6 5,6,9 +", "1,1,1 1,1,9 -"))
    assert along.positive and not beside.positive
    assert along.xyz_mm.tolist() == [[15, 12, 6], [15, 12, 9]]
    (plain,) = marks_of(grid, strokes=("5,6,6 5,6,9",), mm=True)
    assert plain.positive and plain.xyz_mm.tolist() == [[5, 6, 6], [5, 6, 9]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "a new session needs a model"),
        ({"model": "box-fill", "points": ("1,1,1,+",)}, "box-fill does not take points; it takes box"),
        ({"model": "box-fill", "boxes": ("1,1,1,99,99,99",), "deed": "undo"}, "stands alone"),
        ({"model": "box-fill", "deed": "undo"}, "nothing to undo"),
        ({"model": "box-fill", "deed": "dance"}, 'no deed "dance"'),
        ({"model": "box-fill", "boxes": ("90,90,90,99,99,99",)}, "outside the scan"),
        ({"model": "random-walker", "strokes": ("1,1,1 +",)}, "expected at least 2"),
        ({"model": "box-fill", "strokes": ("1,1,1 2,2,2 +",)}, "does not take stroke"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_kept(scan, tmp_path, given, message):
    with pytest.raises(PromptError, match=message):
        annotate(tmp_path / "kept.json", scan, modality="CT", **given)
    assert not (tmp_path / "kept.json").exists()


def test_a_session_of_another_scan_is_refused(scan, tmp_path):
    annotate(tmp_path / "kept.json", scan, model="box-fill", boxes=("1,1,1,4,4,4",), modality="CT")
    other = tmp_path / "other.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, dtype=np.float32), np.eye(4)), other)
    with pytest.raises(FileError, match="another scan"):
        annotate(tmp_path / "kept.json", other, modality="CT")


def test_a_mask_never_replaces_its_scan(scan, tmp_path):
    before = scan.read_bytes()
    for out, message in ((scan, "is the scan itself"), (tmp_path / "no" / "m.nii.gz", "is not a folder")):
        with pytest.raises(FileError, match=message):
            annotate(tmp_path / "kept.json", scan, model="box-fill", boxes=("1,1,1,4,4,4",), modality="CT", out=out)
    assert scan.read_bytes() == before and not (tmp_path / "kept.json").exists()


def test_masks_are_had_without_the_model_and_other_weights_are_named(scan, tmp_path, monkeypatch):
    kept, out = tmp_path / "kept.json", tmp_path / "mask.nii.gz"
    annotate(kept, scan, model="box-fill", target="liver", boxes=("1,1,1,4,4,4",), modality="CT")
    annotate(kept, scan, target="cyst", boxes=("5,5,5,8,8,8",), modality="CT")
    annotate(kept, scan, deed="accept", target="liver", modality="CT")
    built = assemble.segmenter

    def other_weights(model):
        segmenter = built(model)
        segmenter.digest = "newer"
        return segmenter

    monkeypatch.setattr(assemble, "segmenter", other_weights)
    shown = annotate(kept, scan, modality="CT", out=out)
    assert shown.targets["liver"]["voxels"] == 27 and int((nib.load(out).get_fdata() == 2).sum()) == 27
    with pytest.raises(FileError, match=r"other weights.*\(-m\)"):
        annotate(kept, scan, modality="CT", target="cyst", boxes=("6,6,6,9,9,9",))
    again = annotate(kept, scan, model="box-fill", modality="CT", target="cyst", boxes=("6,6,6,9,9,9",))
    assert again.did == "switched to box-fill; asked about cyst" and again.targets["liver"]["accepted"]


def test_marks_that_cannot_be_taken_switch_nothing(scan, tmp_path):
    kept = tmp_path / "kept.json"
    annotate(kept, scan, model="box-fill", boxes=("1,1,1,4,4,4",), modality="CT")
    before = kept.read_bytes()
    with pytest.raises(PromptError, match="does not take text"):
        annotate(kept, scan, model="threshold", text="liver", modality="CT")
    assert kept.read_bytes() == before
