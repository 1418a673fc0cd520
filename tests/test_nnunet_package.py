"""nnU-Net through its own package: what its raw data set holds, how it is found, what is said where it fails.

A script in the place of its Python plays nnU-Net, so that no package is needed; the slow test at the end runs the real
one where SEGWISE_NNUNET_ENV names an environment that has it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import labelled_cases
from segwise import api, assemble, io, nnunet_package, study
from segwise.case import Structure
from segwise.errors import PlanError, TrainingError
from segwise.geometry import Channel, Grid, Volume
from segwise.learn import Who
from segwise.nnunet_package import Budget, environment, raw
from segwise.records import plan as plans
from test_learn import cli

FAKE = """#!{python}
import json, os, sys
from pathlib import Path
if sys.argv[1] == "-c":
    print("2.8.1")
    raise SystemExit
stage, said = sys.argv[2], json.loads(sys.argv[3])
ran = Path(os.environ["nnUNet_raw"]).parent / "ran.txt"
ran.write_text((ran.read_text() if ran.is_file() else "") + stage + "\\n")
print("here is", stage, os.environ["nnUNet_n_proc_DA"], os.environ.get("PYTHONPATH"), flush=True)
if stage == os.environ.get("FAKE_FAILS"):
    print("ValueError: the plan has no patch")
    raise SystemExit(3)
if stage == "plan":
    plans = Path(os.environ["nnUNet_preprocessed"]) / "Dataset001_segwise" / "nnUNetPlans.json"
    plans.parent.mkdir(parents=True)
    plans.write_text(json.dumps({{"configurations": {{"2d": {{}}, "3d_fullres": {{}}}}}}))
if stage == "train":
    first = 1 + (said["epochs"] - 1 if said["again"] else 0)
    last = first if said["minutes"] == 0 else said["epochs"]
    for epoch in range(first, last + 1):
        print("@segwise " + json.dumps({{"epoch": epoch, "loss": 1 / epoch, "valid_dsc": 0.5}}), flush=True)
    kept = Path(os.environ["nnUNet_results"]) / "a" / "b" / "fold_0" / "checkpoint_latest.pth"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(b"")
    Path(said["into"]).write_bytes(b"weights")
    print("@segwise " + json.dumps({{"epoch": last, "finished": last == said["epochs"]}}), flush=True)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("eggs") / "data"
    labelled_cases.write(root, 4)
    return root


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """An environment whose Python is a script; its folder."""
    monkeypatch.delenv(environment.VARIABLE, raising=False)
    home = tmp_path / "env"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "python").write_text(FAKE.format(python=sys.executable))
    (home / "bin" / "python").chmod(0o755)
    return home


# ---------------------------------------------------------------- the raw data set


def test_names_geometry_and_the_split_by_subject(tmp_path):
    train = [labelled_cases.case(0, subject="a"), labelled_cases.case(1, subject="a")]
    splits = raw.write(tmp_path, train, [labelled_cases.case(2)], ("liver", "spleen"))
    assert splits == [{"train": ["0000_case0", "0001_case1"], "val": ["0002_case2"]}]
    said = json.loads((tmp_path / "dataset.json").read_text())
    assert said["labels"] == {"background": 0, "liver": 1, "spleen": 2}
    assert said["channel_names"] == {"0": "MR"} and said["numTraining"] == 3 and said["file_ending"] == ".nii.gz"
    image = sitk.ReadImage(str(tmp_path / "imagesTr" / "0001_case1_0000.nii.gz"))
    assert image.GetSpacing() == (1.0, 1.0, 2.0) and image.GetSize() == (28, 24, 20)
    back = io.read(tmp_path / "imagesTr" / "0001_case1_0000.nii.gz").volume
    wanted = labelled_cases.volume(1)
    assert np.array_equal(back.on(wanted.grid).array, wanted.array)
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "labelsTr" / "0001_case1.nii.gz")))
    own = labelled_cases.masks(1)
    assert np.array_equal(labels == 1, own["liver"]) and np.array_equal(labels == 2, own["spleen"])


def test_nobody_to_check_on_is_checked_on_the_training_cases(tmp_path):
    splits = raw.write(tmp_path, [labelled_cases.case(0)], [], ("spleen",))
    assert splits[0]["val"] == splits[0]["train"]


def test_axes_lie_in_slices_rows_columns_and_a_sheared_grid_is_straightened(tmp_path):
    case = labelled_cases.case(0)
    turned = labelled_cases.volume(0).grid.toward("RAI")
    sheared = Grid(labelled_cases.SHAPE, labelled_cases.AFFINE + _shear())
    for i, grid in enumerate((turned, sheared)):
        volume = Volume.of(np.zeros((1, *grid.shape), np.float32), grid)
        mask = np.ones(grid.shape, bool)
        moved = replace(case, load=lambda v=volume: v, load_masks=lambda w, m=mask: [m for _ in w])
        raw.write(tmp_path / str(i), [moved], [], ("spleen",))
        back = io.read(tmp_path / str(i) / "imagesTr" / "0000_case0_0000.nii.gz").volume.grid
        assert back.skew < raw.STRAIGHT
        assert [letter in pair for letter, pair in zip(back.axes, ("SI", "AP", "RL"), strict=True)] == [True] * 3


def _shear():
    found = np.zeros((4, 4))
    found[0, 1] = 0.2
    return found


def test_channels_are_files_and_ct_is_named(tmp_path):
    grid = labelled_cases.volume(0).grid
    array = np.random.default_rng(0).normal(size=(2, *grid.shape)).astype(np.float32)
    array[1, 0, 0, 0] = np.nan
    volume = Volume.of(array, grid, (Channel("CT"), Channel("PET")))
    case = replace(labelled_cases.case(0), modality="", load=lambda: volume)
    raw.write(tmp_path / "two", [case], [], ("liver",))
    said = json.loads((tmp_path / "two" / "dataset.json").read_text())
    assert said["channel_names"] == {"0": "CT", "1": "PET"}
    second = io.read(tmp_path / "two" / "imagesTr" / "0000_case0_0001.nii.gz").volume.array
    assert np.isfinite(second).all() and np.abs(second[0] - array[1])[1:].max() == 0
    with pytest.raises(TrainingError, match="case1 has 1 channels and case0 has 2"):
        raw.write(tmp_path / "mixed", [case, labelled_cases.case(1)], [], ("liver",))


def test_a_structure_without_a_voxel_is_refused(tmp_path):
    case = replace(labelled_cases.case(0), structures=(Structure("liver", "liver", (1,)),))
    with pytest.raises(TrainingError, match="spleen is in none of the 1 training cases"):
        raw.write(tmp_path, [case], [labelled_cases.case(1)], ("liver", "spleen"))


# ---------------------------------------------------------------- the budget


@pytest.mark.parametrize(
    ("budget", "schedule"),
    [
        (Budget(steps=250_000), (1000, 250)),
        (Budget(steps=1000), (20, 50)),
        (Budget(steps=4), (4, 1)),
        (Budget(steps=100, epochs=3), (3, 34)),
        (Budget(steps=1, epochs=1), (1, 1)),
    ],
)
def test_steps_are_cut_into_epochs(budget, schedule):
    assert budget.schedule == schedule


# ---------------------------------------------------------------- the whole way, with a script as nnU-Net


def test_a_folder_is_made_in_stages_that_run_once(data, tmp_path, fake):
    out = tmp_path / "mine"
    words = ("train", "nnunet", data, "-o", out, "--nnunet-env", fake, "--steps", 8, "--epochs", 4)
    words = (*words, "--leave-out", "case003", "--minutes", 0)
    code, said = cli(*words)
    assert code == 0, said
    assert "repeat the command to go on" in said and f"segwise compare DATA -m {out}" in said
    card = json.loads((out / "model.json").read_text())
    assert card["spec"] == "nnunet" and set(card["files"]) == {"checkpoint.pth"}
    assert card["data"]["structures"] == ["liver", "spleen"] and card["data"]["subjects"]["test"] == ["case003"]
    assert card["trained"]["steps"] == 2 and card["trained"]["versions"]["nnunetv2"] == "2.8.1"
    splits = json.loads((out / "nnunet" / "preprocessed" / nnunet_package.SET / "splits_final.json").read_text())
    assert not any("case003" in name for part in splits[0].values() for name in part)
    code, said = cli(*words)  # goes on, to the end
    assert code == 0 and "repeat" not in said
    code, said = cli(*words)  # nothing is left to do
    assert code == 0, said
    assert (out / "nnunet" / "ran.txt").read_text().split() == ["plan", "preprocess", "train", "train"]
    assert "here is train 1 None" in (out / "nnunet" / "log.txt").read_text()
    rows = (out / "log.csv").read_text().splitlines()
    assert rows[0] == "batch,step,seconds,loss,valid_dsc" and [row.split(",")[1] for row in rows[1:]] == ["2", "8"]
    info = assemble.model_info(str(out))
    assert info.spec.name == "nnunet" and card["data"]["dataset"] in info.card.training_sets
    code, said = cli(*words[:-2], "--seed", 3)
    assert code == 2 and "holds a" in said


def test_a_stage_that_fails_is_one_message_with_its_last_lines(data, tmp_path, fake, monkeypatch):
    monkeypatch.setenv("FAKE_FAILS", "preprocess")
    monkeypatch.setenv(environment.VARIABLE, str(fake))
    code, said = cli("train", "nnunet", data, "-o", tmp_path / "mine")
    assert code == 2
    assert "nnU-Net's preprocess ended with exit code 3" in said and "the plan has no patch" in said
    assert "log.txt" in said and not (tmp_path / "mine" / "model.json").exists()
    monkeypatch.delenv("FAKE_FAILS")
    code, said = cli("train", "nnunet", data, "-o", tmp_path / "mine")
    assert code == 0, said
    assert (tmp_path / "mine" / "nnunet" / "ran.txt").read_text().split() == [
        *("plan", "preprocess", "preprocess", "train")
    ]


def test_without_the_package_the_message_says_what_to_type(data, tmp_path, monkeypatch):
    monkeypatch.delenv(environment.VARIABLE, raising=False)
    code, said = cli("train", "nnunet", data, "-o", tmp_path / "mine", "--nnunet-env", tmp_path)
    words = " ".join(said.split())
    assert code == 2 and f"{tmp_path} has no nnunetv2" in words
    assert "pip install torch==2.13.0 torchvision==0.28.0 nnunetv2" in words and environment.VARIABLE in words
    assert "://" not in words
    monkeypatch.setattr(environment, "_version", lambda python: "")
    with pytest.raises(TrainingError, match="is not installed; make an environment"):
        environment.python_of(None, tmp_path)


def test_where_it_is_looked_for(tmp_path, fake, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    python = fake / "bin" / "python"
    assert environment.python_of(fake, out) == (python, "2.8.1")
    assert environment.python_of(python, out) == (python, "2.8.1")
    (out / environment.BESIDE).symlink_to(fake)
    assert environment.python_of(None, out) == (out / environment.BESIDE / "bin" / "python", "2.8.1")
    monkeypatch.setenv(environment.VARIABLE, str(fake))
    assert environment.python_of(None, out)[0] == python


@pytest.mark.parametrize(
    "words", [("--patch", "8,8,8"), ("--loss", "ce"), ("--batch", "4"), ("--from", "x"), ("--dry-run",)]
)
def test_what_nnunet_plans_itself_is_refused(data, tmp_path, words):
    code, said = cli("train", "nnunet", data, "-o", tmp_path / "mine", *words)
    assert code == 2 and "plans these itself" in said and words[0] in said


def test_epochs_are_of_nnunet_alone(data, tmp_path):
    code, said = cli("train", "unet", data, "-o", tmp_path / "mine", "--epochs", 3)
    assert code == 2 and "--epochs and --nnunet-env are of nnunet" in said


# ---------------------------------------------------------------- in a study

STUDY = """
prompters = ["name"]
metrics = ["overlap"]
[study]
models = [{ model = "nnunet", steps = STEPS }, { model = 'unet(features="4-8")', steps = 2 }]
"""


def _study(tmp_path, steps):
    file = tmp_path / "mine.toml"
    file.write_text(STUDY.replace("STEPS", str(steps)))
    return plans.read(file)


def test_nnunet_is_an_arm_of_a_study(data, tmp_path, fake, monkeypatch):
    monkeypatch.setenv(environment.VARIABLE, str(fake))
    (plan,) = study.run(_study(tmp_path, 40), data, tmp_path / "run")
    home = tmp_path / "run-models" / "nnunet-100-s0"
    assert {str(home), str(home.with_name("unet-features-4-8-100-s0"))} == set(plan.models)
    said = json.loads((home / "model.json").read_text())["trained"]
    assert said["steps"] == 40 and said["recipe"] == "nnunet-100" and said["draw"] == 0
    ran = (home / "nnunet" / "ran.txt").read_text()
    study.run(_study(tmp_path, 40), data, tmp_path / "run")
    assert (home / "nnunet" / "ran.txt").read_text() == ran  # taken as it is


def test_a_study_says_that_nnunet_is_not_there_before_it_trains_anything(data, tmp_path, fake, monkeypatch):
    (fake / "bin" / "python").write_text("#!/bin/sh\nexit 1\n")
    monkeypatch.setenv(environment.VARIABLE, str(fake))
    with pytest.raises(TrainingError, match="nnunetv2"):
        study.run(_study(tmp_path, 40), data, tmp_path / "run")
    assert not (tmp_path / "run-models").exists()


def test_a_study_refuses_what_nnunet_plans_itself(data, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(STUDY.replace("STEPS", "4, batch = 4"))
    with pytest.raises(PlanError, match="plans its batch itself: leave batch = 4 out"):
        study.run(plans.read(file), data, tmp_path / "run")


# ---------------------------------------------------------------- the real one


@pytest.mark.slow
def test_plan_train_predict_compare_with_the_real_package(tmp_path):
    home = os.environ.get(environment.VARIABLE)
    if not home:
        pytest.skip(f"{environment.VARIABLE} names no environment with nnunetv2")
    labelled_cases.write(tmp_path / "data", 6)
    out = tmp_path / "mine"
    who = Who(data=tmp_path / "data", left_out=("case005",))
    found = api.train_elsewhere(who, out, Budget(steps=60, epochs=3), minutes=0)
    assert not found.finished and found.step == 20
    found = api.train_elsewhere(who, out, Budget(steps=60, epochs=3))
    assert found.finished and found.step == 60 and found.measures["valid_dsc"] > 0.6
    theirs = _predicted(tmp_path, out, Path(home))
    image = tmp_path / "in" / "case005_0000.nii.gz"
    said = api.segment(image, str(out), tmp_path / "ours.nii.gz", texts=("liver", "spleen"))
    ours = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "ours.nii.gz")))
    assert list(said.labels.values()) == ["liver", "spleen"]
    for value in (1, 2):
        a, b = ours == value, theirs == value
        assert b.sum() > 100 and 2 * (a & b).sum() / (a.sum() + b.sum()) >= 0.999
    folder = next((out / "nnunet" / "results").glob("*/*"))  # nnU-Net's own folder, as it is
    assert assemble.segmenter(f'nnunet(checkpoint="{folder}")').parts.labels == ("liver", "spleen")
    code, shown = cli("compare", tmp_path / "data", "-m", out, "-p", "name", "-o", tmp_path / "run")
    assert code == 0, shown
    assert len(api.ranking(tmp_path / "run")) == 1


@pytest.mark.slow
def test_the_real_package_beside_others_in_one_plan(tmp_path):
    if not os.environ.get(environment.VARIABLE):
        pytest.skip(f"{environment.VARIABLE} names no environment with nnunetv2")
    labelled_cases.write(tmp_path / "data", 6)
    _study(tmp_path, 60)
    code, said = cli("run", tmp_path / "mine.toml", "--data", tmp_path / "data", "-o", tmp_path / "run")
    assert code == 0, said
    first, second = api.ranking(tmp_path / "run")
    assert "nnunet" in first["model"] and "unet-features" in second["model"] and float(first["dsc"]) > 0.9


def _predicted(tmp_path, out, home):
    """int [D, H, W]: what nnUNetv2_predict says of the case that was left out."""
    (tmp_path / "in").mkdir()
    image = tmp_path / "data" / "imagesTr" / "case005_0000.nii.gz"
    (tmp_path / "in" / image.name).write_bytes(image.read_bytes())
    places = {f"nnUNet_{part}": str(out / "nnunet" / part) for part in ("raw", "preprocessed", "results")}
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    words = ["-i", tmp_path / "in", "-o", tmp_path / "theirs", "-d", 1, "-c", "3d_fullres", "-f", 0]
    words += ["-device", "cpu", "-npp", 1, "-nps", 1]
    subprocess.run(
        [str(home / "bin" / "nnUNetv2_predict"), *map(str, words)],
        env=kept | places | {"nnUNet_def_n_proc": "1"},
        check=True,
        capture_output=True,
        timeout=600,
    )
    return sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "theirs" / "case005.nii.gz")))
