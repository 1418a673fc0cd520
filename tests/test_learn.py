"""From labelled cases to a model folder, through the command line: specialists, adapters, resume, wrong input."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import labelled_cases
from segwise import api, assemble
from segwise.cli import app as program
from segwise.cli import learning
from segwise.cli.app import app
from segwise.errors import SegwiseError, SpecError, TrainingError
from segwise.learn import Who
from segwise.records.run import Run
from segwise.training import loop, memory, splits
from segwise.training.labelled import Budget

ADAPTED = "sam(size=nano)+decoder"
SMALL = 'unet(features="4-8")'


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("eggs") / "data"
    labelled_cases.write(root, 5)
    return root


def cli(*words):
    found = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=True)
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        if isinstance(found.exception, SegwiseError):
            return 2, str(found.exception)
        raise found.exception
    return found.exit_code, found.output


def test_a_folder_that_was_trained_anew_is_asked_anew(data, tmp_path):
    """A run that is repeated takes what is done, but not from weights that are no longer there."""
    out, run = tmp_path / "mine", tmp_path / "run"
    words = ("compare", data, "-m", out, "-m", "box-fill", "-p", "name", "-p", "box3d", "-o", run)

    def done():
        return {(r.model, r.case, r.target): r.provenance["weights"] for r in Run.read(run).records() if r.mask}

    cli("train", SMALL, data, "-o", out, "--steps", 1)
    assert cli(*words)[0] == 0
    first = done()
    assert cli(*words)[0] == 0 and done() == first
    shutil.rmtree(out)
    cli("train", SMALL, data, "-o", out, "--steps", 1, "--seed", 5)
    assert cli(*words)[0] == 0
    second = done()
    changed = {key for key in first if first[key] != second[key]}
    assert changed == {key for key in first if key[0] != "box-fill"} and changed


@pytest.mark.parametrize(("verb", "model", "file"), [("adapt", ADAPTED, "adapter"), ("train", SMALL, "weights")])
def test_a_folder_is_a_model(data, tmp_path, verb, model, file):
    out = tmp_path / "mine"
    code, said = cli(verb, model, data, "-o", out, "--steps", 3, "--leave-out", "case004", "--seed", 2)
    assert code == 0, said
    assert f"segwise compare DATA -m {out}" in said
    card = json.loads((out / "model.json").read_text())
    assert card["spec"] == model and set(card["files"]) >= {f"{file}.safetensors"}
    people = card["data"]["subjects"]
    assert people["test"] == ["case004"] and "case004" not in people["train"] + people["valid"]
    assert card["trained"]["steps"] == 3 and card["trained"]["seed"] == 2 and card["trained"]["versions"]["torch"]
    assert card["trained"]["steps_per_s"] > 0 and 0.1 < card["trained"]["peak_gb"] < 64
    info = assemble.model_info(str(out))
    assert card["data"]["dataset"] in info.card.training_sets
    assert all(person in info.card.training_note for person in people["train"])
    code, said = cli("compare", data, "-m", out, "-p", "box2d" if verb == "adapt" else "name", "-o", tmp_path / "run")
    assert code == 0, said
    rows = api.ranking(tmp_path / "run")
    assert len(rows) == 1 and str(out) in rows[0]["model"]


GPU = [
    ("adapt", ADAPTED),
    ("train", SMALL),
    ("pretrain", "unetr(features=8, heads=2, mlp=32, width=16)"),
    ("distill", "sam(size=nano)"),
]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize(("verb", "model"), GPU, ids=[verb for verb, _ in GPU])
def test_the_same_commands_on_a_gpu_record_pace_and_memory(data, tmp_path, verb, model):
    out = tmp_path / "mine"
    code, said = cli(verb, model, data, "-o", out, "--steps", 3, "--device", "cuda")
    assert code == 0, said
    told = json.loads((out / ("pretrained.json" if verb == "pretrain" else "model.json")).read_text())["trained"]
    assert told["device"] == "cuda" and told["steps_per_s"] > 0 and 0 < told["peak_gb"] < 8
    print(f"{verb} {model}: {told['steps_per_s']} steps a second, {told['peak_gb']} GB")


def test_structures_are_named_as_in_compare_or_by_commas(tmp_path):
    named = learning.who(tmp_path, None, ["left kidney", "liver, spleen"], 1.0, "", "", None, 0)
    assert named.targets == ("left kidney", "liver", "spleen")


def test_names_of_structures_are_answered_and_others_refused(data, tmp_path):
    out = tmp_path / "mine"
    cli("train", SMALL, data, "-o", out, "--steps", 1, "--target", "spleen")
    with pytest.raises(SegwiseError, match="liver"):
        api.segment(data / "imagesTr" / "case000_0000.nii.gz", str(out), tmp_path / "m.nii.gz", texts=("liver",))
    said = api.segment(data / "imagesTr" / "case000_0000.nii.gz", str(out), tmp_path / "m.nii.gz", texts=("spleen",))
    assert list(said.labels.values()) == ["spleen"]


def losses(out):
    with (out / "log.csv").open() as file:
        return [(row["step"], row["loss"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize(("verb", "model"), [("adaptation", "sam(size=nano)+lora"), ("specialist", SMALL)])
def test_pieces_come_to_the_same_bits(data, tmp_path, verb, model):
    """Stopped after every batch, and begun anew each time: the same losses and the same tensors."""

    def made(out):
        return getattr(api, verb)(model, Who(data=data, seed=1), out, Budget(steps=5, size=1, precision="fp32"))

    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    api.learn(made(whole), whole)
    for _ in range(20):
        if api.learn(made(pieces), pieces, minutes=0).finished:
            break
    assert losses(whole) == losses(pieces) and len(losses(whole)) > 2
    file = "adapter.safetensors" if verb == "adaptation" else "weights.safetensors"
    assert (whole / file).read_bytes() == (pieces / file).read_bytes()


def test_only_the_adapter_is_saved_and_it_is_what_was_trained(data, tmp_path):
    out = tmp_path / "mine"
    made = api.adaptation("sam(size=nano)+lora(rank=2)", Who(data=data), out, Budget(steps=4, rate=1e-2))
    base = assemble.segmenter("sam(size=nano)")
    api.learn(made, out)
    assert (out / "adapter.safetensors").stat().st_size < 20_000
    assert made.trained < 0.02 * made.parameters
    tuned = assemble.segmenter(str(out))
    own, adapted = base.parts.net.state_dict(), tuned.parts.net.state_dict()
    same = [torch.equal(value, adapted[key]) for key, value in own.items() if key in adapted]
    assert len(same) > 20 and all(same)
    changed = [value.abs().max() for key, value in adapted.items() if key not in own and value.ndim > 1]
    assert changed and all(float(value) > 0 for value in changed)


def test_a_forecast_says_time_memory_and_what_fits(data, tmp_path):
    code, said = cli("train", SMALL, data, "-o", tmp_path / "a", "--dry-run", "--budget-gb", 64, "--steps", 50)
    assert code == 0, said
    assert "s a step" in said and "GB of memory" in said and "fits 64 GB" in said
    assert not (tmp_path / "a" / "model.json").exists()
    _, said = cli("train", SMALL, data, "-o", tmp_path / "a", "--dry-run", "--budget-gb", 0.01, "--json")
    told = json.loads(said[said.index("{") :])
    assert told["fits"] == 0 and told["seconds"] > 0 and told["memory_gb"] > 0.05


def test_memory_is_said_before_and_only_ways_that_the_command_has(data, tmp_path, monkeypatch):
    _, said = cli("train", SMALL, data, "-o", tmp_path / "a", "--dry-run", "--budget-gb", 0.01)
    assert "GB of memory, a batch comes on top" in said
    assert "0.01 GB do not hold even one a batch\nwith --recompute: about" in said and "times as long" in said, said
    assert "forecast again with a smaller --patch or a smaller model" in said
    monkeypatch.setattr(memory, "RESET", tmp_path / "none" / "there")
    _, said = cli("train", SMALL, data, "-o", tmp_path / "a", "--dry-run", "--budget-gb", 0.01)
    assert "with --recompute" not in said and "--recompute could not be tried: this system does not" in said, said
    monkeypatch.undo()
    _, said = cli("train", SMALL, data, "-o", tmp_path / "a", "--dry-run", "--budget-gb", 0.01, "--recompute")
    assert "with --recompute" not in said and "forecast again with a smaller --patch or" in said, said
    _, said = cli("pretrain", "unetr", data, "-o", tmp_path / "b", "--dry-run", "--budget-gb", 0.01, "--steps", 5)
    assert "forecast again with a smaller --patch or a smaller model" in said, said


def test_the_command_is_kept_as_a_shell_takes_it(data, tmp_path, monkeypatch):
    words = ["adapt", ADAPTED, str(data), "-o", str(tmp_path / "a b"), "--steps", "1", "--loss", "dice-focal"]
    words += ["--schedule", "poly"]
    monkeypatch.setattr(sys, "argv", ["segwise", *words])
    code, said = cli(*words)
    assert code == 0, said
    kept = json.loads((tmp_path / "a b" / "model.json").read_text())["trained"]["command"]
    assert shlex.split(kept) == ["segwise", *words]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("adapt", "sam(size=nano)", "DATA"), "expected a model with an adapter at its end"),
        (("adapt", ADAPTED, "DATA", "--target", "pancreas"), 'no training case has a structure "pancreas"'),
        (("adapt", ADAPTED, "DATA", "--fraction", "0.1"), "less than one subject"),
        (("adapt", "threshold+lora", "DATA"), "there is none before it"),
        (("adapt", ADAPTED, "DATA", "--fold", "5"), "expected a fold from 0 on"),
        (("adapt", ADAPTED, "DATA", "--fold", "0/2", "--leave-out", "case001"), "expected one of them"),
        (("adapt", ADAPTED, "DATA", "--leave-out", "bob"), "no subject bob to leave out"),
        (("train", "threshold", "DATA"), "is not trained from nothing on labelled cases"),
        (("train", SMALL, "NOWHERE"), "no such folder"),
        (("train", SMALL, "DATA", "--patch", "3,3"), "expected three numbers above 0"),
        (("train", SMALL, "DATA", "--loss", "hinge"), "expected dice-ce, dice-focal, dice, ce"),
        (("train", SMALL, "DATA", "--precision", "int4"), "expected auto, bf16, fp32"),
        (("train", "unet(colour=1)", "DATA"), "colour"),
    ],
)
def test_wrong_input_gets_one_message(data, tmp_path, words, said):
    places = {"DATA": data, "NOWHERE": tmp_path / "none"}
    code, found = cli(*(places.get(word, word) for word in words), "-o", tmp_path / "out")
    assert code == 2
    assert said in " ".join(found.split())


def test_somebody_who_has_none_of_the_targets_is_left_out_already(tmp_path, monkeypatch):
    cases = [*(labelled_cases.case(i) for i in range(3)), labelled_cases.case(3, names=("spleen",))]
    monkeypatch.setattr("segwise.learn.inventory.find", lambda *_: ("made", cases))
    who = Who(data=tmp_path / "data", targets=("liver",), left_out=("person3", "person1"))
    made = api.specialist(SMALL, who, tmp_path / "out", Budget(steps=1))
    assert made.split.test == ("person1",) and "person3" not in made.split.train + made.split.valid
    with pytest.raises(TrainingError, match="no subject person9"):
        api.specialist(SMALL, replace(who, left_out=("person9",)), tmp_path / "other", Budget(steps=1))


def test_a_folder_that_no_spec_can_name_is_refused_at_once(data, tmp_path):
    with pytest.raises(SpecError, match=r"has '\+' in its path"):
        api.specialist(SMALL, Who(data=data), tmp_path / "unet+more", Budget(steps=1))


@pytest.mark.parametrize("words", [("pretrain", "unetr"), ("distill", "sam(size=nano)")])
def test_learning_without_labels_keeps_to_one_modality(data, tmp_path, words):
    code, said = cli(*words, data, "-o", tmp_path / "out", "--modality", "CT")
    assert code == 2 and "no case is CT" in said


def test_one_subject_cannot_be_left_out_and_another_split_is_refused(tmp_path):
    labelled_cases.write(tmp_path / "one", 1)
    with pytest.raises(TrainingError, match="nobody is left to train on"):
        api.adaptation(ADAPTED, Who(data=tmp_path / "one", left_out=("case000",)), tmp_path / "out", Budget(steps=1))
    labelled_cases.write(tmp_path / "four", 4)
    api.adaptation(ADAPTED, Who(data=tmp_path / "four", left_out=("case002",)), tmp_path / "out", Budget(steps=1))
    made = api.adaptation(
        ADAPTED, Who(data=tmp_path / "four"), tmp_path / "out", Budget(steps=1)
    )  # nothing learned yet
    api.learn(made, tmp_path / "out")
    with pytest.raises(TrainingError, match="holds a training on other subjects"):
        api.adaptation(ADAPTED, Who(data=tmp_path / "four", left_out=("case001",)), tmp_path / "out", Budget(steps=1))


def test_a_class_that_no_training_case_has_is_refused(tmp_path):
    """The structure is listed, and in the training subjects it has no voxel."""
    import nibabel

    labelled_cases.write(tmp_path / "data", 3)
    for i in range(3):
        path = tmp_path / "data" / "labelsTr" / f"case{i:03d}.nii.gz"
        image = nibabel.load(path)
        labels = np.asarray(image.dataobj).copy()
        labels[labels == 2] = 0
        nibabel.save(nibabel.Nifti1Image(labels, image.affine), path)
    with pytest.raises(TrainingError, match="spleen"):
        api.specialist(SMALL, Who(data=tmp_path / "data"), tmp_path / "out", Budget(steps=1))


def test_labels_of_another_grid_are_refused(tmp_path):
    import nibabel

    labelled_cases.write(tmp_path / "data", 2)
    path = tmp_path / "data" / "labelsTr" / "case000.nii.gz"
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj)[:-3], image.affine), path)
    with pytest.raises(SegwiseError, match="case000"):
        api.specialist(SMALL, Who(data=tmp_path / "data"), tmp_path / "out", Budget(steps=1))


def _torch_without_room(*_):
    return torch.empty(2**50)  # what torch says itself: no machine has 4 PB


def _numpy_without_room(*_):
    return np.empty(2**60, dtype=np.uint8)


@pytest.mark.parametrize("place", ["losses", "validate", "batch"])
@pytest.mark.parametrize("full", [_torch_without_room, _numpy_without_room])
def test_out_of_memory_is_one_message_and_the_checkpoint_stays(data, tmp_path, monkeypatch, place, full):
    out = tmp_path / "out"
    made = api.specialist(SMALL, Who(data=data), out, Budget(steps=20, size=1))
    api.learn(made, out, minutes=0)
    kept = (out / "last.pt").read_bytes()
    again = api.specialist(SMALL, Who(data=data), out, Budget(steps=20, size=1))
    owner = again.recipe.stream if place == "batch" else again.recipe.objective
    monkeypatch.setattr(type(owner), place, full)
    with pytest.raises(TrainingError, match="out of memory at step"):
        loop.train(again.recipe, out)
    assert (out / "last.pt").read_bytes() == kept


def test_a_net_without_room_is_one_message(data, tmp_path, monkeypatch, capsys):
    words = ["adapt", "sam(size=nano)+lora(rank=100000000000000)", str(data), "-o", str(tmp_path / "a")]
    monkeypatch.setattr(sys, "argv", ["segwise", *words])
    monkeypatch.delenv("SEGWISE_DEBUG", raising=False)
    with pytest.raises(SystemExit) as left:
        program.main()
    said = capsys.readouterr().err
    assert left.value.code == 2 and "error: out of memory (" in said and "Traceback" not in said


def test_an_adapter_on_a_relative_folder_is_used_from_anywhere(data, tmp_path, monkeypatch):
    """The folder names what it was tuned on as seen from itself, so that both may be moved together."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    assert cli("adapt", ADAPTED, data, "-o", "o/first", "--steps", 1)[0] == 0
    assert cli("adapt", "./o/first+lora", data, "-o", "second", "--steps", 1)[0] == 0
    assert json.loads((home / "second" / "model.json").read_text())["spec"].startswith("../o/first+lora")
    digest = assemble.segmenter("./second").digest
    home.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    assert assemble.segmenter("./moved/second").digest == digest


def test_only_models_with_a_net_are_adapted(data, tmp_path):
    with pytest.raises(SpecError, match="there is none before it"):
        api.adaptation("box-fill+decoder", Who(data=data), tmp_path, Budget(steps=1))


def test_only_cases_of_the_kind_and_with_the_structures_are_used(tmp_path, monkeypatch):
    labelled_cases.write(tmp_path / "data", 3)
    cases = api.read_cases(tmp_path / "data")
    bare = replace(cases[0], structures=(), derived=())
    other = replace(cases[1], modality="CT")
    known = [bare, other, replace(cases[2], modality="MR")]
    assert splits.usable(known, targets=("liver",)) == known[1:]
    assert splits.usable(known, targets=("liver",), modality="MR") == known[2:]
    assert splits.usable(known, modality="CT") == [other]
    with pytest.raises(TrainingError, match="no case is PT; the data set has"):
        splits.usable(known, modality="PT")
