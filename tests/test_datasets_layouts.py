"""Every layout on a tiny tree: recognised by one member alone, and read alike by whatever way it is reached."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

import dataset_trees as trees
from dataset_rows import planted, rows
from segwise import catalog
from segwise.errors import DatasetError, SegwiseError
from segwise.evaluate.inventory import find, recognising

LAYOUTS = (
    "acdc amos bids brats btcv case-json chaos kits lits msd nnunet npz pair single totalsegmentator".split()  # noqa: SIM905
)


def test_all_layouts_are_there() -> None:
    assert list(catalog.names("datasets")) == LAYOUTS
    assert {layout for layout, _ in trees.TREES.values()} == set(LAYOUTS)


@pytest.mark.parametrize("name", trees.TREES)
def test_exactly_one_layout_recognises_a_tree(name: str, tmp_path: Path) -> None:
    layout, root = planted(name, tmp_path)
    assert recognising(root) == [layout]


@pytest.mark.parametrize(
    ("name", "start", "n"),
    [
        ("case_json", "one", 1),
        ("nnunet", "Dataset042_Brain", 2),
        ("msd", "Task03_Liver", 2),
        ("btcv", "RawData", 3),
        ("btcv", "RawData/Training", 3),
        ("lits", "Training Batch 1", 2),
        ("kits", "case_00000", 1),
        ("brats2021", "BraTS2021_00000", 1),
        ("brats2023", "BraTS-GLI-00005-000", 1),
        ("totalsegmentator", "s0000", 1),
        ("acdc", "training", 2),
        ("acdc", "training/patient001", 2),
        ("chaos", "CT", 1),
        ("chaos", "MR", 3),
        ("npz_apart", ".", 1),
    ],
)
def test_a_part_of_a_tree_is_recognised_too(name: str, start: str, n: int, tmp_path: Path) -> None:
    layout, root = planted(name, tmp_path)
    assert recognising(root / start) == [layout]
    found = rows(root / start)
    assert len(found) == n and all(row["error"] == "" for row in found.values())


@pytest.mark.parametrize(
    ("name", "around"),
    [
        ("btcv", "BTCV/Abdomen"),
        ("lits", "LiTS"),
        ("kits", "kits19/data"),
        ("kits", "kits23/dataset"),
        ("brats2021", "data/training"),
        ("amos", "x/amos22"),
        ("acdc", "ACDC/database"),
        ("chaos", "CHAOS/Train_Sets"),
        ("npz", "x/3D_val"),
    ],
)
def test_the_folder_around_a_tree_is_recognised_too(name: str, around: str, tmp_path: Path) -> None:
    layout, make = trees.TREES[name]
    (tmp_path / around).mkdir(parents=True)
    make(tmp_path / around)
    assert recognising(tmp_path / around.split("/")[0]) == [layout]
    assert find(tmp_path / around.split("/")[0])[0] == layout


@pytest.mark.parametrize("name", trees.TREES)
def test_a_tree_of_links_is_read_alike(name: str, tmp_path: Path) -> None:
    layout, root = planted(name, tmp_path)
    linked = tmp_path / "linked" / name
    linked.mkdir(parents=True)
    for entry in root.iterdir():
        (linked / entry.name).symlink_to(entry)
    assert recognising(linked) == [layout]
    ours, theirs = find(linked)[1], find(root)[1]
    assert [(c.id, c.subject, c.images) for c in ours] == [(c.id, c.subject, c.images) for c in theirs]


@pytest.mark.parametrize("name", trees.TREES)
def test_every_row_is_sound(name: str, tmp_path: Path) -> None:
    layout, root = planted(name, tmp_path)
    found = rows(root)
    assert found
    json.dumps(list(found.values()), allow_nan=False)
    for row in found.values():
        assert row["error"] == "" and row["layout"] == layout and row["subject"]
        assert row["shape"] == [5, 6, 7] and row["targets"]
        assert all((root / image).exists() or (root.parent / image).exists() for image in row["images"])
        assert len({t["name"] for t in row["targets"]}) == len(row["targets"])
        for t in row["targets"]:
            assert isinstance(t["value"], int | list) and t["voxels"] >= 0
            assert (t["centroid_ras_mm"] is None) == (t["voxels"] == 0)


@pytest.mark.parametrize("name", [n for n in trees.TREES if n not in ("pair", "single", "npz", "npz_apart")])
def test_listing_reads_no_voxels(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, root = planted(name, tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("read while listing")

    for function in ("read", "read_labels", "peek"):
        monkeypatch.setattr(f"segwise.io.{function}", refuse)
    assert find(root)[1]


@pytest.mark.parametrize("name", trees.TREES)
def test_cases_can_be_sent_to_workers(name: str, tmp_path: Path) -> None:
    _, root = planted(name, tmp_path)
    case = pickle.loads(pickle.dumps(find(root)[1][0]))
    assert case.volume().grid.shape == (5, 6, 7)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_tree_that_does_not_fit_is_refused(layout: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=f"does not look like {layout}|found no"):
        find(tmp_path / "empty", layout)


def test_what_find_says(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such folder"):
        find(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DatasetError, match="is a file"):
        find(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"no layout that is known; say which with --layout:\n  acdc: patient001"):
        find(tmp_path / "empty")
    trees.pair(tmp_path / "both")
    trees.bids(tmp_path / "both")
    with pytest.raises(DatasetError, match="looks like bids and pair; say which with --layout"):
        find(tmp_path / "both")
    assert find(tmp_path / "both", "pair")[0] == "pair"
    with pytest.raises(SegwiseError, match='did you mean "pair"'):
        find(tmp_path / "both", "pairs")


def test_hidden_files_alone_are_no_layout(tmp_path: Path) -> None:
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "._liver_0.nii.gz").write_bytes(b"x")
    (tmp_path / "dataset.json").write_text('{"labels": {"1": "liver"}}')
    assert recognising(tmp_path) == []
