"""The folds and the draws of one recipe are one arm of the report: compared with the others on every subject."""

from __future__ import annotations

import pytest

from report_fakes import join, outcome
from segwise.report import figures, page
from segwise.report.document import rows
from segwise.report.gather import gather

PEOPLE = ("p0", "p1", "p2", "p3")


def learned(k, people, **more):
    return {
        "title": "Special net",
        "family": "specialist",
        "learned": {
            "model": "special",
            "subjects": len(people),
            "data": "mine",
            "people": people,
            "seconds": 60.0 + k,
            "recipe": "special-100-s0",
            "fold": k,
            **more,
        },
    }


def left_out(*, overlap=False, recipe="special-100-s0", base=0.6):
    """Each person tested by the model of another fold, and all by one that was not trained here."""
    runs = [outcome("general", "box2d", case=p, subject=p, dsc=(0.8,)) for p in PEOPLE]
    for k, person in enumerate(PEOPLE):
        people = [p for p in PEOPLE if p != person or overlap]
        spec = f"special(checkpoint=/x/{recipe}-f{k})"
        card = learned(k, people, recipe=recipe)
        runs.append(outcome(spec, "name", case=person, subject=person, dsc=(base + 0.1 * k,), card=card))
    return runs


def test_folds_are_one_arm_on_everyone():
    gathered = gather(*join(*left_out()))
    general, special = gathered.arms
    assert general.label == "general · box2d"
    assert special.key == ("special(checkpoint=/x/special-100-s0-folds)", "name")
    assert special.label == "special, 3 subjects a fold · name"
    assert special.people == set(PEOPLE)
    assert special.mean("DSC", special.values) == 0.75
    assert special.card["learned"]["seconds"] == 61.5


def test_the_terminal_and_the_page_compare_them_on_all_subjects():
    records, scores = join(*left_out())
    assert [(r["rank"], r["dsc"]) for r in rows(records, scores)] == [("1", "0.800"), ("2", "0.750")]
    html = page(records, scores)
    assert "4 subjects, 4 cases" in html
    assert "no overlap: each of 4 folds trained on other subjects of mine" in html
    assert "flatter" not in html


def test_two_recipes_stay_two_arms():
    other = [r for r in left_out(recipe="special-10-s0", base=0.2) if "general" not in str(r[0][0].model)]
    names = [arm.key[0] for arm in gather(*join(*left_out(), *other)).arms]
    assert names == [
        "general",
        "special(checkpoint=/x/special-10-s0-folds)",
        "special(checkpoint=/x/special-100-s0-folds)",
    ]


def test_names_tell_apart_what_would_be_called_the_same():
    other = [r for r in left_out(recipe="special-100-s1") if "general" not in str(r[0][0].model)]
    labels = [arm.label for arm in gather(*join(*left_out(), *other)).arms]
    assert labels[1:] == [f"special, 3 subjects a fold [special-100-s{i}-folds] · name" for i in (0, 1)]
    records, scores = join(*left_out(), *other)
    assert "special-100-s1-folds" in page(records, scores)


def test_wrappers_and_arguments_of_a_trained_model_are_told():
    card = {"family": "specialist", "learned": {"model": "special", "subjects": 3}}
    specs = ("special(checkpoint=/x/a)", "special(checkpoint=/x/a, fine=true)", "special(checkpoint=/x/a)+flips")
    labels = {a.label for a in gather(*join(*(outcome(s, "name", card=card) for s in specs))).arms}
    assert labels == {
        "special(checkpoint=/x/a) · name",
        "special(checkpoint=/x/a, fine=true) · name",
        "special+flips, 3 subjects · name",
    }


def test_a_long_label_of_a_figure_keeps_its_prompter():
    long = "sam(size=nano)+lora(rank=4), 2 subjects a fold · box3d(jitter_mm=8) (nano, trained on synthetic data)"
    assert figures._short(long) == "sam(size=nano)+lora(ra… · box3d(jitter_mm=8)"
    assert figures._short("default · box3d (trained on synthetic shapes only)") == "default · box3d"


def test_a_fold_that_was_trained_on_whom_it_is_tested_on_is_not_put_together():
    gathered = gather(*join(*left_out(overlap=True)))
    assert len(gathered.arms) == 5
    assert "<b>trained on this data set</b>" in page(*join(*left_out(overlap=True)))


def test_folds_that_were_tested_on_the_same_person_are_not_put_together():
    twice = outcome(
        "special(checkpoint=/x/special-100-s0-f1)", "name", case="p0", subject="p0", dsc=(0.1,),
        card=learned(1, ["p2", "p3"]),
    )  # fmt: skip
    assert len(gather(*join(*left_out(), twice)).arms) == 5


def drawn(*, seen=(), draws=(0, 1), model="special", where="/x"):
    """Two draws of one recipe, tested on the same persons."""
    runs = [outcome("general", "box2d", case=p, subject=p, dsc=(0.8,)) for p in PEOPLE]
    for k, draw in enumerate(draws):
        people = [f"t{k}", "t9", *seen]
        card = learned(0, people, recipe="special-100", draw=draw, seconds=60.0 + 20 * k, model=model)
        del card["learned"]["fold"]
        spec = f"special(checkpoint={where}/special-100-s{draw})"
        runs += [outcome(spec, "name", case=p, subject=p, dsc=(0.9 - 0.4 * k,), card=card) for p in PEOPLE]
    return runs


def test_draws_are_one_arm_and_the_luckiest_one_does_not_stand_for_it():
    _, special = gather(*join(*drawn())).arms
    assert special.key == ("special(checkpoint=/x/special-100-draws)", "name")
    assert special.label == "special, 2 subjects, 2 draws · name"
    assert special.mean("DSC", special.values) == pytest.approx(0.7)
    assert special.card["learned"]["seconds"] == 70 and special.card["learned"]["people"] == ("t0", "t1", "t9")
    records, scores = join(*drawn())
    assert [(r["rank"], r["dsc"]) for r in rows(records, scores)] == [("1", "0.800"), ("2", "0.700")]
    assert "no overlap: trained on 3 other subjects of mine" in page(records, scores)


@pytest.mark.parametrize(
    "runs",
    [drawn(seen=PEOPLE[:1]), drawn(draws=(0, 0)), [*drawn(draws=(0,)), *drawn(draws=(1,), where="/y")]],
    ids=["trained on whom it tests", "the same draw twice", "of two studies"],
)
def test_other_models_stay_apart(runs):
    names = [arm.key[0] for arm in gather(*join(*runs)).arms]
    assert not any("draws" in name for name in names)


def test_folds_of_several_draws_are_one_arm():
    runs = [outcome("general", "box2d", case=p, subject=p, dsc=(0.8,)) for p in PEOPLE]
    for draw in (0, 1):
        for k, person in enumerate(PEOPLE):
            card = learned(k, [p for p in PEOPLE if p != person], recipe="special-100", draw=draw)
            spec = f"special(checkpoint=/x/special-100-s{draw}-f{k})"
            runs.append(outcome(spec, "name", case=person, subject=person, dsc=(0.5 + 0.2 * draw,), card=card))
    special = gather(*join(*runs)).arms[1]
    assert special.key == ("special(checkpoint=/x/special-100-folds)", "name")
    assert special.label == "special, 3 subjects a fold, 2 draws · name"
    assert special.mean("DSC", special.values) == pytest.approx(0.6)


def test_a_namesake_in_another_data_set_keeps_no_draw_apart():
    runs = drawn(seen=("p9",))
    for draw in (0, 1):
        card = learned(0, ["p9"], recipe="special-100", draw=draw)
        del card["learned"]["fold"]
        spec = f"special(checkpoint=/x/special-100-s{draw})"
        runs.append(outcome(spec, "name", case="q9", subject="p9", dataset="other", dsc=(0.5,), card=card))
    special = gather(*join(*runs)).arms[1]
    assert special.key[0] == "special(checkpoint=/x/special-100-draws)"
    assert special.card["learned"]["models"] == tuple(f"special(checkpoint=/x/special-100-s{i})" for i in (0, 1))
