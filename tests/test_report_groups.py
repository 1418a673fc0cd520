"""Groups of targets of a plan: planted losses are found on persons that have both, and few persons decide nothing."""

from __future__ import annotations

import numpy as np
import pytest

from report_fakes import join, outcome
from segwise import api, demo
from segwise.errors import PlanError
from segwise.records import plan as plans
from segwise.report import groups, page
from segwise.report.document import plan_of
from segwise.report.gather import gather

GROUPS = (("seldom", ("celiac trunk",)), ("common", ("liver", "spleen")))
MEANS = {"celiac trunk": {"general": 0.5, "floor": 0.6}, "liver": {"general": 0.9, "floor": 0.7}}


def planted(n, means=MEANS):
    """`n` persons with all targets, the spleen as the liver."""
    rng = np.random.default_rng(0)
    runs = []
    for i in range(n):
        for target, own in {**means, "spleen": means.get("liver", {})}.items():
            for model, mean in own.items():
                value = float(mean + rng.normal(0, 0.02))
                runs.append(outcome(model, "box3d", case=f"p{i}", target=target, dsc=(value,)))
    return join(*runs)


def test_what_is_lost_on_a_group_is_told_beside_the_floor():
    (told,) = groups.answers(*_parts(planted(10)))
    assert told.startswith("<b>general · box3d</b> reaches 0.5")
    assert "of 10 persons with both −0.39" in told and told.count("beyond chance") == 3
    assert "Beside floor · box3d, the best without weights: −0.1" in told and "and +0.19" in told


def _parts(run, own=GROUPS):
    gathered = gather(*run)
    panel = groups.panel_of(tuple(arm for arm in gathered.arms if arm.ranked))
    return panel, groups.parts(panel, own)


def test_each_person_counts_once_in_a_group():
    _, (seldom, common) = _parts(planted(4))
    assert seldom.values.shape == common.values.shape == (4, 2)
    assert (seldom.n_targets, common.n_targets) == (1, 2)


def test_few_persons_decide_nothing_and_other_persons_are_said():
    (told,) = groups.answers(*_parts(planted(3)))
    assert "which they cannot decide" in told and "beyond chance" not in told
    apart = join(
        *(outcome("general", "box3d", case=f"a{i}", target="liver", dsc=(0.9,)) for i in range(2)),
        *(outcome("general", "box3d", case=f"b{i}", target="celiac trunk", dsc=(0.5,)) for i in range(2)),
    )
    assert "nobody has both, so their difference may be that of the persons" in groups.answers(*_parts(apart))[0]


def test_the_page_has_the_section_where_the_plan_names_groups():
    plan = plan_of({"name": "mine", "groups": [["seldom", ["celiac trunk"]], ["common", ["liver", "spleen"]]]})
    html = page(*planted(6), plan=plan)
    assert "Groups of targets" in html and "<b>seldom</b>: 1 structure; <b>common</b>: 2 structures" in html
    assert "Groups of targets" not in page(*planted(6))
    lacking = page(*planted(6, {"liver": MEANS["liver"]}), plan=plan)
    assert "no arm was scored in two of the plan's groups (common was)" in lacking


def test_groups_know_sides_and_other_names(tmp_path):
    """A word is what the cases call so: a structure, its raw name, or both sides of it."""
    home = demo.write_cases(tmp_path / "data")
    content = {
        "models": ["box-fill"],
        "prompters": ["box2d"],
        "groups": {"two": ["kidney"], "one": ["Liver", "prostate"]},
    }
    plan = api.preview(plans.build(content, name="mine", source="mine.toml"), home).plan
    assert {"left kidney", "right kidney"} <= set(dict(plan.groups)["two"])
    assert {"liver", "prostate"} <= set(dict(plan.groups)["one"])


def test_an_arm_without_a_group_does_not_empty_it_for_all():
    run = planted(6)
    only = [outcome("narrow", "box3d", case=f"p{i}", target="liver", dsc=(0.7,)) for i in range(6)]
    plan = plan_of({"name": "mine", "groups": [list(one) for one in GROUPS]})
    html = page(*join(run, *only), plan=plan)
    assert "<b>seldom</b>: 1 structure" in html and "as it has not every group: narrow · box3d" in html


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": ["liver"]}, "expected two or more names"),
        (["liver"], "expected two or more names"),
        ({"a": ["liver"], "b": ["liver", "spleen"]}, "liver in two of them"),
        ({"a": ["liver"], "b": []}, "groups.b: nothing came"),
        ({"a": ["liver"], "b": ["colon"]}, "colon, expected some of the targets of the plan"),
        ({"a": ["liver"], "b": "spleen"}, "groups.b"),
    ],
)
def test_wrong_groups(value, words):
    content = {"models": ["floor"], "targets": ["liver", "spleen"], "groups": value}
    with pytest.raises(PlanError, match=words):
        plans.build(content, name="mine", source="mine.toml")
