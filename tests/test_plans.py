"""Shipped plans: each names members and arguments that exist; the survey's own run on trees of their layouts."""

from __future__ import annotations

import dataclasses
import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dataset_trees as trees
import small_checkpoints
from segwise import anatomy, assemble, catalog, persons, spec
from segwise.cli import app as program
from segwise.datasets.btcv import LABELS
from segwise.errors import PlanError
from segwise.evaluate import compare
from segwise.records import plan as plans
from segwise.records.run import Run

SHAPE = (8, 24, 26)


@pytest.mark.parametrize("name", catalog.names("plans"))
def test_a_shipped_plan_names_what_there_is(name):
    plan = compare.named_plan(name)
    assert plan.question.endswith("?")
    for model in (*plan.models, *(pair.model for pair in plan.pairs)):
        assemble.model_info(model)
    for prompter in (*plan.prompters, *(pair.prompter for pair in plan.pairs)):
        assemble.prompter_info(prompter)
    for metric in plan.metrics:
        assemble.metric_info(metric)
    assert all(anatomy.resolve(target).known for target in plan.targets)


def test_a_model_that_fits_no_case_is_left_out_where_the_plan_says_so_and_else_refused(tmp_path):
    """`zero_shot` on CT alone: its specialist for brains has nothing to do, and the rest goes on."""
    _btcv(tmp_path, 1, 6)
    plan = compare.named_plan("zero_shot")
    found = compare.preview(plan, tmp_path)
    assert "meshnet" not in {task.model for task in found.tasks} and len({task.model for task in found.tasks}) == 12
    assert any(reason == "meshnet is made for MR, not for CT" for reason in found.left_out)
    with pytest.raises(PlanError, match="meshnet has nothing to do: meshnet is made for MR"):
        compare.preview(dataclasses.replace(plan, optional=()), tmp_path)
    alone = dataclasses.replace(plan, models=("meshnet",), pairs=())
    with pytest.raises(PlanError, match="meshnet has nothing to do"):
        compare.preview(alone, tmp_path)
    with pytest.raises(PlanError, match=r"mine\.toml: optional: geodesic, expected models of the plan"):
        plans.build({"models": ["box-fill"], "optional": ["geodesic"]}, name="mine", source="mine.toml")


def test_domain_shift_has_every_damage_in_five_levels_with_the_target_and_without_it():
    asked = compare.named_plan("domain_shift").conditions
    for kind in ("noise", "streaks", "motion", "bias", "cut-view", "contrast"):
        for before in ("", "without(target=spleen)+"):
            assert {f"{before}{kind}(level={level})" for level in range(1, 6)} <= set(asked), (kind, before)


def _told() -> dict[str, tuple[str, str]]:
    """What docs/how-to/plans.md says: plan -> (makes its own persons, what it needs)."""
    text = (Path(__file__).parent.parent / "docs" / "how-to" / "plans.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| `")
    ]
    return {row[0].strip("`"): (row[1], row[2]) for row in rows if len(row) == 3}


def test_every_plan_stands_in_the_table_of_what_it_needs():
    assert set(_told()) == set(catalog.names("plans"))


@pytest.mark.parametrize("name", catalog.names("plans"))
def test_a_plan_makes_persons_and_needs_what_the_table_says(name):
    plan, (makes, needed) = compare.named_plan(name), _told()[name]
    made = bool(plan.persons) or (plan.study is not None and bool(plan.study.persons[1]))
    assert makes.startswith("yes") == made and makes.endswith("trains") == (plan.study is not None)
    assert needed and all(f"**{need}**" in needed for need in plan.needs)
    families = {persons.HOME.get(family, family) for family, _ in plan.persons}
    assert (len(families) > 1) == (plans.DATA_SETS in plan.needs)  # rare persons make no data set of their own


def test_one_data_set_is_told_to_answer_half_of_cross_dataset(tmp_path, monkeypatch, capsys):
    """A warning before the run, and in the report, with each structure held out."""
    plan = tmp_path / "one.toml"
    text = 'question = "Which?"\nmodels = ["box-fill", "geodesic"]\nprompters = ["box3d"]\nmetrics = ["overlap"]\n'
    plan.write_text(text + 'needs = ["several data sets"]\n')
    data = _btcv(tmp_path / "data", 1, 2, 3)
    assert _run(monkeypatch, plan, data, tmp_path / "run") == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "warning: one: one data set came (BTCV)" in said and "give --data once for each of several" in said
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "What is left unanswered</h2>" in page and "one data set came" in page and "Held-out anatomies" in page
    plan.write_text(text)
    assert _run(monkeypatch, plan, data, tmp_path / "other") == 0
    assert "What is left unanswered" not in (tmp_path / "other" / "report.html").read_text(encoding="utf-8")


def test_shapes_are_not_asked_of_targets_without_levels(tmp_path, monkeypatch, capsys):
    assert _run(monkeypatch, Path("shape_break"), _btcv(tmp_path / "data", 1, 2), tmp_path / "run") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "shape_break: no target comes in levels (these data have aorta, " in said
    assert not (tmp_path / "run").exists()


def test_a_need_that_nobody_knows_is_refused():
    with pytest.raises(
        PlanError, match=r"mine\.toml: needs: luck, expected some of several data sets, targets in levels"
    ):
        plans.build({"models": ["box-fill"], "needs": ["luck"]}, name="mine", source="mine.toml")


def test_prompt_sensitivity_asks_the_pretrained_generalist_with_every_kind_of_box_that_it_takes():
    plan = compare.named_plan("prompt_sensitivity")
    said = {pair.prompter for pair in plan.pairs if pair.model == "litemedsam"}
    assert {spec.parse(one).name for one in said} == {"box3d"} and "box3d" in said
    for error in ("margin_mm", "jitter_mm"):  # each makes a curve with the exact box
        assert any(error in spec.parse(one).args for one in said)
    assert all(one in plan.prompters for one in said)  # as the others are asked


def test_the_twin_of_the_held_out_anatomies_asks_for_the_same_and_says_for_whom_it_stands():
    theirs, ours = compare.named_plan("held_out_medsam"), compare.named_plan("held_out")
    assert theirs.targets == ours.targets and {"medsam", "sam-med3d"} <= {pair.model for pair in theirs.pairs}
    assert "In place of MedSAM and SAM-Med3D" in ours.question and "held_out_medsam" in ours.question


def test_weights_that_are_missing_are_named_with_what_to_type(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SEGWISE_WEIGHTS_DIR", str(tmp_path / "none"))
    plan = tmp_path / "mine.toml"
    pairs = [("medsam", "box2d"), ("sam-med3d", "center-point")]
    plan.write_text("".join(f'[[pairs]]\nmodel = "{model}"\nprompter = "{prompter}"\n' for model, prompter in pairs))
    assert _run(monkeypatch, plan, _btcv(tmp_path / "data", 1), tmp_path / "run") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "medsam_vit_b.pth not found" in said and "sam_med3d_turbo.pth not found" in said
    assert "segwise weights pull medsam or segwise weights import FILE" in said


@pytest.mark.parametrize("name", ["held_out", "held_out_medsam", "zero_shot"])
def test_a_plan_finds_all_its_targets_in_the_real_cases(name, data):
    found = compare.preview(compare.named_plan(name), data)
    asked = {target for task in found.tasks for target in task.targets}
    assert set(found.plan.targets) <= asked and len({task.prompter for task in found.tasks}) > 2


def test_the_first_experiment_asks_for_every_organ_of_btcv():
    assert compare.named_plan("zero_shot_btcv").targets == LABELS


def _image(labels: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(7).normal(-20, 15, SHAPE)
    return (noise + 25 * labels).astype(np.int16)


def _blobs(*values: int) -> np.ndarray:
    """A block a value, side by side; none touches another."""
    found = np.zeros(SHAPE, dtype=np.uint8)
    for value in values:
        row, column = divmod(value - 1, 4)
        found[2:6, 1 + 6 * row : 5 + 6 * row, 1 + 6 * column : 6 + 6 * column] = value
    return found


def _btcv(root: Path, *values: int) -> Path:
    labels = _blobs(*values)
    trees.save(root / "RawData" / "Training" / "img" / "img0001.nii.gz", _image(labels))
    trees.save(root / "RawData" / "Training" / "label" / "label0001.nii.gz", labels)
    return root


def _pancreas(root: Path, *values: int) -> Path:
    """Task07 with a tumour; as published, background is label 0 and the tumour is called cancer."""
    home, labels = root / "Task07_Pancreas", _blobs(*values)
    trees.save(home / "imagesTr" / "pancreas_001.nii.gz", _image(labels))
    trees.save(home / "labelsTr" / "pancreas_001.nii.gz", labels)
    what = {
        "name": "Pancreas",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "pancreas", "2": "cancer"},
        "training": [{"image": "./imagesTr/pancreas_001.nii.gz", "label": "./labelsTr/pancreas_001.nii.gz"}],
    }
    (home / "dataset.json").write_text(json.dumps(what))
    return root


def _small(name: str, folder: Path, **fields: Any) -> Path:
    """A shipped plan as a file, its models with the checkpoints of their fixtures."""
    content = tomllib.loads(catalog.plan_path(name).read_text(encoding="utf-8")) | fields
    content["models"] = [_reduced(model) for model in content["models"]]
    pairs = [{"model": _reduced(p["model"]), "prompter": p["prompter"]} for p in content.pop("pairs", [])]
    lines = [f"{key} = {json.dumps(value)}" for key, value in content.items()]
    for pair in pairs:
        lines += ["[[pairs]]", *(f"{key} = {json.dumps(value)}" for key, value in pair.items())]
    path = folder / f"{name}.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _reduced(model: str | dict[str, Any]) -> str:
    said = {"name": model} if isinstance(model, str) else dict(model)
    base = spec.parse(said.pop("name"))
    found = small_checkpoints.spec_of(base.name, **base.args, **said)
    if found is None:
        pytest.skip(small_checkpoints.why_not(base.name))
    return found


def _run(monkeypatch: pytest.MonkeyPatch, plan: Path, data: Path, out: Path) -> int:
    monkeypatch.setattr(sys, "argv", ["segwise", "run", str(plan), "--data", str(data), "-o", str(out)])
    try:
        program.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_first_experiment_runs_by_one_command(tmp_path, monkeypatch):
    """Organs that a scan lacks are said to be absent, and every arm answers for every other one."""
    there = (1, 2, 3, 6, 8, 11)
    data = _btcv(tmp_path / "data", *there)
    assert _run(monkeypatch, _small("zero_shot_btcv", tmp_path), data, tmp_path / "run") == 0
    records = Run.read(tmp_path / "run").records()
    assert {(r.target, r.status) for r in records} == {
        (name, "done" if value in there else "skipped") for value, name in enumerate(LABELS, 1)
    }
    assert {r.reason for r in records if r.status == "skipped"} == {"the reference is empty: nothing to prompt"}
    arms = {(r.model.split("(")[0], r.prompter.split("(")[0], r.resolved["lift"]) for r in records}
    assert arms == {
        ("sam", "box2d", "slices"),
        ("sam2", "box2d", "slices"),
        ("sam", "middle-box", "propagate"),
        ("sam2", "middle-box", "memory"),
    }
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "unknown weights" in page and "not ranked" in page


def test_the_third_experiment_runs_by_one_command(tmp_path, monkeypatch):
    """The tumour label of MSD, from points and from boxes; three draws where there is something to draw."""
    data = _pancreas(tmp_path / "data", 1, 2)
    assert _run(monkeypatch, _small("prompt_sensitivity_msd_pancreas", tmp_path), data, tmp_path / "run") == 0
    records = Run.read(tmp_path / "run").records()
    assert {r.target for r in records} == {"pancreas tumor"} and {r.status for r in records} == {"done"}
    seeds = {
        prompter: {r.seed for r in records if r.prompter == prompter} for prompter in {r.prompter for r in records}
    }
    assert seeds["points(n=1)"] == seeds["points(n=3)"] == {0, 1, 2}
    assert seeds["center-point"] == seeds["box2d"] == {0}
    assert (tmp_path / "run" / "report.html").is_file()


def test_a_tumour_that_no_case_has_is_named_before_anything_runs(tmp_path, monkeypatch, capsys):
    """An MSD tree of another task has no tumour of the pancreas."""
    assert (
        _run(monkeypatch, Path("prompt_sensitivity_msd_pancreas"), trees.msd(tmp_path / "data"), tmp_path / "run") == 2
    )
    said = " ".join(capsys.readouterr().err.split())
    assert "no case has pancreatic tumor" in said and "liver tumor" in said
