"""What data can decide: the detectable difference holds in simulated studies, ranks are as steady as planted."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from report_fakes import join, outcome, study
from segwise.report import decidable, ranking, statistics, subgroups
from segwise.report.gather import gather


def test_the_detectable_difference_is_decided_as_often_as_it_says():
    """Differences of 20 subjects with a spread of 0.1, their true mean the detectable one: four in five are decided."""
    rng = np.random.default_rng(0)
    least = decidable.detectable(0.1, 20)
    persons = [str(i) for i in range(20)]
    decided = 0
    for _ in range(200):
        first = rng.normal(0.6, 0.05, 20)
        both = np.column_stack([first + rng.normal(least, 0.1, 20), first])
        decided += bool(statistics.compare(both, persons, n_boot=400).decided[0, 1])
    assert 0.7 < decided / 200 < 0.9


def test_more_subjects_show_smaller_differences_and_too_few_show_none():
    found = [decidable.detectable(0.1, n) for n in (6, 12, 48, 192)]
    assert found == sorted(found, reverse=True) and found[2] / found[3] == pytest.approx(2, rel=0.05)
    assert math.isinf(decidable.detectable(0.1, 5)) and math.isinf(decidable.detectable(0.1, 6, n_pairs=3))
    assert decidable.detectable(0.1, 12, n_pairs=10) > decidable.detectable(0.1, 12)


def test_the_subjects_needed_are_the_first_that_show_it():
    n = decidable.needed(0.05, 0.1)
    assert decidable.detectable(0.1, n) <= 0.05 < decidable.detectable(0.1, n - 1)
    assert decidable.needed(1.0, 0.001) == statistics.subjects_needed(1)
    assert decidable.needed(0.0, 0.1) is None
    assert decidable.needed(1e-17, 1e-17) is None


def test_a_clear_order_is_steady_and_noise_is_not():
    persons = [str(i) for i in range(10)]
    clear = np.tile([0.9, 0.5, 0.1], (10, 1))
    assert decidable.rank_shares(clear, persons) == pytest.approx(np.eye(3))
    assert decidable.agreement(clear, persons) == (1.0, 1.0) and decidable.without_one(clear, persons) == []
    noise = np.random.default_rng(0).normal(0.5, 0.1, (10, 3))
    shares = decidable.rank_shares(noise, persons)
    assert shares.sum(axis=1) == pytest.approx(np.ones(3)) and shares.max() < 0.95
    assert decidable.agreement(noise, persons)[1] < 0.4


def test_one_subject_that_decides_alone_is_named():
    values = np.array([[0.5, 0.6], [0.5, 0.6], [1.0, 0.1]])
    assert decidable.without_one(values, ["a", "b", "c"]) == ["c"]


def _section(run):
    gathered = gather(*run)
    return decidable.section(ranking.rank(gathered), gathered.primary)


def test_the_section_says_plainly_when_nothing_can_be_decided():
    assert "<b>no difference could be decided, however great</b>: 8 subjects are the fewest" in _section(study(4))
    text = _section(study(12))
    assert "a difference must be at least" in text and "is not “equal”" in text and "Kendall" in text
    assert "With one subject nothing can be said" in _section(study(1))
    assert _section(join(outcome(), outcome(case="b"))) == ""


def test_what_is_shared_without_an_arm_of_one_subject_is_judged_as_well():
    text = _section(join(study(12), outcome("special", "box2d", case="case00")))
    first, wider = text.split("<h3>Without special · box2d: more targets in common</h3>")
    assert "With 1 subject <b>no difference could be decided" in first
    assert "a difference must be at least" in wider


def _told(**provenance):
    records, scores = outcome()
    return gather([replace(records[0], provenance={**records[0].provenance, **provenance})], scores).outcomes[0]


def test_kinds_of_case_are_told_from_the_records():
    rare = _told(reference_ml=2.5, spacing_mm=[5, 0.8, 0.8], facts={"scanner": "A 3 T", "anatomy": "after surgery"})
    assert subgroups.kinds(rare) == (
        "small, below 5 ml",
        "slices above 3.5 mm",
        "scanner A 3 T",
        "rare anatomy",
        "rare anatomy: after surgery",
    )
    usual = _told(reference_ml=250, spacing_mm=[1, 1, 1], facts={"anatomy": "usual"})
    assert subgroups.kinds(usual) == ("large, above 100 ml", "voxels up to 1.5 mm", "", "usual anatomy", "")
    assert subgroups.kinds(_told()) == ("", "", "", "", "")


def test_rare_anatomy_has_its_row_in_the_report():
    records, scores = study(8)
    for i, record in enumerate(records):
        facts = {"anatomy": {"case01": "implant", "case02": "organ removed"}.get(record.case, "usual")}
        records[i] = replace(record, provenance={**record.provenance, "facts": facts})
    from segwise.report import page

    text = page(records, scores)
    assert "rare anatomy</th><td>2</td>" in text and "usual anatomy</th><td>6</td>" in text
    assert "rare anatomy: implant</th><td>1</td>" in text and "rare anatomy: organ removed</th><td>1</td>" in text


def test_a_case_tells_its_scanner_and_anatomy(tmp_path):
    import dataset_trees as trees
    from segwise.datasets import case_json

    home = tmp_path / "one"
    trees.save(home / "image.nii.gz", np.zeros((4, 5, 6), dtype=np.int16))
    trees.save(home / "labels.nii.gz", np.ones((4, 5, 6), dtype=np.uint8))
    what = {"modality": "CT", "label_map": {"1": "liver"}, "scanner": "A 3 T", "anatomy": "missing organ"}
    (home / "case.json").write_text(json.dumps(what))
    (case,) = case_json.cases(tmp_path)
    assert case.facts == {"scanner": "A 3 T", "anatomy": "missing organ"}
