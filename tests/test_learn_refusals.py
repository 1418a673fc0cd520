"""What trainings refuse, and that they do so with one message before any work: options, folders, cases."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

import labelled_cases
from segwise import api, assemble
from segwise.cli.app import app
from segwise.errors import SegwiseError
from segwise.spec import of_folder, parse
from segwise.training import prepared

ADAPTED = "sam(size=nano)+decoder"
SMALL = 'unet(features="4-8")'


@pytest.fixture
def data(tmp_path):
    root = tmp_path / "data"
    labelled_cases.write(root, 4)
    return root


def cli(*words):
    found = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=True)
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        if isinstance(found.exception, SegwiseError):
            return 2, str(found.exception)
        raise found.exception
    return found.exit_code, " ".join(found.output.split())


def changed(path, new):
    """A file of a volume with other values."""
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(new(np.asarray(image.dataobj).copy()), image.affine), path)


@pytest.fixture
def untouched(monkeypatch):
    """No case is prepared."""
    monkeypatch.setattr(prepared, "prepare", lambda *_, **__: pytest.fail("a case was prepared"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--rate", "0"), "--rate 0: expected a finite number above 0"),
        (("--rate", "-1"), "--rate -1: expected a finite number above 0"),
        (("--rate", "nan"), "--rate nan: expected a finite number above 0"),
        (("--rate", "inf"), "--rate inf: expected a finite number above 0"),
        (("--fold", "0/0"), '--fold "0/0": expected a fold'),
        (("--fold", "0/1"), '--fold "0/1": expected a fold'),
        (("--targets", ","), '--target ",": names nothing'),
        (("--leave-out", " , "), '--leave-out " , ": names nothing'),
        (("--device", "abacus"), 'device "abacus" cannot be used'),
        (("--budget-gb", "3"), "expected --dry-run too"),
        (("--loss", "hinge"), '--loss "hinge": expected dice-ce'),
        (("--schedule", "step"), '--schedule "step": expected cosine, poly'),
    ],
)
@pytest.mark.parametrize("verb", ["train", "adapt"])
def test_options_that_cannot_be_are_refused_before_any_case_is_prepared(data, untouched, verb, words, message):
    code, said = cli(verb, SMALL if verb == "train" else ADAPTED, data, "-o", data.parent / "out", *words)
    assert code == 2 and message in said
    assert not (data.parent / "out").exists()


@pytest.mark.parametrize(
    ("model", "words", "message"),
    [
        ("default+decoder", ("--loss", "dice"), "looks at regions, whose loss is its own"),
        ("universeg", ("--dry-run",), "takes no training, only one look at each case"),
    ],
)
def test_what_cannot_be_adapted_so_is_refused_before_any_case_is_prepared(data, untouched, model, words, message):
    code, said = cli("adapt", model, data, "-o", data.parent / "odd", *words)
    assert code == 2 and message in " ".join(said.split()), said
    assert not list((data.parent / "odd").glob("prepared/*"))


@pytest.mark.parametrize("verb", [("pretrain", "unetr"), ("distill", "sam(size=nano)")])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--rate", "nan"), "--rate nan: expected a finite number above 0"),
        (("--device", "abacus"), 'device "abacus" cannot be used'),
        (("--budget-gb", "3"), "expected --dry-run too"),
    ],
)
def test_so_are_those_of_learning_without_labels(data, untouched, verb, words, message):
    code, said = cli(*verb, data, "-o", data.parent / "out", *words)
    assert code == 2 and message in said
    assert not (data.parent / "out").exists()


def test_a_specialist_without_data_is_told_what_lacks(tmp_path):
    code, said = cli("train", "unet", "-o", tmp_path / "out")
    assert code == 2 and "expected their folder: segwise train unet DATA" in said


@pytest.mark.parametrize(
    "words",
    [
        ("--dry-run",),
        ("--loss", "dice-focal"),
        ("--rate", 0.1, "--patch", "16,16,16"),
        ("--target", "liver"),
        ("--fold", "0/5"),
        ("--recompute", "--gather", 2, "--batch", 4),
    ],
    ids=lambda words: words[0],
)
def test_a_recipe_is_not_told_how_it_learns(tmp_path, words):
    """These were taken and ignored."""
    code, said = cli("train", "sam-nano", "-o", tmp_path / "out", *words)
    assert code == 2 and "of a specialist; expected DATA too" in said
    assert all(word in said for word in words if str(word).startswith("--"))
    assert not (tmp_path / "out").exists()


def test_makers_are_of_a_recipe(data, untouched):
    code, said = cli("train", SMALL, data, "-o", data.parent / "out", "--makers", 2)
    assert code == 2 and "--makers is of a recipe" in said and not (data.parent / "out").exists()


@pytest.mark.parametrize(("spacing", "shape"), [("0.001,0.001,0.001", "40000×24000×28000"), ("1e9,1e9,1e9", "0×0×0")])
def test_a_spacing_that_no_memory_or_no_voxel_holds_is_refused(data, untouched, spacing, shape):
    code, said = cli("train", SMALL, data, "-o", data.parent / "out", "--spacing", spacing)
    assert code == 2 and f"the median case has {shape} voxels" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--patch", "32,32,32"), r"a patch of [16, 16, 32] (d, h, w), asked is [32, 32, 32]: leave --patch out"),
        (("--spacing", "3,2,2"), r"a spacing of [2.0, 1.0, 1.0] (d, h, w), asked is [3.0, 2.0, 2.0]"),
    ],
)
def test_a_training_goes_on_with_its_own_patch_and_spacing_only(data, tmp_path, words, message):
    out = tmp_path / "out"
    mine = ("train", SMALL, data, "-o", out, "--steps", 2)
    assert cli(*mine, "--patch", "16,16,32", "--minutes", 0)[0] == 0
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    code, said = cli(*mine, *words)
    assert code == 2 and message in said
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    assert cli(*mine, "--patch", "16,16,32")[0] == 0
    (out / "plan.json").write_text("{")
    code, said = cli(*mine)
    assert code == 2 and "plan.json is damaged" in said


def test_a_training_goes_on_with_its_own_structures_only(data, tmp_path):
    out = tmp_path / "out"
    mine = ("train", SMALL, data, "-o", out, "--steps", 2, "--minutes", 0)
    assert cli(*mine)[0] == 0
    code, said = cli(*mine, "--targets", "spleen")
    assert code == 2 and "holds a training on liver, spleen (plan.json there), asked is spleen" in said


def test_what_was_prepared_and_is_damaged_is_prepared_anew(data, tmp_path):
    out = tmp_path / "out"
    mine = ("train", SMALL, data, "-o", out, "--steps", 6, "--minutes", 0)
    assert cli(*mine)[0] == 0
    one, two, three = sorted((out / "prepared").iterdir())[:3]
    (one / "image.npy").write_bytes((one / "image.npy").read_bytes()[:200])
    (two / "labels.npy").unlink()
    (three / "case.json").write_text("{")
    prepared.mapped.cache_clear()
    code, said = cli(*mine)
    assert code == 0, said
    assert (two / "labels.npy").is_file() and json.loads((three / "case.json").read_text())["id"]


@pytest.mark.parametrize(
    "words", [("train", SMALL), ("adapt", ADAPTED), ("pretrain", "unetr"), ("distill", "sam(size=nano)")]
)
@pytest.mark.parametrize("place", [".", "model", "imagesTr/new"])
def test_nothing_is_written_into_the_data(data, words, place):
    before = sorted(data.rglob("*"))
    code, said = cli(*words, data, "-o", data / place, "--steps", 1)
    assert code == 2 and "lies in the data" in said
    assert sorted(data.rglob("*")) == before


def test_a_training_leaves_the_folder_of_a_run_alone(data, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    code, said = cli("train", SMALL, data, "-o", tmp_path / "run", "--steps", 1)
    assert code == 2 and "holds a run" in said
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]


@pytest.mark.parametrize("words", [("train", SMALL), ("adapt", ADAPTED), ("pretrain", "unetr")])
def test_an_image_of_one_value_is_refused(data, tmp_path, words):
    for path in (data / "imagesTr").iterdir():
        changed(path, lambda values: np.full_like(values, 5))
    code, said = cli(*words, data, "-o", tmp_path / "out", "--steps", 1)
    assert code == 2 and "case case001: every voxel of its image is 5, expected a scan" in said


def test_structures_that_are_too_small_on_every_slice_are_refused(data, tmp_path):
    """Eight voxels a case: no slice has enough of them to ask about, and the training does not wait for one."""

    def small(labels):
        found = np.zeros_like(labels)
        found[3:5, 3:5, 3:5] = 1
        return found

    for path in (data / "labelsTr").iterdir():
        changed(path, small)
    code, said = cli("adapt", ADAPTED, data, "-o", tmp_path / "out", "--steps", 1, "--targets", "liver")
    assert code == 2 and "no structure of the training cases fills 12 voxels of a slice" in said


@pytest.mark.parametrize("verb", ["pretrain", "distill"])
def test_a_set_without_labels_is_told_where_its_scans_are(data, tmp_path, verb):
    for path in (data / "labelsTr").iterdir():
        path.unlink()
    model = "unetr" if verb == "pretrain" else "sam(size=nano)"
    code, said = cli(verb, model, data, "-o", tmp_path / "out", "--steps", 1)
    assert code == 2 and "give the folder that holds the scans alone, such as imagesTr" in said


def test_a_damaged_json_is_named_where_no_layout_fits(data, tmp_path):
    (data / "dataset.json").write_text("{")
    code, said = cli("train", SMALL, data, "-o", tmp_path / "out", "--steps", 1)
    assert code == 2 and "dataset.json is no valid JSON: mend it first" in said


def test_a_model_folder_may_have_blanks_and_commas_in_its_path(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said = cli("train", SMALL, data, "-o", "my ä, b=1/unet", "--steps", 1, "--patch", "16,16,32")
    assert code == 0 and "-m './my ä, b=1/unet'" in said
    assert parse("./my ä, b=1/unet (x=1) + flips").name == "./my ä, b=1/unet"
    assert assemble.model_info("./my ä, b=1/unet").card.training_sets
    code, said = cli("compare", data, "-m", "./my ä, b=1/unet", "-c", "case001", "-o", "my run")
    assert code == 0 and len(api.ranking("my run")) == 1


@pytest.mark.parametrize("sign", ["+", "(", ")", "'", '"'])
def test_a_folder_that_no_spec_can_name_is_told(tmp_path, sign):
    with pytest.raises(SegwiseError, match="in its path, which stand for more than a name"):
        of_folder(tmp_path / f"a{sign}b")


@pytest.mark.parametrize(("path", "said"), [("a/b", "./a/b"), (".hidden", "./.hidden"), ("../a", "../a"), ("/a", "/a")])
def test_a_folder_is_named_so_that_no_member_could_be_it(tmp_path, path, said):
    from pathlib import Path

    assert of_folder(Path(path)) == said and parse(said).name == said


def test_a_folder_with_another_model_is_not_overwritten(data, tmp_path):
    out = tmp_path / "net"
    assert cli("train", SMALL, data, "-o", out, "--steps", 1)[0] == 0
    before = {path: path.read_bytes() for path in out.iterdir() if path.is_file()}
    for words in (("convert", "sam(size=nano)", "-o", out), ("adapt", "universeg", data, "-o", out, "--support", 2)):
        code, said = cli(*words)
        assert code == 2 and "holds the model unet" in said and "give another folder" in said, said
    assert {path: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    for _ in range(2):  # what is like it is made anew
        assert cli("convert", "sam(size=nano)", "-o", tmp_path / "half")[0] == 0
    assert assemble.model_info(str(tmp_path / "half")).card.parameters_m == pytest.approx(1.02, abs=0.01)  # all of it
    code, said = cli("convert", "sam(size=nano)+decoder", "-o", tmp_path / "half")
    assert code == 2 and "holds the model sam" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("adapt", "universeg", "DATA", "--rate", 1, "--steps", 5), "leave out --steps, --rate; --support says"),
        (("distill", "default", "--target", "liver", "--fold", "0/2"), "--target, --fold came without scans"),
        (("train", SMALL, "DATA", "--seed", 10**22), "99999"),
    ],
)
def test_options_that_do_not_apply_are_refused(data, tmp_path, words, said):
    code, found = cli(*(data if word == "DATA" else word for word in words), "-o", tmp_path / "out")
    assert code == 2 and (said in found or "4294967295" in found), found
    assert not (tmp_path / "out").exists()


def test_distilling_and_converting_into_a_relative_folder_read_what_they_wrote(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("segwise.distilling.peak_gb", lambda spec: None)
    code, said = cli("distill", "sam(size=nano)", data, "-o", "small", "--steps", 1)
    assert code == 0, said
    assert json.loads((tmp_path / "small" / "fidelity.json").read_text())["n"] > 0
    code, said = cli("convert", "sam(size=nano)", "-o", "half")
    assert code == 0 and "./half" in said
