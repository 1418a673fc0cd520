"""Model facts and the papers of consent: every number is traced, what is missing is said, and the language is plain."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace

import pytest

from decide_fakes import folder, pair
from report_fakes import outcome, study
from segwise.cli import app as program
from segwise.decide import checklist, consent, facts, facts_page, reading, sample_size, shares, sheet
from segwise.decide.facts_page import completed, untested
from segwise.errors import FileError, RunError, SpecError
from segwise.records.types import Score


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    records, scores = study(12)
    for i, record in enumerate(records):
        told = {"reference_ml": 3.0 if record.target == "pancreas" else 300.0, "spacing_mm": [1.0, 1.0, 1.0]}
        records[i] = replace(record, provenance={**record.provenance, **told})
    return folder(tmp_path_factory.mktemp("facts") / "run", (records, scores))


def test_facts_by_hand(tmp_path):
    """Two subjects, three targets: means over subjects, of 0.9 and (0.3 + 0.5) / 2."""
    one = [outcome(case="a", target="liver", dsc=(0.9,))]
    one += [outcome(case="b", target=t, dsc=(v,)) for t, v in (("liver", 0.3), ("spleen", 0.5))]
    from report_fakes import join

    found = facts.read(folder(tmp_path / "run", join(*one)), "general").facts
    assert found["mean"].value == pytest.approx((0.9 + 0.4) / 2) and found["mean"].text == "0.65"
    assert found["poor"].value == pytest.approx(0.25) and found["usable"].value == pytest.approx(0.5)
    assert (found["n_subjects"].value, found["n_targets"].value) == (2, 3)
    assert found["worst_subject"].value == pytest.approx(0.4)
    assert found["poor_of_hundred"].text == "25 of 100" and found["poor_most"].value >= 84  # 1 - .025 ** (1 / 2)
    assert "last round of 3 targets of 2 subjects" in found["mean"].source and found["licence_weights"].source == (
        "card: licence_weights"
    )


def test_a_union_of_two_sides_is_no_outline_more(tmp_path):
    """Two sides of 0.9 and 0.5 and their union of 0.8, made after the run: two outlines, mean 0.7."""
    from report_fakes import join

    sides = (("left kidney", 0.9), ("right kidney", 0.5), ("kidney", 0.8))
    records, scores = join(*(outcome(case="a", target=name, dsc=(value,)) for name, value in sides))
    made = {"union": ["m", "n"]}
    records = [replace(r, provenance={**r.provenance, **made}) if r.target == "kidney" else r for r in records]
    found = facts.read(folder(tmp_path / "run", (records, scores)), "general").facts
    assert (found["n_targets"].value, found["outlines"].text, found["kinds"].text) == (2, "2 outlines", "2 kinds")
    assert found["mean"].value == pytest.approx(0.7)


def test_a_union_of_one_side_is_no_outline_more(tmp_path):
    """The left side is not there, and the union was made of the right one alone."""
    from report_fakes import join

    absent = outcome(case="a", target="left kidney", dsc=(None,), status="skipped", reason="the target is absent")
    records, scores = join(absent, *(outcome(case="a", target=t, dsc=(0.5,)) for t in ("right kidney", "kidney")))
    made = {"union": ["m"]}
    records = [replace(r, provenance={**r.provenance, **made}) if r.target == "kidney" else r for r in records]
    assert facts.read(folder(tmp_path / "run", (records, scores)), "general").facts["outlines"].text == "1 outline"


def test_facts_and_sheet_tell_one_bound(tmp_path):
    """None of four people was poor: up to 1 - 0.025^(1/4) = 60.2 % may be; in the checklist as in the sheet."""
    from report_fakes import join

    runs = join(*(outcome(case=f"c{i}", target="tumor", dsc=(0.9,)) for i in range(4)))
    known = completed(facts.read(folder(tmp_path / "run", runs), "general"))
    found = known.facts
    assert (found["poor"].text, found["poor_interval"].text) == ("0%", "0% to 61%")
    assert found["poor_high"].value == pytest.approx(1 - 0.025 ** (1 / 4)) and found["poor_most"].text == "61 of 100"
    assert found["poor_most"].source == found["poor_interval"].source and "Clopper-Pearson" in found["poor_most"].source
    assert (found["usable"].text, found["usable_interval"].text) == ("100%", "39% to 100%")
    assert "poor_interval: " in checklist.checklist(found) and "0% to 0%" not in checklist.checklist(found)
    page = facts_page.page(tmp_path / "run", "general")
    assert "[0%, 61%]" in page and "[0%, 0%]" not in page and "0% to 0%" not in page


def test_the_sheet_counts_what_it_says(tmp_path):
    """One structure in four people is one kind, not four body parts; one person is no people."""
    from report_fakes import join

    four = join(*(outcome(case=f"c{i}", target="tumor", dsc=(0.9,)) for i in range(4)))
    said = sheet.plain(facts.read(folder(tmp_path / "four", four), "general").facts)
    assert "We tried it on 1 kind of organ or lump in scans of 4 people. We looked at 4 outlines." in said
    two = join(*(outcome(target=name, dsc=(0.9,)) for name in ("liver", "spleen")))
    said = sheet.plain(facts.read(folder(tmp_path / "two", two), "general").facts)
    assert "We tried it on 2 kinds of organ or lump in scans of 1 person. We looked at 2 outlines." in said


def test_the_exact_interval_is_that_of_clopper_and_pearson():
    """By its definition: each end is where what was seen, or worse, has a chance of 2.5 %."""
    from scipy.stats import binom

    for n in (1, 4, 12, 40):
        for k in range(n + 1):
            low, high = shares.exact_interval(k / n, n)
            assert k == 0 or binom.sf(k - 1, n, low) == pytest.approx(0.025)
            assert k == n or binom.cdf(k, n, high) == pytest.approx(0.025)
            assert (low == 0) == (k == 0) and (high == 1) == (k == n)
    assert shares.percents(0.398, 0.602) == (39, 61) and shares.percents(0.0, 0.25) == (0, 25)


def test_one_subject_has_no_interval(tmp_path):
    found = facts.read(folder(tmp_path / "run", outcome(dsc=(0.8,))), "general").facts
    assert "mean_interval" not in found and "unknown" in found.shown("mean_interval")
    text = sheet.plain(found)
    assert "The mean score was 0.80." in text and "could well be" not in text
    assert "About 0 of 100 outlines were poor" in text and "could be up to 98 of 100" in text
    assert "an outline that was drawn or checked by people" in text


def test_the_facts_page_has_its_parts(run):
    from test_report import _Checker

    html = facts_page.page(run, "general")
    said = _Checker(html).text
    assert len(html) < 5_000_000 and "Draft." in said
    for word in ("small, below 5 ml", "Where it fails", "never tested", "Checklist", "AMOS", "below 0.5"):
        assert word in said, word
    assert not re.search(r"\b(nan|inf|None)\b", said)


def test_an_item_is_traced_or_missing_and_never_both(run):
    known = completed(facts.read(run, "general"))
    every = checklist.items()
    text = checklist.checklist(known.facts)
    done = [item for item in every if checklist.answered(item, known.facts)]
    assert 5 < len(done) < len(every) and text.count(">missing</span>") == len(every) - len(done)
    assert f"{len(done)} of {len(every)} items are traced" in text
    assert all(key in known.facts and known.facts[key].source for item in done for key in item.needs)
    assert not any(checklist.answered(item, known.facts) for item in every if not item.needs)
    assert (
        "gold" not in known.facts and "independent" not in known.facts
    )  # silver references, training sets not all known


def test_what_was_never_tested_is_named(tmp_path):
    card = {"title": "T", "family": "generalist", "modalities": ["CT", "MR"], "summary": "Any."}
    left = untested(facts.read(folder(tmp_path / "run", outcome(card=card)), "general"))
    assert "MR scans" in left and "CT scans" not in left
    assert any("rare anatomy" in one for one in left) and any("second place" in one for one in left)


MADE = "gold: the generator knows what it painted"


def made(n, of):
    """`of` subjects, of whom the first n are of the generator."""
    from report_fakes import join

    records, scores = join(*(outcome(case=f"c{i}", dsc=(0.9,)) for i in range(of)))
    noted = [
        replace(one, provenance={**one.provenance, "notes": [MADE]}) if int(one.case[1:]) < n else one
        for one in records
    ]
    return noted, scores


@pytest.mark.parametrize(
    ("n", "people", "reference", "never"),
    [
        (3, "3 made-up bodies, not of people", "the computer that made the bodies knows", "all subjects were gener"),
        (1, "2 people and 1 made-up body", "drawn or checked by people or made up", "more than 2 of the 3 subjects"),
        (0, "3 people", "was drawn or checked by people", ""),
    ],
)
def test_generated_bodies_are_no_people(tmp_path, n, people, reference, never):
    known = completed(facts.read(folder(tmp_path / "run", made(n, 3)), "general"))
    assert known.facts["people"].text == people and known.facts["reference_words"].text.endswith(reference)
    assert ("gold" in known.facts) == (n == 0)  # no clinical reference for the checklist
    left = untested(known)
    assert any(never in one for one in left) if never else not any("generated" in one for one in left)
    page = consent.write(tmp_path / "run", "general", tmp_path / "out").files["sheet.html"].read_text()
    assert ("made-up" in page) == bool(n)


def test_a_bare_name_must_mean_one_model(tmp_path):
    from report_fakes import join

    runs = join(outcome("general(a=1)"), outcome("general(a=2)"), outcome("general(a=2)", "clicks(n=5)"))
    run = folder(tmp_path / "run", runs)
    said = r'--model "general" fits 2 models of this run: general\(a=1\); general\(a=2\); name one of them'
    with pytest.raises(SpecError, match=said):
        facts.read(run, "general")
    assert facts.read(run, "general(a=2)").arm.key[0] == "general(a=2)"
    both = folder(tmp_path / "both", join(outcome("general"), outcome("general(a=2)")))
    assert facts.read(both, "general").arm.key[0] == "general"


def test_nothing_is_unknown_of_a_model_that_learns_nothing(tmp_path):
    found = facts.read(folder(tmp_path / "run", outcome("floor", card={"family": "floor", "summary": "x"})), "floor")
    said = {key: found.facts[key].text for key in ("training_sets", "training_note", "licence_weights")}
    assert said["training_sets"].startswith("none") and "no weights" in said["licence_weights"]


def test_wrong_inputs(tmp_path, run):
    with pytest.raises(SpecError, match=r'--model "sam": no such model in this run; there are special; floor; general'):
        facts.read(run, "sam")
    with pytest.raises(RunError, match="holds no finished task"):
        facts.read(folder(tmp_path / "none", outcome(status="failed")), "general")
    with pytest.raises(RunError, match="no score of general; type: segwise score"):
        facts.read(folder(tmp_path / "unscored", (outcome()[0], list[Score]())), "general")


def test_every_number_of_the_sheet_is_traced(tmp_path, run):
    papers = consent.write(run, "general", tmp_path / "out")
    page = papers.files["sheet.html"].read_text(encoding="utf-8")
    body = page[page.index("<main>") : page.index("<details>")]
    used = set(re.findall(r'<data value="(\w+)"', body))
    bare = re.sub(r"<data.*?</data>|<[^>]+>", " ", body)
    assert set(re.findall(r"\d+", bare)) <= {"1", "0"}  # of "a score of 1 is a perfect fit"
    trace = json.loads(papers.files["trace.json"].read_text())
    assert set(trace["numbers"]) == used and len(used) >= 6
    assert all("records" in one["source"] or "convention" in one["source"] for one in trace["numbers"].values())
    assert "Draft for an ethics board" in page


def test_the_sheet_is_plain_english(run):
    found = sheet.checked(facts.read(run, "general").facts)
    assert found.ease >= reading.TARGET and found.n_sentences > 30 and len(found.hardest) == 3


def test_reading_ease_by_hand():
    """Ten words, one sentence, ten syllables; and a hard one."""
    easy = reading.reading("The cat sat on the mat and ate the fish.")
    assert easy.ease == pytest.approx(206.835 - 1.015 * 10 - 84.6 * 1.0)
    assert reading.reading("Institutional heterogeneity necessitates multidisciplinary deliberation.").ease < 0
    assert reading.reading("").ease == 0
    counted = {"scan": 1, "table": 2, "time": 1, "organ": 2, "program": 2, "person": 2, "missed": 1, "wanted": 2}
    counted |= {"outline": 2, "surgery": 3, "computer": 3, "body": 2, "the": 1, "images": 3, "0.67": 1}
    assert {word: reading.syllables(word) for word in counted} == counted


def test_the_version_counts_up_when_a_number_changes(tmp_path, run):
    out = tmp_path / "out"
    assert [consent.write(run, "general", out).version for _ in range(2)] == [1, 1]
    other = folder(tmp_path / "other", pair(12, dsc=(0.7,)))
    assert consent.write(other, "general", out).version == 2
    (out / "trace.json").write_text("[]")
    with pytest.raises(FileError, match="is no trace of a sheet"):
        consent.write(run, "general", out)


def test_the_key_names_the_right_answers_and_the_sheet_holds_them(tmp_path, run):
    papers = consent.write(run, "general", tmp_path / "out")
    key = papers.files["answer-key.html"].read_text(encoding="utf-8")
    asked = papers.files["questionnaire.html"].read_text(encoding="utf-8")
    titles = {part.title for part in sheet.PARTS}
    letters = []
    for question in sheet.QUESTIONS:
        assert question.why in titles
        letter = "ABC"[consent.order(question).index(0)]
        letters.append(letter)
        assert f"{letter}&ensp;{question.choices[0]}" in asked
        assert f'<td>{letter}</td><td class="w">{question.choices[0]}' in key
    assert len(set(letters)) == 3  # not always the first
    assert "answer-key" not in asked


def test_the_sample_size_is_the_smallest_that_holds():
    from scipy.stats import binom

    found = sample_size.size(0.7, 0.85, alpha=0.025, power=0.9)
    assert binom.sf(found.pass_from - 1, found.n, 0.7) == pytest.approx(found.size) and found.size <= 0.025
    assert binom.sf(found.pass_from - 1, found.n, 0.85) == pytest.approx(found.power) and found.power >= 0.9
    for n in range(1, found.n):
        k = next((k for k in range(n + 1) if binom.sf(k - 1, n, 0.7) <= 0.025), None)
        assert k is None or binom.sf(k - 1, n, 0.85) < 0.9
    assert found.invited >= found.n / 0.9
    with pytest.raises(ValueError, match="expected 0 < least < hoped"):
        sample_size.size(0.8, 0.7)


def test_the_commands(tmp_path, monkeypatch, run, capsys):
    for words in (["facts", str(run), "-m", "special", "-o", str(tmp_path / "f.html")],
                  ["consent", str(run), "-m", "special", "-o", str(tmp_path / "papers")]):  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["segwise", *words])
        with pytest.raises(SystemExit) as left:
            program.main()
        assert not left.value.code
    assert (tmp_path / "f.html").stat().st_size > 10_000 and len(list((tmp_path / "papers").iterdir())) == 5
    assert "reaches the target of 60" in " ".join(capsys.readouterr().err.split())
    monkeypatch.setattr(
        sys, "argv", ["segwise", "facts", str(run), "-m", "special", "-o", str(tmp_path / "no" / "f.html")]
    )
    with pytest.raises(SystemExit) as left:
        program.main()
    assert left.value.code == 2 and "cannot be written" in capsys.readouterr().err
