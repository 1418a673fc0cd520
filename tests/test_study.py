"""Plans that train first: what is trained, on whom, taken up again, compared on the others, and wrong plans."""

from __future__ import annotations

import dataclasses
import json

import pytest
from typer.testing import CliRunner

import labelled_cases
from segwise import api, assemble, catalog, persons, study
from segwise.cli.app import app
from segwise.errors import PlanError, SegwiseError, TrainingError
from segwise.records import plan as plans
from segwise.records.types import Training
from segwise.synth.imaging import mr
from segwise.synth.phantom import Phantom
from segwise.weights import folders

CONTENT = {
    "models": ["sam(size=nano)"],
    "prompters": ["box2d"],
    "metrics": ["overlap"],
    "study": {
        "fractions": [0.5, 1.0],
        "models": [
            {"model": "sam(size=nano)+decoder", "steps": 2},
            {"model": 'unet(features="4-8")', "steps": 2},
        ],
    },
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("eggs") / "data"
    labelled_cases.write(root, 5)
    return root


def written(tmp_path, **changed):
    content = {**CONTENT, "study": {**CONTENT["study"], **changed}}
    return plans.build(content, name="mine", source="mine.toml")


def test_every_model_is_trained_on_every_share_and_nobody_tested_is_trained_on(data, tmp_path):
    plan = written(tmp_path, seeds=2)
    parts = study.parts(plan, api.read_cases(data), tmp_path / "run")
    assert len(parts) == 2 * 2 * 2 and len({part.folder for part in parts}) == 8
    assert len({part.test for part in parts}) == 1 and all(part.test for part in parts)
    assert not any(part.finished for part in parts)


def test_a_study_goes_from_cases_to_a_report_and_takes_up_what_is_there(data, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(
        'models = ["sam(size=nano)"]\nprompters = ["box2d"]\nmetrics = ["overlap"]\n[study]\nfractions = [0.5, 1.0]\n'
        'models = [{model = "sam(size=nano)+decoder", steps = 2}, {model = "unet(features=\\"4-8\\")", steps = 2}]\n'
    )
    run = tmp_path / "run"
    found = CliRunner().invoke(app, ["run", str(file), "--data", str(data), "-o", str(run)])
    assert found.exit_code == 0, found.output
    html = (run / "report.html").read_text()
    assert "Labelled subjects" in html and "sam(size=nano)+decoder" in html
    models = sorted((tmp_path / "run-models").iterdir())
    assert len(models) == 4
    stamps = [(folder / "model.json").stat().st_mtime_ns for folder in models]
    again = CliRunner().invoke(app, ["run", str(file), "--data", str(data), "-o", str(run)])
    assert again.exit_code == 0, again.output
    assert [(folder / "model.json").stat().st_mtime_ns for folder in models] == stamps
    told = CliRunner().invoke(app, ["run", str(file), "--data", str(data), "-o", str(run), "--dry-run"])
    assert "4 trainings, 4 of them done" in told.output
    tested = {row["case"] for row in map(json.loads, _rows(run))}
    trained = {s for folder in models for s in json.loads((folder / "split.json").read_text())["train"]}
    assert tested and not tested & trained


def _rows(run):
    import io
    from contextlib import redirect_stdout

    text = io.StringIO()
    with redirect_stdout(text):
        api.export(run, format="jsonl")
    return text.getvalue().splitlines()


def test_leaving_each_subject_out_once_tests_everyone(data, tmp_path):
    plan = written(tmp_path, folds=-1, fractions=[1.0])
    parts = study.parts(plan, api.read_cases(data), tmp_path / "run")
    assert sorted({s for part in parts for s in part.test}) == [f"case{i:03d}" for i in range(5)]
    assert len(parts) == 5 * 2 and len({part.folder for part in parts}) == 10
    assert len({part.recipe for part in parts}) == 2 and {part.fold for part in parts} == set(range(5))


def test_a_model_says_which_fold_of_what_it_is(data, tmp_path):
    plan = written(tmp_path, folds=5, fractions=[1.0], models=[{"model": 'unet(features="4-8")', "steps": 2}])
    study.run(plan, data, tmp_path / "run")
    card = assemble.model_info(str(tmp_path / "run-models" / "unet-features-4-8-100-s0-f3")).card
    assert card.learned["recipe"] == "unet-features-4-8-100" and card.learned["draw"] == 0
    assert card.learned["fold"] == 3


def test_trainings_at_once_come_to_the_same_models(data, tmp_path):
    models = [{"model": 'unet(features="4-8")', "steps": 2}, {"model": "universeg(support=1)"}]
    plan = written(tmp_path, models=models)
    said = []
    study.run(plan, data, tmp_path / "one")
    study.run(plan, data, tmp_path / "two", workers=2, say=lambda what, *_: said.append(what))
    assert said[0] == "0 of 4 trainings done, 2 at once" and said[-1].startswith("4 of 4 trainings done, last ")
    for part in study.parts(plan, api.read_cases(data), tmp_path / "one"):
        other = tmp_path / "two-models" / part.folder.name
        assert folders.read(part.folder).files == folders.read(other).files


def test_one_of_several_trainings_that_fails_is_named_and_the_others_are_kept(data, tmp_path):
    models = [{"model": 'unet(features="4-8")', "steps": 2}, {"model": 'unet(features="4-8-16")', "steps": 2}]
    plan = written(tmp_path, fractions=[1.0], models=models)
    bad = tmp_path / "run-models" / "unet-features-4-8-16-100-s0"
    bad.mkdir(parents=True)
    (bad / "split.json").write_text('{"train": ["case000"], "valid": [], "test": []}')
    (bad / "last.pt").write_bytes(b"torn")
    with pytest.raises(
        TrainingError, match=r"unet\(features=\"4-8-16\"\), 100% of the subjects, seed 0: .*: repeat to go on"
    ):
        study.run(plan, data, tmp_path / "run", workers=2)
    good = tmp_path / "run-models" / "unet-features-4-8-100-s0"
    assert study.parts(plan, api.read_cases(data), tmp_path / "run")[0].folder == good


def test_draws_of_one_training_are_one_arm_of_the_report(data, tmp_path):
    models = [{"model": 'unet(features="4-8")', "steps": 2}]
    plan = written(tmp_path, fractions=[1.0], seeds=2, models=models)
    one = study.run(plan, data, tmp_path / "run")[0]
    api.run(api.preview(one, [data]), tmp_path / "run")
    told = [row["model"] for row in api.ranking(tmp_path / "run")]
    assert len(told) == 2 and any("unet-features-4-8-100-draws" in name for name in told), told


def test_a_target_that_nobody_is_left_to_learn_from_is_left_out(data, tmp_path):
    """As on a data set where the kidney is named in one person only: the other targets are still compared."""
    cases = [dataclasses.replace(case) for case in api.read_cases(data)]
    alone = dataclasses.replace(cases[0].structures[0], name="left kidney", raw="left kidney")
    cases[0] = dataclasses.replace(cases[0], structures=(*cases[0].structures, alone))
    name = cases[0].structures[0].name
    plan = dataclasses.replace(written(tmp_path, folds=-1, fractions=[1.0]), targets=(name, "left kidney"))
    narrowed, told = study.teachable(plan, cases)
    assert narrowed.targets == (name,)
    assert told == ["left out: left kidney, named in case000 only: one of the trainings would have nobody"]
    with pytest.raises(PlanError, match="expected another subject with one of them"):
        study.teachable(dataclasses.replace(plan, targets=("left kidney",)), cases)
    typo = dataclasses.replace(plan, targets=(name, "kidny"))
    assert study.teachable(typo, cases) == (typo, [])  # told by what knows the names


def test_who_only_checks_a_training_teaches_it_nothing(data, tmp_path):
    """Two subjects name it: where one is tested and the other draws the curve, nobody is left to learn it from."""
    cases = api.read_cases(data)
    alone = dataclasses.replace(cases[0].structures[0], name="left kidney", raw="left kidney")
    cases[:2] = [dataclasses.replace(case, structures=(*case.structures, alone)) for case in cases[:2]]
    name = cases[0].structures[0].name
    for on, kept in (("real", (name,)), ("both", (name, "left kidney"))):
        models = [{"model": 'unet(features="4-8")', "steps": 2, "on": on}]
        extra = {"generated": {"family": "torso", "n": 1}} if on == "both" else {}
        plan = written(tmp_path, folds=-1, fractions=[0.5], seeds=3, models=models, **extra)
        narrowed, _ = study.teachable(dataclasses.replace(plan, targets=(name, "left kidney")), cases)
        assert narrowed.targets == kept


def test_fused_channels_are_refused_before_the_first_training(data, tmp_path):
    models = [{"model": 'unet(features="4-8")', "steps": 2}, {"model": "unet(fusion=late)", "steps": 2}]
    with pytest.raises(PlanError, match=r"fusion=late\): fuses channels, and case000 has one"):
        study.run(written(tmp_path, models=models), data, tmp_path / "run")
    assert not (tmp_path / "run-models").exists()


def test_a_support_set_is_an_arm_of_a_study(data, tmp_path):
    """It joins the curve over labelled subjects without any training."""
    file = tmp_path / "mine.toml"
    file.write_text(
        'models = []\nprompters = ["box2d"]\nmetrics = ["overlap"]\n[study]\nfractions = [0.5, 1.0]\n'
        'models = ["universeg(support=1)", {model = "universeg(support=1, choose=random)", steps = 9}]\n'
    )
    run = tmp_path / "run"
    found = CliRunner().invoke(app, ["run", str(file), "--data", str(data), "-o", str(run)])
    assert found.exit_code == 0, found.output
    specs = {path.name: json.loads((path / "model.json").read_text())["spec"] for path in tmp_path.glob("run-models/*")}
    assert specs == {
        "universeg-support-1-50-s0": "universeg(size=nano, support=1)",
        "universeg-support-1-100-s0": "universeg(size=nano, support=1)",
        "universeg-choose-random-support-1-50-s0": "universeg(choose=random, size=nano, support=1)",
        "universeg-choose-random-support-1-100-s0": "universeg(choose=random, size=nano, support=1)",
    }
    html = (run / "report.html").read_text()
    assert "Labelled subjects" in html and "nano, trained on synthetic data" in html
    told = CliRunner().invoke(app, ["run", str(file), "--data", str(data), "-o", str(run), "--dry-run"])
    assert "4 trainings, 4 of them done" in told.output


def test_the_time_left_is_that_of_trainings_alike(data, tmp_path):
    plan = written(tmp_path, fractions=[0.5, 1.0])
    parts = study.parts(plan, api.read_cases(data), tmp_path / "run")
    assert study.left(parts) == (0, 4)
    for part, seconds in zip(parts, (10, 30), strict=False):  # both of the first model
        folders.write(
            part.folder, spec=part.training.model, files={}, data={}, trained={"steps": 2, "seconds": seconds}
        )
    assert study.left(parts) == (0, 2)
    third = parts[2]
    folders.write(third.folder, spec=third.training.model, files={}, data={}, trained={"steps": 2, "seconds": 60})
    assert study.left(parts) == (60, 0)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("unet(fusion=never)", "expected fusion: early"),
        ("unett", "unett"),
        ("sam(size=nano)+lora(rang=4)", "rang"),
        ("box-fill", "not trained from nothing"),
    ],
)
def test_a_wrong_spec_is_refused_before_anything_is_trained(data, tmp_path, model, words):
    plan = written(tmp_path, fractions=[1.0])
    plan = dataclasses.replace(
        plan, study=dataclasses.replace(plan.study, models=tuple(Training(model=one) for one in ("unet", model)))
    )
    with pytest.raises(SegwiseError, match=words):
        study.parts(plan, api.read_cases(data), tmp_path / "run")


@pytest.mark.parametrize("name", catalog.names("plans"))
def test_shipped_studies_name_models_that_are_there(name):
    plan = plans.read(catalog.plan_path(name))
    for training in plan.study.models if plan.study else ():
        study._check(training)


def test_too_small_a_share_is_refused_before_anything_is_trained(data, tmp_path):
    plan = written(tmp_path, fractions=[0.1, 1.0])
    with pytest.raises(TrainingError, match="less than one subject"):
        study.run(plan, data, tmp_path / "run")
    assert not (tmp_path / "run-models").exists()


def test_generated_persons_are_made_once(tmp_path, monkeypatch):
    made = []
    real = persons._person

    def small(family, seed):
        made.append(seed)
        return real(family, seed)

    monkeypatch.setattr(persons, "torso", lambda seed, spacing_mm: _coarse(seed))
    plan = written(tmp_path, persons={"family": "torso", "n": 2})
    monkeypatch.setattr(persons, "_person", small)
    for _ in range(2):
        persons.of_study(plan.study, tmp_path / "people")
    assert made == [persons.FIRST, persons.FIRST + 1]
    cases = api.read_cases(tmp_path / "people")
    assert len({case.subject for case in cases}) == 2


def test_a_net_is_trained_on_real_cases_on_generated_persons_and_on_both(data, tmp_path, monkeypatch):
    monkeypatch.setattr(persons, "_person", lambda family, seed: mr(_coarse(seed), seed, spacing_mm=(8.0, 8.0, 8.0)))
    models = [{"model": 'unet(features="4-8")', "steps": 2, "on": kind} for kind in ("real", "generated", "both")]
    content = {"prompters": ["name"], "targets": ["liver", "spleen"], "metrics": ["overlap"]}
    content["study"] = {"models": models, "generated": {"family": "torso", "n": 2}}
    plan = plans.build(content, name="mine", source="mine.toml")
    run = tmp_path / "run"
    study.run(plan, data, run)
    said = [json.loads((folder / "model.json").read_text())["data"] for folder in (tmp_path / "run-models").iterdir()]
    found = [(len(one["subjects"]["train"]), one.get("generated", 0)) for one in said]
    n = max(subjects for subjects, _ in found)
    assert sorted(found) == [(0, 2), (n, 0), (n, 2)]
    assert len(list((tmp_path / "run-generated").iterdir())) == 2


def _coarse(seed) -> Phantom:
    from segwise.synth.torso import torso

    return torso(seed, spacing_mm=6.0)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"fractions": [0.0]}, r"study\.fractions\[0\]: 0.0 is not a number above 0"),
        ({"fractions": [1.0, 1.0]}, "each once"),
        ({"models": []}, "at least one model to train"),
        ({"models": [{"model": "unet", "stepz": 3}]}, r"study\.models\[0\]\.stepz: no such field"),
        ({"models": [{"model": "unet", "steps": 0}]}, "is not ≥ 1"),
        ({"folds": 1}, r"study\.folds: 1 is not 0"),
        ({"persons": {"family": "torso"}}, r"study\.persons\.n: nothing came"),
        ({"colour": 1}, r"study\.colour: no such field"),
        ({"models": [{"model": "unet", "on": "both"}]}, r"study\.generated says no family and number"),
        ({"models": [{"model": "unet", "on": "toys"}]}, 'on: "toys", expected one of real, generated, both'),
    ],
)
def test_a_wrong_study_is_told_by_field(tmp_path, changed, words):
    with pytest.raises(PlanError, match=words):
        written(tmp_path, **changed)


def test_an_unknown_family_is_refused(tmp_path):
    plan = written(tmp_path, persons={"family": "whale", "n": 3})
    with pytest.raises(PlanError, match="expected one of torso"):
        persons.of_study(plan.study, tmp_path)


def test_the_shipped_study_reads():
    plan = api.read_plan("adapter_ablation")
    assert plan.study is not None and plan.study.persons == ("torso", 44)
    assert plan.study.fractions == (0.1, 0.3, 1.0) and plan.study.seeds == 2


def test_trained_on_one_data_set_and_tested_on_another(data, tmp_path):
    other = tmp_path / "other"
    labelled_cases.write(other, 2, subjects=["case050", "case051"])
    file = tmp_path / "mine.toml"
    file.write_text(
        'models = ["threshold"]\nprompters = ["box3d"]\nmetrics = ["overlap"]\n[study]\n'
        'models = [{model = "unet(features=\\"4-8\\")", steps = 2}]\n'
    )
    run = tmp_path / "run"
    words = ["run", str(file), "--data", str(data), "--data", str(other), "-o", str(run)]
    counted = CliRunner().invoke(app, [*words, "--dry-run"])
    assert "1 subjects are tested, and those of 1 more data sets" in counted.output, counted.output
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 0, found.output
    tested = {(row["dataset"], row["case"]) for row in map(json.loads, _rows(run))}
    assert {case for name, case in tested if name == "other"} == {"case050", "case051"}
    assert len({case for name, case in tested if name == "data"}) == 1
    trained = json.loads(next(tmp_path.glob("run-models/*/split.json")).read_text())["train"]
    assert not {"case050", "case051"} & set(trained)
    assert "where it was trained" in (run / "report.html").read_text()
    with pytest.raises(PlanError, match=r"case000 is a case of .* expected names that differ"):
        study.run(api.read_plan(str(file)), data, run, others=[data])


def test_folds_take_one_data_set(data, tmp_path):
    with pytest.raises(PlanError, match="folds test every subject of one data set, and 2 came"):
        study.run(written(tmp_path, folds=-1, fractions=[1.0]), data, tmp_path / "run", others=[data])


def test_persons_of_other_families_are_made_and_only_tested(tmp_path):
    content = {**CONTENT, "persons": {"family": "head", "n": 1}}
    content["study"] = {**CONTENT["study"], "persons": {"family": "lesions", "n": 1}}
    roots = persons.of_plan(plans.build(content, name="mine", source="mine.toml"), tmp_path / "data")
    assert [root.name for root in roots] == ["lesions", "head"]
    assert [case.id for root in roots for case in api.read_cases(root)] == ["lesions_000", "head_10000"]
