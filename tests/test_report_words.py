"""Named or boxed, and said in other words: planted losses are found, noise cannot decide, refusals count as 0."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from report_fakes import join, outcome
from segwise import anatomy
from segwise.case import Target
from segwise.decide import scenario
from segwise.decide.effort import effort
from segwise.decide.measured import measured
from segwise.geometry import Grid
from segwise.prompters import reworded
from segwise.report import human_time, naming, page
from segwise.report.gather import gather

PEOPLE = [f"p{i}" for i in range(10)]
CARD = {"title": "text net", "family": "generalist"}


def both(lost, *, noise=0.01, people=PEOPLE, seed=0):
    """Named and boxed: words lose `lost[target]`."""
    rng = np.random.default_rng(seed)
    runs = []
    for person in people:
        for target, loss in lost.items():
            said = {"case": person, "subject": person, "target": target, "card": CARD}
            box, words = np.clip(0.8 + rng.normal(0, noise, 2) - [0, loss], 0, 1)
            runs.append(outcome("general", "box3d", dsc=(float(box),), n_interactions=1, **said))
            runs.append(outcome("texts", "name", dsc=(float(words),), n_interactions=0, **said))
    return join(*runs)


def trades(planted):
    named, boxed = human_time._best(gather(*planted))
    return {one.target: one for one in human_time.trades(named, boxed)}


def test_a_person_spends_what_the_studies_say():
    assert human_time.person_seconds("name", 0) == pytest.approx(3.0)
    assert human_time.person_seconds("box3d", 1) == pytest.approx(7.0)
    assert human_time.person_seconds("box2d", 14) == pytest.approx(98.0)
    assert human_time.person_seconds("points(n=3)", 3) == pytest.approx(12.0)
    assert human_time.person_seconds("box-points(n=3)", 4) == pytest.approx(7.0 + 3 * 4.0)
    assert human_time.person_seconds("box3d+name", 1) == pytest.approx(10.0)


def test_report_and_cost_count_the_same_seconds():
    """One set of seconds: those of the scenario small-hospital."""
    site = scenario.read("small-hospital")
    told = (human_time.CLICK_S, human_time.BOX_S, human_time.STROKE_S)
    assert told == tuple(site[key] for key in ("click_s", "box_s", "stroke_s"))
    general = outcome("general", "box-points(n=3)", n_interactions=4, dsc=(0.3,))
    arm = measured(*general)[0]
    spent = effort(arm.plays[0], arm, site).marks_s
    assert spent == human_time.person_seconds("box-points(n=3)", 4) == 19


def test_where_words_are_worth_their_loss():
    found = trades(both({"liver": 0.005, "pancreas": 0.2}))
    assert found["liver"].verdict == "words are enough"
    assert found["pancreas"].sure
    assert float(found["pancreas"].verdict.removesuffix(" lost for each second saved")) == pytest.approx(0.05, abs=3e-3)
    html = page(*both({"liver": 0.005, "pancreas": 0.2}))
    assert "Named or boxed" in html and "Words are worth it for liver" in html and "words save 4 s" in html


def test_noise_is_not_decided():
    found = trades(both({"liver": 0.0}, noise=0.1, seed=5))
    assert not found["liver"].sure
    assert "Cannot decide beyond chance for 1 structure" in page(*both({"liver": 0.0}, noise=0.1, seed=5))


def spoken(loss, *, refused=0, noise=0.005, people=PEOPLE):
    """Plain names at .8; each wrong letter costs `loss`; `refused` persons get no answer from 3 letters on."""
    rng = np.random.default_rng(1)
    runs = []
    for i, person in enumerate(people):
        for letters in (0, 1, 2, 3):
            spec = f"reworded(how=misspelt, letters={letters})" if letters else "name"
            value = float(np.clip(0.8 - loss * letters + rng.normal(0, noise), 0, 1))
            said = {"case": person, "subject": person, "card": CARD, "n_interactions": 0}
            if letters == 3 and i < refused:
                said |= {"status": "skipped", "reason": 'no structure "livver"'}
            records, scores = outcome("texts", spec, dsc=(value,), **said)
            runs.append(([dataclasses.replace(r, prompt="0123") for r in records], scores))
    return join(*runs)


def test_wrong_letters_break_a_model_where_it_was_planted():
    gathered = gather(*spoken(0.0, refused=10))
    (found,) = naming.variants(gathered).values()
    assert found[0].prompter == "name" and [one.answered for one in found] == [1, 1, 1, 0]
    words = naming.answer("texts", found, "DSC")
    assert "it <b>breaks by 3 wrong letters</b>" in words and "100% refused" in words
    assert "Said in other words" in page(*spoken(0.0, refused=10))


def test_a_model_that_reads_over_mistakes_holds():
    (found,) = naming.variants(gather(*spoken(0.0))).values()
    assert "it holds to 3 wrong letters" in naming.answer("texts", found, "DSC")


def test_few_persons_decide_nothing_about_words():
    (found,) = naming.variants(gather(*spoken(0.1, people=PEOPLE[:4]))).values()
    told = naming.answer("texts", found, "DSC")
    assert "which 4 persons cannot decide" in told and "breaks" not in told


def _noisy(lost):
    """Plain names and synonyms whose means differ by `lost` and by float noise: seeds add up in another order."""
    runs = []
    for person in PEOPLE:
        for target, parts in (("liver", (0.1, 0.2, 0.3)), ("spleen", (0.7, 0.2, 0.1)), ("pancreas", (0.3, 0.3, 0.3))):
            said = {"case": person, "target": target, "card": CARD, "n_interactions": 0}
            mean = sum(parts) / 3
            runs.append(outcome("texts", "name", dsc=(mean,), **said))
            for seed, part in enumerate(reversed(parts)):
                value = part - lost
                runs.append(outcome("texts", "reworded(how=synonym)", dsc=(value,), seed=seed, **said))
    records, scores = join(*runs)
    return [dataclasses.replace(r, prompt="0123") for r in records], scores


def test_float_noise_changes_nothing():
    records, scores = _noisy(0.0)
    arms = {arm.key[1]: arm for arm in gather(records, scores).arms}
    plain, other = (arms[name].values for name in ("name", "reworded(how=synonym)"))
    assert any(plain[item] != other[item] for item in plain)  # there is noise to be fooled by
    (found,) = naming.variants(gather(records, scores)).values()
    assert "changes nothing" in naming.answer("texts", found, "DSC")
    html = page(records, scores)
    assert "−0.000" not in html and "+0.000" not in html
    row = html[html.index('aria-label="Detectable"') :].split("</tr>")[1]
    assert row.endswith('<td><span class="none">–</span></td>')
    (found,) = naming.variants(gather(*_noisy(0.05))).values()
    assert "beyond chance" in naming.answer("texts", found, "DSC")


def test_what_is_not_there_is_counted():
    records, scores = outcome("texts", "name", dsc=(0.0,), card=CARD)
    scores = [dataclasses.replace(s, value=None) if s.measure == "sensitivity" else s for s in scores]
    told = naming.absent(*join((records, scores), outcome("texts", "name", case="other", card=CARD)))
    assert told == [
        "<b>texts</b> · name paints on 1 of 1 target of 1 person that is not there (100% as the mean over persons)"
    ]


def test_draws_of_an_absent_target_are_one():
    """Person a: painted in two of three draws; b: one target never, one always."""
    runs = [("a", "liver", seed, seed < 2) for seed in range(3)]
    runs += [("b", target, seed, target == "liver") for target in ("liver", "colon") for seed in range(3)]
    found = []
    for person, target, seed, painted in runs:
        said = {"case": person, "target": target, "seed": seed, "card": CARD}
        records, scores = outcome("texts", "name", dsc=(0.0 if painted else None,), **said)
        found.append(
            (records, [dataclasses.replace(s, value=None) if s.measure == "sensitivity" else s for s in scores])
        )
    (told,) = naming.absent(*join(*found))
    assert "paints on 2 of 3 targets of 2 persons that are not there, in most of 3 answers to each" in told
    assert "(58% as the mean over persons)" in told  # (2/3 + 1/2) / 2


def _target(name):
    return Target(name, np.zeros((2, 3, 4), dtype=bool), Grid((2, 3, 4), np.eye(4)))


def test_reworded_says_synonyms_that_the_vocabulary_knows():
    for name in ("liver tumor", "inferior vena cava", "left kidney"):
        for seed in range(4):
            words = reworded.first(_target(name), seed).marks[0].words
            assert words != name and anatomy.resolve(words).name == name
    assert reworded.first(_target("left kidney"), 0).marks[0].words in ("Kidney_Left", "LEFT KIDNEY")


@pytest.mark.parametrize("letters", [1, 2, 3])
def test_reworded_makes_that_many_mistakes(letters):
    said = {reworded.first(_target("left kidney"), seed, how="misspelt", letters=letters) for seed in range(12)}
    words = {prompt.marks[0].words for prompt in said}
    assert "left kidney" not in words and len(words) > 4
    assert all(abs(len(w) - len("left kidney")) <= letters for w in words)


def test_a_model_of_words_meets_every_prompter_of_words_and_is_named_for_the_others():
    from segwise.evaluate import expand
    from segwise.records import plan as plans

    content = {"models": ["sat(variant=phantom)"], "prompters": ["name", "reworded", "box3d"]}
    arms = expand._arms(plans.build(content, name="p", source="p"))
    assert sorted(arm.prompter for arm in arms) == ["name", "reworded"]
