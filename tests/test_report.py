"""The report: what it says of planted runs, that it survives every degenerate run, and that it needs nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from report_fakes import Run, crop, join, outcome, study
from segwise.errors import RunError
from segwise.records.run import Run as RunFolder
from segwise.records.types import Plan, Record, Score
from segwise.report import build, by_slice, page, ranking, rows, words
from segwise.report.gather import gather

VOID = {"wbr", "meta", "link", "br", "image", "path", "use", "rect", "img", "hr", "circle", "line"}


class _Checker(HTMLParser):
    """Collects text and addresses, and finds tags that do not close."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.ids: list[str] = []
        self.feed(html)
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "srcset", "data", "action")]
        self.ids += [v or "" for k, v in attrs if k == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def said(run: Run, **more: object) -> str:
    """The text of a page, which is checked on the way."""
    html = page(*run, **more)  # type: ignore[arg-type]
    checked = _Checker(html)
    for address in checked.addresses:
        assert address.startswith(("#", "data:")), address
    assert not re.search(r"@import|url\(\s*['\"]?(?!#|data:)", html)
    assert len(checked.ids) == len(set(checked.ids))
    assert len(html) < 5_000_000
    assert not re.search(r"\b(nan|inf|None)\b", checked.text)
    return checked.text


def test_a_planted_winner_ranks_first() -> None:
    text = said(study(12))
    assert "special · name ranks first" in text
    assert "beyond what chance explains" in text
    assert "Generalist or specialist? The best specialist, special · name , reaches" in text
    assert "It asked nothing of a person for each target, the other 14 interactions" in text


def test_equal_arms_cannot_be_decided() -> None:
    text = said(study(12, lead=0.0))
    assert "The data cannot decide" in text
    assert "cannot be told apart, the others are behind the first" in text


def test_answers_without_a_score_are_counted_at_the_top() -> None:
    records, scores = study(12)
    late = {(r.task, r.target) for r in records if r.model == "special" and r.case == "case01"}
    some = [score for score in scores if (score.task, score.target) not in late]
    assert "5 answers are not scored yet and left out of all numbers below; type segwise score RUN" in said(
        (records, some)
    )
    assert "not scored yet" not in said((records, scores))


def test_many_that_cannot_be_told_apart_are_counted() -> None:
    runs = []
    for s in range(20):
        values = [*(0.8 + 0.001 * ((s + k) % 7) for k in range(7)), 0.3]
        runs += [outcome(f"general(a={k})", case=f"case{s}", dsc=(value,)) for k, value in enumerate(values)]
    assert "and 3 more cannot be told apart, the others are behind the first" in said(join(*runs))


def test_one_subject_shows_the_order_and_what_would_be_needed() -> None:
    text = said(study(1))
    assert "The data cannot decide" in text and "order on one person" in text
    assert "at least 8 subjects are needed to decide any of 6 pairs" in text  # six pairs: 2 · 6 / 2**8 < .05
    assert "special · name" in text and "0 of 6 decided" in text


def test_numbers_by_hand() -> None:
    one = [outcome("general", case="a", target=t, dsc=(v,)) for t, v in (("liver", 0.2), ("spleen", 0.4))]
    run = join(*one, outcome("general", case="b", target="liver", dsc=(0.9,)))
    text = said(run)
    assert "mean DSC 0.600 over 2 subjects" in text  # (.3 + .9) / 2, not (.2 + .4 + .9) / 3
    assert "0.500" in text  # which stands beside it as the mean over targets


def test_the_last_round_counts_not_the_best() -> None:
    found = rows(*outcome("floor", "clicks(n=5)", dsc=(0.5, 0.9, 0.6)))
    assert [row["dsc"] for row in found] == ["0.600"]
    assert found[0]["n_interactions"] == "3"


def test_seeds_are_averaged_before_anything_else() -> None:
    run = join(*(outcome("floor", "points(n=5)", seed=i, dsc=(v,)) for i, v in enumerate((0.2, 0.4, 0.6))))
    assert rows(*run)[0]["dsc"] == "0.400"


def test_arms_are_compared_on_common_items_and_the_others_again_without_the_narrow_one() -> None:
    wide = [
        outcome(model, case=f"c{i}", target=target, dsc=(value,))
        for model, value in (("general", 0.7), ("floor", 0.5))
        for i in range(8)
        for target in ("left thalamus", "right thalamus", "skull")
    ]
    narrow = [outcome("special", "name", case=f"c{i}", target="left thalamus", dsc=(0.9,)) for i in range(8)]
    text = said(join(*wide, *narrow))
    assert "Compared on 8 targets that all 3 arms answered" in text
    assert "16 more targets could not be asked of every arm" in text
    assert "On the 24 targets that general · box2d and floor · box2d share" in text


def test_a_union_of_sides_counts_once_where_the_sides_are_there() -> None:
    def brain(model: str, how: str, names: tuple[str, ...], value: float) -> Run:
        return join(*(outcome(model, how, target=name, dsc=(value,)) for name in names))

    both = ("left thalamus", "right thalamus")
    general = brain("general", "box2d", both, 0.6)
    made = outcome("general", target="thalamus", dsc=(0.9,))
    made = ([replace(r, seconds={}, provenance={**r.provenance, "union": ["a", "b"]}) for r in made[0]], made[1])
    run = join(general, made, brain("special", "name", ("thalamus",), 0.8))
    text = said(run)
    assert "thalamus : left and right together" in text
    assert "Compared on 1 target that all 2 arms answered" in text  # the union, which both have
    assert {row["model"]: row["dsc"] for row in rows(*run)} == {"general": "0.900", "special": "0.800"}
    alone = join(general, made, brain("floor", "box2d", (*both, "thalamus"), 0.5))
    assert {row["model"]: row["dsc"] for row in rows(*alone)} == {"general": "0.600", "floor": "0.500"}


def test_a_union_is_among_the_worst_only_where_its_sides_are_not() -> None:
    sides = [outcome("floor", target=name, dsc=(0.31,)) for name in ("left thalamus", "right thalamus")]
    run = join(*sides, outcome("floor", target="thalamus", dsc=(0.32,)))
    html = page(*run)
    assert '<b>thalamus</b> <span class="score">' not in html
    skipped = outcome("special", "name", target="left thalamus", status="skipped", reason="both sides only")
    html = page(*join(skipped, outcome("special", "name", target="thalamus", dsc=(0.9,))))
    assert '<b>thalamus</b> <span class="score">' in html


def test_random_weights_are_shown_and_never_ranked() -> None:
    run = join(outcome("general", dsc=(0.9,), weights="random:0"), outcome("floor", dsc=(0.3,)))
    text = said(run)
    assert [(row["rank"], row["model"]) for row in rows(*run)] == [("1", "floor"), ("not ranked", "general")]
    assert "random weights" in text and "never ranked" in text


def test_failures_stand_beside_the_mean_with_their_reasons() -> None:
    runs = [outcome("general", case=f"c{i}", dsc=(0.8,)) for i in range(4)]
    runs.append(outcome("general", case="c4", status="failed", reason="out of memory"))
    runs.append(outcome("general", case="c5", status="skipped", reason="reference is empty"))
    runs.append(outcome("general", case="c6", dsc=(None,), reason="both empty"))
    text = said(join(*runs))
    for part in ("1 failed", "1 skipped", "1 undefined", "out of memory", "reference is empty", "both empty"):
        assert part in text, part
    assert "0.640" in text  # .8 · 4 of 5, a failure counted as 0


def test_an_arm_that_fails_mostly_does_not_shrink_the_comparison() -> None:
    good = [outcome("general", case=f"c{i}", dsc=(0.8,)) for i in range(6)]
    bad = [outcome("floor", case=f"c{i}", status="done" if i < 2 else "failed", reason="broke") for i in range(6)]
    text = said(join(*good, *bad))
    assert "too few results: 2 of 6 targets have a value" in text and "over 6 subjects" in text


def test_silver_references_and_leakage_are_said() -> None:
    run = join(outcome("general", quality="silver", dataset="AMOS22"), outcome("special", "name", dataset="AMOS22"))
    text = said(run)
    assert "silver" in text and "agreement with that program, not accuracy" in text
    assert "trained on this data set" in text and "overlap: trained on AMOS" in text
    assert "unknown: training data not listed" in text


@pytest.mark.parametrize(
    ("dsc", "sensitivity", "precision", "words"),
    [
        (0.0, 0.0, None, "Empty: it predicted nothing"),
        (0.05, 0.04, 0.06, "Wrong place"),
        (0.45, 0.3, 0.95, "Missed most of it: 70% of the target missed"),
        (0.5, 0.95, 0.34, "Spills over: 66% of what it painted lies outside"),
        (0.4, 0.4, 0.4, "Displaced or mixed up"),
        (0.72, 0.6, 0.9, "Missed part of it: 40% of the target missed"),
        (0.7, 0.7, 0.7, "Partly right"),
        (0.85, 0.85, 0.85, "Roughly right"),
    ],
)
def test_what_happened_is_told_from_the_scores(
    dsc: float, sensitivity: float, precision: float | None, words: str
) -> None:
    records, scores = outcome(dsc=(dsc,))
    known = {"sensitivity": sensitivity, "precision": precision}
    scores = [replace(s, value=known.get(s.measure, s.value)) for s in scores]
    assert words in said((records, scores))


def test_pictures_have_both_outlines_in_three_planes() -> None:
    run = outcome(dsc=(0.3,))
    html = page(*run, crops=lambda key: crop() if key[1] == "liver" else None)
    assert html.count('<path class="reference"') == html.count('<path class="prediction"') == 3
    assert html.count("data:image/png;base64") == 3
    said(run, crops=lambda _: crop())


def test_odd_crops_do_no_harm() -> None:
    odd = crop() | {"image1": np.zeros((0, 4), np.uint8), "reference2": np.zeros((3, 3), bool)}
    del odd["spacing0"], odd["prediction0"]
    said(outcome(), crops=lambda _: odd)


def test_everything_from_outside_is_escaped() -> None:
    evil = '<script>alert("x")</script>$\\alpha$&amp;{}'
    run = join(
        outcome("general", case=evil, subject=evil, target=evil, modality=evil, quality=evil, dataset=evil),
        outcome("general", case="b", target=evil, status="failed", reason=evil),
        outcome(evil, evil, case=evil, subject=evil, target=evil, dataset=evil, dsc=(0.2, 0.4), weights=evil),
        outcome("special", "name", card=dict.fromkeys(("title", "family", "summary", "licence_weights"), evil)),
    )
    plan = Plan(name=evil, question=evil, models=(evil,))
    html = page(
        *run, plan=plan, meta={"command": [evil], "versions": {evil: evil}, "git": evil}, crops=lambda _: crop()
    )
    assert "<script>alert" not in html and html.count("<script") == 1
    said(run, plan=plan, meta={"command": evil})


DEGENERATE: dict[str, Callable[[], Run]] = {
    "one record": outcome,
    "all failed": lambda: join(*(outcome(case=c, status="failed", reason="broke") for c in "ab")),
    "all skipped": lambda: outcome(status="skipped", reason="takes no box"),
    "skipped pair without a case": lambda: outcome(case="", target="", status="skipped", reason="takes no box"),
    "all undefined": lambda: join(*(outcome(case=c, dsc=(None,), reason="both empty") for c in "ab")),
    "no scores": lambda: (outcome()[0], []),
    "only curve scores": lambda: (outcome()[0], [replace(outcome()[1][0], round=-1, measure="DSC_AUC")]),
    "last round not scored": lambda: (outcome(dsc=(0.5, 0.6))[0], outcome(dsc=(0.5,))[1]),
    "failed in its second round": lambda: join(
        outcome(case="a"),
        ([replace(outcome(case="b")[0][0], round=1, status="failed", reason="broke")], []),
        outcome(case="b"),
    ),
    "no seconds": lambda: ([replace(outcome()[0][0], seconds={}, peak_bytes=0)], outcome()[1]),
    "zero seconds": lambda: ([replace(outcome()[0][0], seconds={"read_s": 0.0})], outcome()[1]),
    "no provenance": lambda: ([replace(outcome()[0][0], provenance={})], outcome()[1]),
    "scores without a record": lambda: join(outcome(), ([], outcome(case="other")[1])),
    "only random weights": lambda: outcome(weights="random:1"),
    "only unknown weights": lambda: outcome(weights="unknown:1"),
    "nothing shared": lambda: join(outcome("general", target="liver"), outcome("floor", target="skull")),
    "all zero": lambda: join(outcome("general", dsc=(0.0,)), outcome("floor", dsc=(0.0,))),
    "all one": lambda: join(*(outcome(m, case=c, dsc=(1.0,)) for m in ("general", "floor") for c in "abcdefgh")),
    "no DSC": lambda: (outcome()[0], [s for s in outcome()[1] if s.measure == "HD95"]),
    "two tolerances": lambda: join(outcome(), ([], [replace(outcome()[1][3], metric="surface(tolerance_mm=1)")])),
    "nothing": lambda: ([], []),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_runs_give_a_sane_page(name: str) -> None:
    run = DEGENERATE[name]()
    text = said(run)
    assert "Ranking" in text or "Nothing to rank" in text or "Not scored yet" in text
    rows(*run)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("all failed", "Every target failed."),
        ("all undefined", "No score is defined for any target."),
        ("no scores", "Not scored yet"),
        ("only random weights", "Every model that answered has random weights"),
        ("only unknown weights", "Every model that answered has unknown weights"),
        ("one record", "Nothing to compare with"),
    ],
)
def test_degenerate_runs_say_what_they_are(name: str, words: str) -> None:
    assert words in said(DEGENERATE[name]())


def test_the_same_records_in_another_order_give_the_same_page() -> None:
    records, scores = study(3)
    assert page(records, scores) == page(records[::-1], scores[::-1])


def _folder(path: Path, records: list[Record], scores: list[Score]) -> Path:
    with RunFolder.write(path) as run:
        plan = {"name": "zero_shot", "question": "Which?", "pairs": [{"model": "a", "prompter": "b"}]}
        run.describe({"plan": plan, "command": ["segwise", "compare", "my scans"], "versions": {"python": "3.11"}})
        run.add(records)
        run.add_scores(scores)
    return path


def test_build_writes_the_page_beside_the_records(tmp_path: Path) -> None:
    records, scores = study(2)
    run = _folder(tmp_path / "run", records, scores)
    (run / "crops").mkdir()
    for record in records:
        np.savez(run / "crops" / f"{record.task}-{record.target}-{record.round}.npz", **crop())
    written = build(run)
    html = written.read_text(encoding="utf-8")
    assert written == run / "report.html"
    assert "segwise compare &#x27;my scans&#x27;" in html and "zero_shot" in html and "data:image/png" in html


def test_a_damaged_crop_leaves_the_words(tmp_path: Path) -> None:
    records, scores = outcome(dsc=(0.3,))
    run = _folder(tmp_path / "run", records, scores)
    (run / "crops").mkdir()
    (run / "crops" / f"{records[0].task}-liver-0.npz").write_bytes(b"PK\x03\x04 torn")
    assert "data:image/png" not in build(run).read_text(encoding="utf-8")


@pytest.mark.parametrize(("n_tasks", "words"), [(5, "not finished: 4 of 5 tasks done"), (4, ""), (None, "")])
def test_a_run_cut_short_says_so_near_the_top(n_tasks: int | None, words: str) -> None:
    planted = join(
        outcome(case="a"),
        outcome(case="b"),
        outcome(case="c", dsc=(None,), status="failed", reason="broke"),
        outcome("special", case="a"),
        outcome("special", case="x", target="", dsc=(None,), status="skipped", reason="x cannot be read: torn"),
    )
    text = said(planted, meta={"n_tasks": n_tasks})
    assert "x cannot be read: torn" in text
    assert ("not finished" in text) == bool(words)
    assert words in text.split("Ranking")[0]


def test_a_run_without_a_finished_task_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no finished task"):
        build(_folder(tmp_path / "run", [], []))
    with pytest.raises(RunError, match="not a run folder"):
        build(tmp_path)


def test_it_renders_in_a_browser_without_an_error(tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here")
    file = tmp_path / "report.html"
    file.write_text(page(*study(3), crops=lambda _: crop()), encoding="utf-8")
    flags = "--headless --no-sandbox --disable-gpu --disable-background-networking --no-first-run"
    command = [
        browser,
        *flags.split(),
        f"--user-data-dir={tmp_path / 'profile'}",
        "--enable-logging=stderr",
        "--dump-dom",
    ]
    done = subprocess.run([*command, file.as_uri()], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        pytest.skip(f"Chromium does not start here: {done.stderr[-200:]}")
    assert "CONSOLE" not in done.stderr, done.stderr
    assert 'data-sort=""' in done.stdout  # the script ran under the page's own policy


def test_unknown_weights_are_called_unknown_and_never_ranked() -> None:
    run = join(
        outcome("general", dsc=(0.9,), weights="unknown:4f2a91c0ffee"),
        outcome("special", "name", dsc=(0.95,), weights="random:0"),
        outcome("floor", dsc=(0.3,)),
    )
    found = rows(*run)
    assert [(row["rank"], row["model"]) for row in found] == [
        ("1", "floor"),
        ("not ranked", "general"),
        ("not ranked", "special"),
    ]
    assert [row["interval"] for row in found[1:]] == ["unknown weights", "random weights"]
    text = said(run)
    assert "general: unknown weights . No card names these bytes" in text
    assert "special: random weights . Shown to prove that it runs" in text
    assert "unknown weights: not ranked" in text and "random weights: not ranked" in text
    assert "general: random" not in text and "4f2a91c0ffee" in text
    assert re.search("vouch for it: segwise weights import --trust FILE", text)


def test_what_a_card_remarks_of_a_spec_stands_beside_every_name_of_it() -> None:
    card = {"title": "General", "remarks": {"size=nano": "nano, trained on synthetic data"}}
    run = join(
        *(outcome("general(size=nano)+flips", case=c, dsc=(0.9,), card=card) for c in "ab"),
        *(outcome("general", case=c, dsc=(0.8,), card=card) for c in "ab"),
    )
    gathered = gather(*run)
    assert [arm.remark for arm in gathered.arms] == ["", "nano, trained on synthetic data"]
    assert gathered.arms[1].label.endswith("(nano, trained on synthetic data)")
    assert said(run).count("nano, trained on synthetic data") > 3


def test_one_unknown_file_of_several_makes_the_weights_unknown() -> None:
    records, scores = outcome("general", dsc=(0.9,))
    mixed = [replace(r, provenance={**r.provenance, "weights": {"a": "4f2a", "b": ["unknown:1"]}}) for r in records]
    assert [row["rank"] for row in rows(mixed, scores)] == ["not ranked"]
    assert "unknown weights: not ranked" in said((mixed, scores))


def test_with_only_unknown_and_random_weights_there_is_nothing_to_rank() -> None:
    run = join(outcome("general", weights="unknown:1"), outcome("special", "name", weights="random:1"))
    text = said(run)
    assert "Nothing to rank" in text and "has random weights or unknown weights" in text
    assert "its scores say nothing of the published model" in text
    assert [row["rank"] for row in rows(*run)] == ["not ranked", "not ranked"]


def test_every_target_of_every_case_and_every_seed_stand_in_the_page() -> None:
    values = {("a", 0): 0.2, ("a", 1): 0.24, ("b", 0): 0.7, ("b", 1): 0.9}
    run = join(*(outcome("floor", "points(n=5)", case=c, seed=s, dsc=(v,)) for (c, s), v in values.items()))
    text = said(run)
    assert "0.220" in text and "0.800" in text  # a and b, seeds averaged
    assert "0.450" in text and "0.570" in text and "0.120" in text  # seed 0, seed 1, and their range


def test_a_large_run_stays_a_small_page() -> None:
    rng = np.random.default_rng(0)
    runs = [
        outcome(f"model{a}", case=f"c{c}", target=f"t{t}", dsc=(float(rng.uniform(0.2, 0.9)),))
        for a in range(25)
        for c in range(20)
        for t in range(5)
    ]
    assert len(page(*join(*runs), crops=lambda _: crop())) < 2_500_000


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ({"family": "floor"}, "nothing was learned"),
        ({"training_sets": ["KiTS"]}, "no overlap known: trained on KiTS"),
        ({"training_sets": ["KiTS"], "training_note": "the rest is secret"}, "unknown: trained on KiTS"),
        ({"family": "specialist", "training_note": "not said"}, "unknown: training data not listed"),
        ({"training_sets": ["AMOS", "LiTS"]}, "overlap: trained on LiTS"),
    ],
)
def test_leakage_is_yes_no_or_unknown(card: dict[str, object], words: str) -> None:
    assert words in said(outcome("net", dataset="lits_17", card=card))


def test_names_in_tables_and_figures_leave_out_where_files_lie():
    assert (
        ranking.shortened('sam(checkpoint="/a b/c/d/e.pth", lift=slices)') == 'sam(checkpoint="…/d/e.pth", lift=slices)'
    )
    assert (
        ranking.shortened("sam(checkpoint=/a/b/c/sam) does not take text")
        == "sam(checkpoint=…/c/sam) does not take text"
    )
    assert ranking.shortened("sam(checkpoint=/a/b)") == "sam(checkpoint=/a/b)"
    assert by_slice._told(["sam(checkpoint=/a/b, lift=slices)", "sam(checkpoint=/a/b)"]) == ["sam(lift=slices)", "sam"]
    others = ["sam(checkpoint=/a)", "sam(checkpoint=/b)"]
    assert by_slice._told(others) == others


@pytest.mark.parametrize(
    ("people", "told"),
    [
        (("p1", "p2"), "<b>overlap: trained on 1 subject of these (p2)</b>"),
        (("p4",), "no overlap: trained on 2 other subjects of mine"),
    ],
)
def test_a_model_folder_is_known_by_the_subjects_it_saw(people, told):
    learned = {"model": "unet", "subjects": 2, "data": "mine", "people": ("p2", "p3")}
    card = {"family": "specialist", "training_sets": ["mine"], "learned": learned}
    assert words.leakage(card, {"mine"}, people) == told
    runs = [outcome("unet(checkpoint=/x)", "name", case=f"c{p}", subject=p, card=card) for p in people]
    assert ("its scores here flatter it" in said(join(*runs))) == ("<b>" in told)
