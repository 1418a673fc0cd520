"""Cases that cannot be read or have no labels: who is left out of a training, for what reason, and who is not."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest

import labelled_cases
from segwise import api
from segwise.cli import learning
from segwise.datasets._case import broken
from segwise.errors import TrainingError
from segwise.evaluate import inventory
from segwise.learn import Who, drawn
from segwise.pretrain import scans
from segwise.training import planning, splits
from segwise.training.labelled import Budget
from segwise.training.splits import Split
from test_learn_refusals import cli

ADAPTED = "sam(size=nano)+decoder"
SMALL = 'unet(features="4-8")'
ENCODED = 'transunet(depth=1, features="4-6-8", heads=2, width=8)'
LACK = "the case has no label file; expected image.nii.gz and labels.nii.gz"


def write(root, n, *, unlabelled=(), torn=()):
    """Folders s1, s2, … with a case.json each; some without labels, some with half a case.json."""
    grid = np.diag([1.0, 1.0, 1.0, 1.0])
    grid[:3] = labelled_cases.AFFINE[:3][:, [2, 1, 0, 3]]
    for i in range(n):
        home, own = root / f"s{i + 1}", labelled_cases.masks(i)
        home.mkdir(parents=True)
        said = json.dumps({"id": home.name, "modality": "MR", "label_map": {"1": "liver", "2": "spleen"}})
        (home / "case.json").write_text(said[:6] if home.name in torn else said)
        nibabel.save(nibabel.Nifti1Image(labelled_cases.volume(i).array[0].T, grid), home / "image.nii.gz")
        if home.name not in unlabelled:
            labels = (own["liver"] * 1 + own["spleen"] * 2).T.astype(np.uint8)
            nibabel.save(nibabel.Nifti1Image(labels, grid), home / "labels.nii.gz")
    return root


def cut(path):
    """Half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def made_broken(root, id_, reason):
    return broken(root=root, layout="made", id=id_, reason=reason)


# nobody, or somebody, is left


@pytest.mark.parametrize("words", [("train", SMALL), ("adapt", ADAPTED), ("adapt", "universeg")])
def test_where_no_case_has_labels_the_reason_is_told(tmp_path, words):
    data = write(tmp_path / "data", 3, unlabelled=("s1", "s2", "s3"))
    for more in ((), ("--fold", "0/2"), ("--modality", "MR")):
        code, said = cli(*words, data, "-o", tmp_path / "out", *more)
        assert code == 2 and "none of the 3 cases can be learned from: s1, s2, s3 (case.json: " + LACK in said, said
        assert "expected one at least that can be read: mend them" in said
    assert not (tmp_path / "out").exists()


def test_cases_that_are_not_used_are_told_and_written_down(tmp_path):
    data, out = write(tmp_path / "data", 5, unlabelled=("s2",), torn=("s4",)), tmp_path / "out"
    code, said = cli("train", SMALL, data, "-o", out, "--steps", 1)
    assert code == 0, said
    assert f"2 cases are not used: s2 (case.json: {LACK}); s4 (case.json: is no valid JSON" in said
    content = json.loads((out / "split.json").read_text())
    assert set(content["unused"]) == {"s2", "s4"} and LACK in content["unused"]["s2"]
    assert sorted(content["train"] + content["valid"]) == ["s1", "s3", "s5"]
    assert "unused" not in json.loads((out / "model.json").read_text())["data"]["subjects"]
    assert cli("train", SMALL, data, "-o", out, "--steps", 1)[0] == 0  # the same training
    code, said = cli("adapt", "universeg", data, "-o", tmp_path / "few")
    assert code == 0 and "from 2 subjects" in said and "2 cases are not used: s2" in said


def test_who_is_not_used_says_nothing_of_the_split(tmp_path):
    """Old files have no such key; trainings are told apart by who is in what part."""
    found = Split(("a",), ("b",), unused=(("c", "why"),))
    assert found == Split(("a",), ("b",)) and repr(found) == repr(Split(("a",), ("b",)))
    back = splits.read(splits.write(found, tmp_path))
    assert back == found and back.unused == found.unused and splits.lost(tmp_path) == "1 case is not used: c (why)"
    splits.write(Split(("a",)), tmp_path)
    assert json.loads((tmp_path / "split.json").read_text()) == {"train": ["a"], "valid": [], "test": []}
    assert splits.lost(tmp_path) == splits.lost(tmp_path / "nowhere") == ""
    (tmp_path / "split.json").write_text('{"train": ["a"], "unused": 3}')
    assert splits.read(tmp_path / "split.json") == Split(("a",))


def test_a_training_that_lost_a_case_says_which(tmp_path):
    data, out = write(tmp_path / "data", 4), tmp_path / "out"
    assert cli("train", SMALL, data, "-o", out, "--steps", 1)[0] == 0
    (data / "s3" / "labels.nii.gz").unlink()
    code, said = cli("train", SMALL, data, "-o", out, "--steps", 1)
    assert (
        code == 2
        and "holds a training on other subjects" in said
        and f"1 case is not used: s3 (case.json: {LACK}" in said
    )


def test_reasons_are_grouped_and_of_many_some_are_shown():
    pairs = [*((f"p{i}", f"p{i}.npz: torn") for i in range(10)), ("a", "one"), ("b", "two"), ("c", "3"), ("d", "4")]
    said = Split((), unused=tuple(pairs)).lost
    assert said == (
        "14 cases are not used: p0, p1, p2, p3, p4, p5, p6, p7 and 2 more (*.npz: torn); a (one); b (two); 2 more for "
        "other reasons"
    )


def test_a_broken_case_of_a_subject_with_others_is_left_out_alone(tmp_path):
    cases = [*labelled_cases.cases(3), made_broken(tmp_path, "person1", "torn")]
    found = drawn(Who(data=tmp_path), cases, cases)
    assert found.unused == (("person1", "torn"),)
    assert [case.id for case in Split(("person1",)).of(cases, "train")] == ["case1"]


def test_broken_cases_do_not_stand_for_those_without_the_target(tmp_path):
    cases = [*labelled_cases.cases(3), made_broken(tmp_path, "torn", "torn")]
    assert splits.subjects(splits.usable(cases, targets=("pancreas",))) == splits.subjects(cases)
    with pytest.raises(TrainingError, match=r"no case is CT; the data set has MR.*1 case is not used: torn"):
        splits.usable(cases, modality="CT")


# scans without labels


def test_scans_without_labels_are_pretrained_on(tmp_path):
    data, out = write(tmp_path / "data", 4, unlabelled=("s1", "s2", "s3", "s4")), tmp_path / "out"
    code, said = cli("pretrain", ENCODED, data, "-o", out, "--steps", 1, "--batch", 1)
    assert code == 0, said
    people = json.loads((out / "split.json").read_text())
    assert sorted(people["train"] + people["valid"]) == ["s1", "s2", "s3", "s4"] and "unused" not in people
    code, said = cli("pretrain", ENCODED, data, "-o", tmp_path / "b", "--dry-run", "--layout", "case-json")
    assert code == 0, said


def test_what_the_scans_of_a_plain_folder_are_is_the_users_word(tmp_path):
    data = write(tmp_path / "data", 3)
    loose = tmp_path / "loose"
    loose.mkdir()
    for home in data.iterdir():
        (loose / f"{home.name}.nii.gz").write_bytes((home / "image.nii.gz").read_bytes())
    assert [case.modality for case in scans(loose)] == ["", "", ""]
    out = tmp_path / "encoder"
    assert cli("pretrain", ENCODED, loose, "-o", out, "--steps", 1, "--modality", "MR")[0] == 0
    code, said = cli("train", ENCODED, data, "-o", tmp_path / "net", "--steps", 1, "--from", out)
    assert code == 0, said
    (loose / "ct_s1.nii.gz").write_bytes((loose / "s1.nii.gz").read_bytes())  # a name that says something else
    assert {case.modality for case in scans(loose, modality="MR")} == {"MR", "CT"}


def test_scans_with_and_without_labels_are_distilled_on(tmp_path, monkeypatch):
    monkeypatch.setattr("segwise.distilling.peak_gb", lambda spec: None)
    data, out = write(tmp_path / "data", 3, unlabelled=("s1",), torn=("s3",)), tmp_path / "out"
    code, said = cli("distill", "sam(size=nano)", data, "-o", out, "--steps", 1)
    assert code == 0, said
    assert "1 case is not used: s3 (case.json: is no valid JSON" in said
    assert sorted(json.loads((out / "split.json").read_text())["train"]) == ["s1", "s2"]
    assert json.loads((out / "model.json").read_text())["data"]["structures"] == ["liver", "spleen"]


@pytest.mark.parametrize("words", [("pretrain", ENCODED), ("distill", "sam(size=nano)")])
def test_where_no_scan_can_be_read_the_reason_is_told(tmp_path, words):
    data = write(tmp_path / "data", 2, torn=("s1",))
    (data / "s2" / "image.nii.gz").unlink()
    code, said = cli(*words, data, "-o", tmp_path / "out")
    assert code == 2 and "none of the 2 cases can be learned from: s1 (case.json: is no valid JSON" in said
    assert "s2 (case.json: the case has no image" in said


def test_labels_may_lack_only_where_nobody_reads_them(tmp_path):
    data = write(tmp_path / "data", 2, unlabelled=("s2",))
    own, bare = scans(data)
    assert own.structures and not bare.structures and not bare.broken
    assert bare.modality == "MR" and bare.volume().grid.shape == labelled_cases.SHAPE
    assert [bool(case.broken) for case in inventory.find(data)[1]] == [False, True]
    assert [case.id for case in scans(data / "s2")] == ["s2"]


# who is named


def test_whoever_is_left_out_twice_is_left_out_once(tmp_path):
    cases = labelled_cases.cases(4)
    assert splits.split(cases, left_out=("person1", "person1")) == splits.split(cases, left_out=("person1",))
    data, out = write(tmp_path / "data", 3), tmp_path / "out"
    for _ in range(2):
        code, said = cli("train", SMALL, data, "-o", out, "--steps", 1, "--leave-out", "s1,s1")
        assert code == 0 and "1 kept for testing" in said, said


@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_a_split_that_names_a_stranger_is_refused(tmp_path, part):
    data, file = write(tmp_path / "data", 3, unlabelled=("s3",)), tmp_path / "mine.json"
    people = {"train": ["s1"], "valid": [], "test": []}
    people[part] = [*people[part], "s22"]
    file.write_text(json.dumps(people))
    code, said = cli("adapt", ADAPTED, data, "-o", tmp_path / "out", "--split", file)
    assert code == 2 and f"names s22 under {part}, expected subjects of the data set, which are s1, s2" in said
    assert "did you mean s2?" in said and "1 case is not used: s3" in said


def test_a_split_may_test_somebody_who_has_none_of_the_structures(tmp_path):
    cases = [*labelled_cases.cases(2), labelled_cases.case(2, names=("spleen",))]
    fit, file = splits.usable(cases, targets=("liver",)), tmp_path / "split.json"
    file.write_text('{"train": ["person0"], "test": ["person2"]}')
    assert drawn(Who(data=tmp_path, split=file), fit, cases).test == ("person2",)
    file.write_text('{"train": ["person0", "person2"]}')
    with pytest.raises(TrainingError, match=r"person2 under train, expected .* with the structures and the modality"):
        drawn(Who(data=tmp_path, split=file), fit, cases)


def test_a_fraction_is_of_a_fold_s_training_subjects_too(tmp_path):
    cases = labelled_cases.cases(9)
    whole, half, few = (drawn(Who(data=tmp_path, fold=1, folds=3, fraction=f), cases, cases) for f in (1, 0.5, 0.34))
    assert whole == splits.fold(cases, k=1, n=3) and len(whole.train) == 6
    assert half.train == whole.train[:3] and few.train == whole.train[:2]
    assert half.test == few.test == whole.test
    for fraction, words in ((0.1, "less than one subject"), (0, "expected one above 0")):
        with pytest.raises(TrainingError, match=words):
            splits.fold(cases, k=1, n=3, fraction=fraction)


@pytest.mark.parametrize("words", [("train", SMALL), ("adapt", ADAPTED), ("distill", "sam(size=nano)")])
def test_a_fraction_of_a_split_is_refused(tmp_path, words):
    data, file = write(tmp_path / "data", 2), tmp_path / "mine.json"
    file.write_text('{"train": ["s1", "s2"]}')
    code, said = cli(*words, data, "-o", tmp_path / "out", "--split", file, "--fraction", 0.5)
    assert code == 2 and f"a fraction of 0.5 and the split {file} came; expected one of them" in said


def test_a_training_on_generated_persons_alone_is_taken_up_again(tmp_path):
    found = Split((), ("a",), ("b",))
    splits.noted(found, tmp_path)
    (tmp_path / "last.pt").touch()
    splits.noted(found, tmp_path)
    with pytest.raises(TrainingError, match="nobody to train on"):
        splits.read(tmp_path / "split.json")


# which case it is


@pytest.mark.parametrize("words", [("train", SMALL), ("adapt", ADAPTED), ("pretrain", ENCODED)])
def test_the_case_whose_image_is_cut_is_named(tmp_path, words):
    data = write(tmp_path / "data", 3)
    cut(data / "s2" / "image.nii.gz")
    code, said = cli(*words, data, "-o", tmp_path / "out", "--steps", 1)
    assert code == 2 and said.startswith("case s2 cannot be read: image.nii.gz: "), said


def test_the_case_whose_labels_are_cut_is_named(tmp_path):
    data = write(tmp_path / "data", 1)
    cut(data / "s1" / "labels.nii.gz")
    (case,) = inventory.find(data)[1]
    assert planning.channels(case) == ("MR",)
    with pytest.raises(TrainingError, match=r"case s1 cannot be read: labels\.nii\.gz"):
        planning.fingerprint([case], ("liver",))
    cut(data / "s1" / "image.nii.gz")
    with pytest.raises(TrainingError, match=r"case s1 cannot be read: image\.nii\.gz"):
        planning.channels(case)


# too few


@pytest.mark.parametrize("verb", ["train", "adapt"])
def test_one_subject_is_trained_on_with_a_warning(tmp_path, verb):
    data = write(tmp_path / "data", 1)
    code, said = cli(verb, SMALL if verb == "train" else ADAPTED, data, "-o", tmp_path / "out", "--steps", 1)
    assert code == 0, said
    assert "1 subject (1 case) to learn from, 0 (0) for the curve, 0 kept for testing" in said
    assert "warning: with 1 subject to learn from and nobody kept for the curve or for testing nothing can" in said
    assert "validated or tested: add subjects, three at least" in said


def test_nobody_is_warned_where_somebody_is_kept():
    assert learning.unwatched(Split(("a",), ("b",))) == learning.unwatched(Split(("a",), (), ("b",))) == ""
    assert learning.unwatched(Split(tuple("abc"))).endswith("keep some with --leave-out or --fold")


def test_a_made_training_knows_who_is_not_used(tmp_path):
    data = write(tmp_path / "data", 3, unlabelled=("s1",))
    made = api.specialist(SMALL, Who(data=data), tmp_path / "out", Budget(steps=1))
    assert [id_ for id_, _ in made.split.unused] == ["s1"]
