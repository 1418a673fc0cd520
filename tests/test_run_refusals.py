"""What comparisons and studies refuse, and when: before any hour is spent, and never with exit code 0."""

from __future__ import annotations

import json
import shutil

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

import labelled_cases
from segwise import learn
from segwise.cli.app import app
from segwise.errors import PlanError, RunError, SegwiseError
from segwise.records import plan as plans
from segwise.records.run import Run

SMALL = """{model = 'unet(features="4-8")', steps = 1}"""


@pytest.fixture
def data(tmp_path):
    root = tmp_path / "data"
    labelled_cases.write(root, 3)
    return root


def cli(*words):
    found = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=True)
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        if isinstance(found.exception, SegwiseError):
            return 2, f"{' '.join(found.output.split())} {found.exception}"
        raise found.exception
    return found.exit_code, " ".join(found.output.split())


@pytest.mark.parametrize(
    ("top", "message"),
    [
        ('prompters = ["nope"]', 'prompters[0]: no prompter "nope"'),
        ('prompters = ["clicks(n=0)"]', "prompters[0]: clicks: n is 0, expected at least 1"),
        ('metrics = ["nope"]', 'metrics[0]: no metric "nope"'),
        ('metrics = ["surface(tolerance_mm=-1)"]', "metrics[0]: surface: tolerance_mm is -1"),
        ('conditions = ["nope"]', 'conditions[0]: no condition "nope"'),
        ('models = ["nope"]', 'models[0]: no model "nope"'),
        ('models = ["box-fill"]', "box-fill has nothing to do: no prompter was given"),
        ('models = ["sam(size=b)"]\nprompters = ["box2d"]', "sam has no weights here"),
        ('scenario = "nope"', 'no scenario "nope"; there are'),
        ('targets = ["nothing"]', "targets: no case has nothing"),
        ('groups = { a = ["livr"], b = ["spleen"] }', "groups: a: no case has livr; did you mean liver?"),
    ],
)
def test_a_study_trains_nothing_for_a_comparison_that_is_refused(data, tmp_path, monkeypatch, top, message):
    monkeypatch.setattr(learn, "train", lambda *_, **__: pytest.fail("something was trained"))
    monkeypatch.setenv("SEGWISE_WEIGHTS_DIR", str(tmp_path / "none"))
    (tmp_path / "mine.toml").write_text(f"{top}\n[study]\nmodels = [{SMALL}]\n")
    code, said = cli("run", tmp_path / "mine.toml", "--data", data, "-o", tmp_path / "run")
    assert code == 2 and message in said


def test_a_study_trains_nothing_for_a_folder_that_is_no_run_or_that_no_spec_can_name(data, tmp_path, monkeypatch):
    monkeypatch.setattr(learn, "train", lambda *_, **__: pytest.fail("something was trained"))
    (tmp_path / "mine.toml").write_text(f"[study]\nmodels = [{SMALL}]\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    code, said = cli("run", tmp_path / "mine.toml", "--data", data, "-o", tmp_path / "other")
    assert code == 2 and "holds notes.txt but no run.json" in said
    code, said = cli("run", tmp_path / "mine.toml", "--data", data, "-o", tmp_path / "a+b")
    assert code == 2 and "has '+' in its path" in said


def test_a_study_without_a_folder_can_be_counted(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(f"[study]\nmodels = [{SMALL}]\n")
    code, said = cli("run", tmp_path / "mine.toml", "--data", data, "--dry-run")
    assert code == 0 and said.startswith("1 trainings, 0 of them done")


@pytest.mark.parametrize("key", ["cases", "persons"])
def test_a_study_says_itself_who_is_tested(key):
    content = {"study": {"models": ["unet"]}, "cases": ["a"], "persons": {"family": "torso", "n": 2}}
    with pytest.raises(PlanError, match=f"{key}: (a study says itself|torso: persons beside a study)"):
        plans.build({"study": content["study"], key: content[key]}, name="mine", source="mine.toml")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-p", "clicks(n=0)"), "prompters[0]: clicks: n is 0, expected at least 1"),
        (("-p", "scribble(length=0)"), "prompters[0]: scribble: length is 0"),
        (("-p", "box2d", "--metric", "curve(steps=1)"), "metrics[0]: curve: steps is 1"),
    ],
)
def test_values_that_a_member_refuses_are_told_before_anything_runs(data, tmp_path, words, message):
    code, said = cli("compare", data, "-m", "threshold", *words, "-o", tmp_path / "run")
    assert code == 2 and message in said and not (tmp_path / "run").exists()


def test_a_case_that_came_twice_is_refused(data, tmp_path):
    (tmp_path / "mine.toml").write_text('models = ["box-fill"]\nprompters = ["box2d"]\n')
    words = ("run", tmp_path / "mine.toml", "-o", tmp_path / "run", "--data", data)
    code, said = cli(*words, "--data", data)
    assert code == 2 and "case case000 of the data set data came twice" in said
    assert not (tmp_path / "run").exists()
    shutil.copytree(data, tmp_path / "other")
    assert cli(*words, "--data", tmp_path / "other")[0] == 0


def test_folders_that_are_called_alike_are_two_data_sets(data, tmp_path):
    """siteA/data and siteB/data were one, so that nothing was compared between them."""
    (tmp_path / "mine.toml").write_text('models = ["box-fill", "threshold"]\nprompters = ["box2d"]\n')
    roots = [shutil.copytree(data, tmp_path / site / "data") for site in ("a", "b")]
    words = [word for root in roots for word in ("--data", root)]
    code, said = cli("run", tmp_path / "mine.toml", *words, "-o", tmp_path / "run")
    assert code == 0, said
    assert {record.dataset for record in Run.read(tmp_path / "run").records()} == {"a/data", "b/data"}
    assert "From data set to data set" in (tmp_path / "run" / "report.html").read_text()
    code, said = cli("score", tmp_path / "run", "--metric", "surface")
    assert code == 0, said
    assert {s.measure for s in Run.read(tmp_path / "run").scores()} >= {"DSC", "NSD"}


def _torn(data, n):
    for path in sorted((data / "labelsTr").iterdir())[:n]:
        image = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj)[:-3], image.affine), path)


def test_a_run_with_no_answer_fails_and_says_why(data, tmp_path):
    _torn(data, 3)
    code, said = cli("compare", data, "-m", "box-fill", "-p", "box2d", "-o", tmp_path / "run")
    assert code == 2 and "none of the 3 tasks has an answer (case000: GridError:" in said
    assert (tmp_path / "run" / "report.html").is_file()


def test_a_run_with_some_answers_says_what_failed(data, tmp_path):
    _torn(data, 1)
    words = ("compare", data, "-m", "box-fill", "-p", "box2d", "-o", tmp_path / "run")
    code, said = cli(*words)
    assert code == 0 and "1 of 3 tasks failed (case000: GridError:" in said
    labelled_cases.write(data, 3)
    code, said = cli(*words)
    assert code == 0 and "failed" not in said.replace("failed: ", "")


@pytest.mark.parametrize("said", ["[]", "3", '"run"'])
def test_a_run_json_that_is_no_object_is_damaged(tmp_path, said):
    (tmp_path / "run.json").write_text(said)
    with pytest.raises(RunError, match="is damaged"):
        Run.read(tmp_path)


def test_a_file_is_no_run(tmp_path):
    (tmp_path / "file").write_text(json.dumps({}))
    with pytest.raises(RunError, match="is not a run folder"):
        Run.read(tmp_path / "file")


@pytest.mark.parametrize("base", ['"mine.toml"', "3", '"nope"'])
def test_a_scenario_begins_with_a_shipped_one_only(tmp_path, monkeypatch, base):
    from segwise.decide import scenario

    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(f"base = {base}\n")
    with pytest.raises(PlanError, match=r"mine\.toml: base: .*, expected one of research-centre"):
        scenario.read("mine.toml")


def test_a_condition_that_a_case_cannot_show_is_skipped_and_not_a_failure(data, tmp_path):
    """Their slices lie 2 mm apart: 1 mm cannot be made of them, whoever repeats the run."""
    plan = 'models = ["box-fill"]\nprompters = ["box2d"]\nconditions = ["spacing(mm=1)", "spacing(mm=6)"]\n'
    (tmp_path / "mine.toml").write_text(plan)
    code, said = cli("run", tmp_path / "mine.toml", "--data", data, "-o", tmp_path / "run")
    assert code == 0 and "failed" not in said, said
    by_condition = {}
    for record in Run.read(tmp_path / "run").records():
        by_condition.setdefault(record.condition, set()).add(record.status)
    assert by_condition == {"": {"done"}, "spacing(mm=1)": {"skipped"}, "spacing(mm=6)": {"done"}}
    reasons = {r.reason for r in Run.read(tmp_path / "run").records() if r.status == "skipped"}
    assert all("2 mm apart, and finer ones cannot be made of them" in reason for reason in reasons)
