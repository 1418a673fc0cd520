"""Plans by the command line: what is wrong is told before anything is made; names by commas; conditions by any name."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from test_cli import dataset, segwise

__all__ = ["dataset", "segwise"]  # fixtures


def plan(path, **more):
    content = {"models": ["box-fill"], "prompters": ["box3d"], "targets": ["liver"], "metrics": ["overlap"], **more}
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in content.items()))
    return path


def test_a_condition_that_takes_away_what_nobody_has_is_refused(segwise, dataset, tmp_path):
    words = ("run", plan(tmp_path / "p.toml", conditions=["without(target=zork)"]), "--data", dataset, "--dry-run")
    code, _, err = segwise(*words)
    assert code == 2 and "without(target=zork): no case has zork; there are liver, spleen" in err
    assert segwise("run", plan(tmp_path / "q.toml", conditions=["without(target=spleen)"]), *words[2:])[0] == 0


def test_what_a_condition_takes_away_may_be_called_otherwise():
    """Other spellings and the union of two sides take the same voxels out of image and reference."""
    import labelled_cases
    from segwise.evaluate import conditions

    both = list(labelled_cases.masks(0).values())
    one = replace(
        labelled_cases.case(0, names=("left kidney", "right kidney")),
        load_masks=lambda wanted: [both[s.values[0] - 1] for s in wanted],
    )
    for word, gone in (("Left Kidney", (0,)), ("kidney_left", (0,)), ("kidneys", (0, 1)), ("kidney", (0, 1))):
        under = conditions.under(one, f'without(target="{word}")')
        masks = under.load_masks(under.structures)
        assert [not mask.any() for mask in masks] == [i in gone for i in (0, 1)], word
        changed = (under.volume().array != one.volume().array)[0]
        assert all(changed[mask].mean() > 0.9 for i, mask in enumerate(one.load_masks(one.structures)) if i in gone)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"metrics": ["overlapp"]}, "overlapp"),
        ({"conditions": ["noize(level=1)"]}, "noize"),
        ({"models": ["geodesik"]}, "geodesic"),
        ({"scenario": "hospital"}, 'no scenario "hospital"'),
    ],
)
def test_what_is_wrong_with_a_plan_is_told_before_its_persons_are_made(segwise, tmp_path, more, said):
    file = plan(tmp_path / "p.toml", **more)
    file.write_text(file.read_text() + '[[persons]]\nfamily = "torso"\nn = 2\n')
    code, _, err = segwise("run", file, "-o", tmp_path / "run", "--dry-run")
    assert code == 2 and said in err
    assert [path.name for path in tmp_path.iterdir()] == ["p.toml"]


def test_a_plan_can_be_shown_as_json(segwise):
    code, out, _ = segwise("show", "plans", "cost", "--json")
    assert code == 0 and json.loads(out)["scenario"] == "small-hospital"


def test_structures_are_named_by_commas_or_one_by_one(segwise, dataset, tmp_path):
    words = ("compare", dataset, "-m", "box-fill", "-p", "box3d", "-o", tmp_path / "run", "--dry-run")
    together = segwise(*words, "-t", "liver, spleen")
    assert together[0] == 0 and together == segwise(*words, "-t", "liver", "-t", "spleen")
    code, _, err = segwise(*words, "-t", "liver,splen")
    assert code == 2 and "no case has splen" in err
