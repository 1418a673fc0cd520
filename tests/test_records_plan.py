"""Plans: what TOML becomes, and what every mistake says."""

from __future__ import annotations

import pytest

from segwise import assemble, catalog
from segwise.errors import PlanError
from segwise.records import plan
from segwise.records.types import Choice, Pair


def _read(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return plan.read(path)


def test_a_plan_is_read(tmp_path):
    found = _read(
        tmp_path,
        """
        question = "Which?"
        models = ["box-fill", {name = "litemedsam", lift = "propagate"}, "sam( size=b )+flips"]
        prompters = ["box2d"]
        pairs = [{model = "geodesic", prompter = "box-points(n=5)"}]
        targets = ["liver"]
        metrics = ["surface(tolerance_mm=1)"]
        seeds = 3
        [[cases]]
        case = "a"
        targets = ["spleen"]
        """,
    )
    assert found.name == "mine"
    assert found.models == ("box-fill", "litemedsam(lift=propagate)", "sam(size=b)+flips")
    assert found.pairs == (Pair(model="geodesic", prompter="box-points(n=5)"),)
    assert found.cases == (Choice(case="a", targets=("spleen",)),)
    assert (found.targets, found.metrics, found.seeds) == (("liver",), ("surface(tolerance_mm=1)",), 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models = [", "mine.toml: not TOML"),
        ("prompters = ['box2d']", "mine.toml: models: nothing came, expected at least one model"),
        ("models = ['a']\nmodel = 1", 'mine.toml: model: no such field; did you mean "models"?'),
        ("models = ['a']\nzzz = 1", "mine.toml: zzz: no such field; there are question, models"),
        ("models = 'a'", "mine.toml: models: 'a' is not a list"),
        ("models = ['a', 3]", r"mine.toml: models\[1\]: 3 is not a text"),
        ("models = ['a', 'b(']", r'mine.toml: models\[1\]: "b\(": a bracket is not closed'),
        ("models = ['a', 'a']", r'mine.toml: models\[1\]: "a" came twice'),
        ("models = [{size = 'b'}]", r"mine.toml: models\[0\].name: nothing came"),
        ("models = [{name = 'a', x = [1]}]", r"mine.toml: models\[0\].x: \[1\] is not a number, a word"),
        ("models = ['a']\nseeds = 0", "mine.toml: seeds: 0 is not ≥ 1"),
        ("models = ['a']\nseeds = 1.5", "mine.toml: seeds: 1.5 is not a whole number"),
        ("models = ['a']\nmetrics = []", "mine.toml: metrics: nothing came"),
        ("pairs = [{model = 'a'}]", r"mine.toml: pairs\[0\].prompter: nothing came"),
        ("models = ['a']\npairs = [3]", r"mine.toml: pairs\[0\]: 3 is not a table of model, prompter"),
        ("models = ['a']\ncases = [{case = 'c', x = 1}]", r"mine.toml: cases\[0\].x: no such field"),
        ("models = ['a']\ntargets = [1]", r"mine.toml: targets\[0\]: 1 is not a text"),
    ],
)
def test_a_mistake_names_file_and_field(tmp_path, text, message):
    with pytest.raises(PlanError, match=message):
        _read(tmp_path, text)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(PlanError, match="cannot be read"):
        plan.read(tmp_path / "none.toml")


@pytest.mark.parametrize("name", catalog.names("plans"))
def test_shipped_plans_name_members_that_exist(name):
    found = plan.read(catalog.plan_path(name))
    assert found.question
    for text in (*found.models, *(pair.model for pair in found.pairs)):
        assemble.model_info(text)
    for text in (*found.prompters, *(pair.prompter for pair in found.pairs)):
        assemble.prompter_info(text)
    for text in found.metrics:
        assemble.metric_info(text)
