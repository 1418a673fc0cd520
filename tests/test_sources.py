"""Data sets of a run: folders that are called alike are told apart by their paths, others keep their names."""

from __future__ import annotations

import shutil

import pytest

import labelled_cases
from segwise import api, assemble, study
from segwise.demo import write_cases
from segwise.errors import RunError
from segwise.evaluate.sources import read_sources
from segwise.records import plan as plans
from segwise.report import words


def names(roots):
    found = read_sources(roots)
    assert all(case.dataset == (source.name or case.dataset) for source in found for case in source.cases)
    return [source.cases[0].dataset for source in found]


def test_names_that_differ_are_kept(tmp_path):
    for name in ("one", "two"):
        labelled_cases.write(tmp_path / name, 1)
    assert names([tmp_path / "one"]) == ["one"]
    assert names([tmp_path / "one", tmp_path / "two"]) == ["one", "two"]
    assert names([tmp_path / "one", tmp_path / "one"]) == ["one", "one"]  # refused later: every case came twice


def test_the_shortest_end_of_the_path_that_tells_them_apart(tmp_path):
    for name in ("a/x/data", "b/x/data", "other"):
        labelled_cases.write(tmp_path / name, 1)
    found = names([tmp_path / "a" / "x" / "data", tmp_path / "b" / "x" / "data", tmp_path / "other"])
    assert found == ["a/x/data", "b/x/data", "other"]


def test_single_cases_of_one_folder_are_data_sets(tmp_path):
    root = write_cases(tmp_path / "data")
    first, second = sorted(path.parent for path in root.glob("*/case.json"))[:2]
    assert names([first]) == [root.name]
    assert names([first, second]) == [f"data/{first.name}", f"data/{second.name}"]
    copies = [
        shutil.copytree(first, tmp_path / "b" / first.name),
        shutil.copytree(second, tmp_path / "b" / second.name),
    ]
    every = names([first, second, *copies])
    assert len(set(every)) == 4 and every[2:] == [f"b/{first.name}", f"b/{second.name}"]


def test_a_model_has_still_seen_the_persons_of_a_folder_that_is_told_apart():
    learned = {"model": "unet", "data": "data", "people": ("s1", "s2"), "subjects": 2}
    card = {"family": "specialist", "training_sets": ["data"], "training_listed": True, "learned": learned}
    for name in ("data", "a/data", "data/case1"):
        assert "overlap: trained on 1 subject of these (s1)" in words.leakage(card, [name], ["s1"])
        assert words.leakage(card, [name], ["s9"]).startswith("no overlap: trained on 2 other subjects of data")
    assert "no overlap known" in words.leakage(card, ["database"], ["s1"])


def test_a_run_whose_data_sets_would_be_called_otherwise_is_refused(tmp_path):
    """Everybody would count twice: once as data, once as a/data."""
    for site in ("a", "b"):
        labelled_cases.write(tmp_path / site / "data", 1)
    content = {"models": ["box-fill"], "prompters": ["box2d"], "metrics": ["overlap"]}
    plan, run = plans.build(content, name="mine", source="mine.toml"), tmp_path / "run"
    api.run(api.preview(plan, tmp_path / "a" / "data"), run)
    both = [tmp_path / "a" / "data", tmp_path / "b" / "data"]
    with pytest.raises(RunError, match=r"as the data set data; with these folders it is called a/data: give the same"):
        api.run(api.preview(plan, both), run)
    api.run(api.preview(plan, tmp_path / "a" / "data"), run)
    api.run(api.preview(plan, both), tmp_path / "both")
    api.run(api.preview(plan, both), tmp_path / "both")


def test_a_study_trains_on_the_name_that_it_tests_on(tmp_path):
    labelled_cases.write(tmp_path / "a" / "data", 4)
    labelled_cases.write(tmp_path / "b" / "spare", 6)
    (tmp_path / "b" / "data").mkdir()
    for part in (tmp_path / "b" / "spare").iterdir():
        shutil.move(str(part), tmp_path / "b" / "data" / part.name)
    for path in (tmp_path / "b" / "data").rglob("case00*"):  # cases are chosen by name
        path.rename(path.with_name(path.name.replace("case00", "other0")))
    content = {"prompters": ["name"], "study": {"models": [{"model": 'unet(features="4-8")', "steps": 1}]}}
    plan = plans.build(content, name="mine", source="mine.toml")
    roots = [tmp_path / "a" / "data", tmp_path / "b" / "data"]
    study.run(plan, roots[0], tmp_path / "run", others=roots[1:])
    (folder,) = (tmp_path / "run-models").iterdir()
    assert assemble.model_info(str(folder)).card.learned["data"] == "a/data"
