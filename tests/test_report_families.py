"""Generalist, specialist and floor: planted leads are found, by structure and over all; few persons decide nothing."""

from __future__ import annotations

import numpy as np
import pytest

from report_fakes import join, outcome
from segwise.report import families, page, ranking
from segwise.report.gather import gather

MEANS = {  # structure -> family's model -> planted mean
    "liver": {"general": 0.9, "special": 0.8, "floor": 0.7},
    "spleen": {"general": 0.6, "special": 0.8, "floor": 0.7},
    "colon": {"general": 0.7, "special": 0.7, "floor": 0.7},
}


def planted(n, means=MEANS, *, models=("general", "special", "floor"), seed=0):
    """`n` persons with all structures; a second, worse model of the floor."""
    rng = np.random.default_rng(seed)
    runs = []
    for i in range(n):
        for target, own in means.items():
            for model in models:
                value = float(np.clip(own[model] + rng.normal(0, 0.02), 0, 1))
                runs.append(outcome(model, "box3d", case=f"p{i}", target=target, dsc=(value,)))
            runs.append(outcome("floor(n=2)", "box3d", case=f"p{i}", target=target, dsc=(own["floor"] - 0.2,)))
    return join(*runs)


def verdicts(run):
    return {
        row.target: {f: families.against_floor(row, f) for f in families.LEARNED if f in row.best}
        for row in families.rows(gather(*run))
    }


def test_each_structure_says_who_is_above_the_floor():
    found = verdicts(planted(12))
    assert found["liver"] == {"generalist": "above", "specialist": "above"}
    assert found["spleen"] == {"generalist": "below", "specialist": "above"}
    assert found["colon"] == {"generalist": "", "specialist": ""}


def test_the_floor_is_the_best_of_its_models():
    (row, *_) = families.rows(gather(*planted(12)))
    i = row.best["floor"]
    assert row.arms[i].key[0] == "floor" and row.result.mean[i] == pytest.approx(0.7, abs=0.02)


def test_few_persons_decide_nothing():
    assert {word for own in verdicts(planted(4)).values() for word in own.values()} == {""}
    html = page(*planted(4))
    assert "which 4 subjects cannot decide" in html
    assert "cannot decide for 3 structures (colon, liver and spleen)" in html


def test_the_words_name_the_floor_and_both_against_it():
    html = page(*planted(12))
    assert "Without weights <b>floor · box3d</b> reaches 0.7" in html
    told = "above on 1 structure (liver); below on 1 structure (spleen)"
    assert f"The best <b>generalist</b> against the floor: {told}" in html
    told = families.answer(ranking.rank(gather(*planted(12, {"liver": MEANS["liver"]}))))
    assert "Generalist or specialist?" in told
    assert told.count("above it") == 2 and told.count("beyond chance") == 3


def test_many_arms_do_not_hide_what_all_subjects_say():
    """As in a study: 10 arms on 9 subjects are too many pairs for Holm, and the families are far apart."""
    runs = []
    for k in range(5):
        for p in range(9):
            noise = 0.01 * ((p * 7 + k * 3) % 5 - 2)
            card = {"title": f"G{k}", "family": "generalist"}
            runs.append(outcome(f"general{k}", case=f"c{p}", subject=f"c{p}", dsc=(0.9 - 0.01 * k + noise,), card=card))
            card = {"title": f"S{k}", "family": "specialist"}
            other = (0.7 - 0.01 * k - noise,)
            runs.append(outcome(f"special{k}", "name", case=f"c{p}", subject=f"c{p}", dsc=other, card=card))
    (one, *_) = ranked = ranking.rank(gather(*join(*runs)))
    assert not one.result.decided.any()
    assert "this is beyond chance (p .004 over 25 such pairs)" in families.answer(ranked)


def test_one_family_beside_the_floor_is_enough_and_none_is_silent():
    run = planted(12, {"spleen": MEANS["spleen"]}, models=("general", "floor"))
    told = families.answer(ranking.rank(gather(*run)))
    assert "Generalist or specialist" not in told
    assert "the best generalist, <b>general · box3d</b>, is 0.1" in told and "below it" in told
    assert verdicts(run) == {"spleen": {"generalist": "below"}}
    alone = planted(12, models=("floor",))
    assert families.section(gather(*alone)) == "" == families.answer(ranking.rank(gather(*alone)))
    assert families.answer([]) == ""


def test_it_is_told_where_the_most_subjects_are_and_says_so():
    """Of a third arm that was asked of one person only, the first comparison has one subject."""
    few = [outcome("general", "box2d", case="p0", target="liver", dsc=(0.95,))]
    ranked = ranking.rank(gather(*join(planted(12, {"liver": MEANS["liver"]}), *few)))
    assert ranked[0].result.n_subjects == 1
    assert families.answer(ranked).endswith("This is of 12 targets of 12 subjects.")


def test_two_of_the_same_values_are_level():
    same = {"liver": {"general": 0.7, "floor": 0.7}}
    runs = [outcome(m, "box3d", case=f"p{i}", dsc=(0.7,)) for i in range(8) for m in same["liver"]]
    told = families.answer(ranking.rank(gather(*join(*runs))))
    assert "is level with it" in told and "which 8 subjects cannot decide" in told
