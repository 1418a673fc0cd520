"""Figures side by side: what is comparable is ranked, all else stands apart with its reason; own runs beside them."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from report_fakes import Run, join, outcome, study
from segwise.cli import app as program
from segwise.errors import RunError, SpecError
from segwise.evidence.base import open_base
from segwise.evidence.compare import Figure, beside, differences, letter, published, rows
from segwise.evidence.query import is_known_as, known_as
from segwise.records.run import Run as RunFolder
from segwise.report import page
from segwise.report.measured import Named, of_run


@pytest.fixture(scope="module")
def base():
    return open_base()


def figure(value: float, **more: object) -> Figure:
    told = {
        "model": f"m{value}",
        "family": "generalist",
        "unit": "fraction",
        "reported_by": "x",
        "printed_in": "table 1",
    }
    return Figure(**{**told, "value": value, "source": "s", "prompt": "box", **more})


def folder(path: Path, run: Run) -> Path:
    with RunFolder.write(path) as store:
        store.describe({"plan": None})
        store.add(run[0])
        store.add_scores(run[1])
    return path


def told(*arguments: str) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of segwise evidence."""
    command = "import sys; from segwise.cli.app import main; sys.argv = ['segwise', 'evidence', *sys.argv[1:]]; main()"
    done = subprocess.run([sys.executable, "-c", command, *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def said(*arguments: str) -> str:
    """Standard output of segwise evidence, in this process."""
    done = CliRunner().invoke(program.app, ["evidence", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_rows_of_one_table_are_ranked_and_ties_share_a_rank():
    found = beside(
        [figure(0.7), figure(0.9), figure(0.8), figure(0.8, model="z")], dataset="d", target="t", metric="DSC"
    )
    assert [(r["group"], r["rank"], r["value"]) for r in rows(found)] == [
        ("A", 1, 0.9),
        ("A", 2, 0.8),
        ("A", 2, 0.8),
        ("A", 4, 0.7),
    ]


def test_a_distance_is_better_when_it_is_smaller():
    found = beside([figure(9.0, unit="mm"), figure(3.0, unit="mm")], dataset="d", target="t", metric="HD95")
    assert [(r["rank"], r["value"]) for r in rows(found)] == [(1, 3.0), (2, 9.0)]


@pytest.mark.parametrize("aspect", ["split", "edition", "prompt", "definition"])
def test_what_differs_in_one_aspect_is_not_ranked_and_the_aspect_is_said(aspect):
    one, other = figure(0.9, **{aspect: "here"}), figure(0.8, **{aspect: "there"})
    found = beside([one, other], dataset="d", target="t", metric="DSC")
    assert [row["rank"] for row in rows(found)] == [None, None]
    assert found.differs == ({aspect: "here / there"},)


def test_what_neither_states_is_comparable_only_where_both_were_printed_in_one_place():
    one, other = (
        figure(0.9, split="same", edition="e", definition="d"),
        figure(0.8, split="same", edition="e", definition="d"),
    )
    elsewhere = figure(0.7, printed_in="table 2", split="same", edition="e", definition="d")
    assert not differences(one, other)
    assert not differences(one, elsewhere)
    assert differences(figure(0.9), figure(0.8, printed_in="table 2")) == dict.fromkeys(
        ("split", "edition", "definition"), "not stated by either"
    )
    assert differences(figure(0.9, split="a"), figure(0.8)) == {"split": "a / not stated"}


def test_ranks_agree_with_differences(base):
    """Two published figures share a group exactly if nothing sets them apart."""
    found = beside(published(base, "btcv", ("mean",), "DSC"), dataset="btcv", target="mean", metric="DSC")
    assert len(found.groups) > 20
    for i, group in enumerate(found.groups):
        assert all(not differences(group.figures[0], figure) for figure in group.figures)
        assert (group.ranks[0] is None) == (len(group.figures) == 1)
        for other in found.groups[i + 1 :]:
            assert differences(group.figures[0], other.figures[0])


def test_a_known_table_is_ranked_as_printed(base):
    found = beside(published(base, "BTCV", ("liver",), "DSC"), dataset="btcv", target="liver", metric="DSC")
    first = [(figure.model, figure.value) for figure in found.groups[0].figures]
    assert first == [("TotalSegmentator", 0.97), ("VISTA3D", 0.967), ("Auto3DSeg", 0.964), ("nnU-Net", 0.961)]
    assert {"prompt": "none / point"} in found.differs


def test_random_weights_are_never_ranked():
    doubtful = [figure(0.9, doubt="random weights"), figure(0.8, doubt="random weights")]
    found = beside([*doubtful, figure(0.7), figure(0.6)], dataset="d", target="t", metric="DSC")
    assert {row["value"]: row["rank"] for row in rows(found)} == {0.9: None, 0.8: None, 0.7: 1, 0.6: 2}


def test_letters_go_on_after_z():
    assert [letter(n) for n in (0, 25, 26, 51, 52, 701, 702)] == ["A", "Z", "AA", "AZ", "BA", "ZZ", "AAA"]


@pytest.mark.parametrize(
    ("dataset", "target", "metric", "words"),
    [
        ("btcv", "brain", "DSC", 'nothing is published of "brain" in btcv here; there is'),
        ("btcv", "liver", "HD95", 'no HD95 is published of "btcv" here; there is DSC'),
        ("nowhere", "liver", "DSC", '--dataset "nowhere"'),
        ("btcv", "liver", "F1", '--metric "F1": expected one of DSC'),
    ],
)
def test_what_is_not_published_is_said_with_what_is(base, dataset, target, metric, words):
    with pytest.raises(SpecError) as error:
        published(base, dataset, (target,), metric)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("BTCV", "btcv"),
        ("Task09_Spleen", "msd-spleen"),
        ("Task03_Liver", "lits-msd-liver"),
        ("LiTS", "lits-msd-liver"),
        ("KiTS", "kits"),
        ("TotalSegmentator", "totalsegmentator"),
        ("AMOS", "amos"),
        ("mine", None),
    ],
)
def test_data_sets_are_known_by_the_names_that_readers_give(base, name, id):
    assert known_as(base, name) == id


def test_a_run_enters_beside_published_rows_with_itself_as_reporter(tmp_path, base):
    run = join(
        outcome("general", dataset="BTCV", case="a", dsc=(0.6,)),
        outcome("general", dataset="BTCV", case="b", dsc=(0.8,)),
        outcome("special", "name", dataset="BTCV", case="a", dsc=(0.9,)),
    )
    own = of_run(folder(tmp_path / "mine", run), Named(base, "btcv"), "liver", "DSC")
    assert [(f.model, f.family, f.n) for f in own] == [("general", "generalist", 2), ("special", "task-specific", 1)]
    assert own[0].value == pytest.approx(0.7)
    assert own[0].reported_by == "run mine"
    found = beside([*own, *published(base, "btcv", ("liver",), "DSC")], dataset="btcv", target="liver", metric="DSC")
    assert all(row["rank"] is None for row in rows(found) if row["measured"])  # prompts differ, and the splits
    assert re.fullmatch(r"2 subjects of BTCV, set \w{6} / 1 subject of BTCV, set \w{6}", found.differs[0]["split"])
    assert all("split" in how for how in found.differs)


def test_runs_on_the_same_cases_are_ranked_and_those_on_as_many_others_are_not(tmp_path, base):
    def own(name: str, model: str, case: str) -> Figure:
        run = folder(tmp_path / name, outcome(model, case=case, subject="one", dataset="BTCV"))
        return of_run(run, Named(base, "btcv"), "liver", "DSC")[0]

    figures = [own("first", "general", "a"), own("second", "special", "a"), own("third", "floor", "b")]
    found = beside(figures, dataset="d", target="liver", metric="DSC")
    assert [[figure.model for figure in group.figures] for group in found.groups] == [["general", "special"], ["floor"]]


def _arms(n: int, *values: float) -> Run:
    """Models of one prompter on n subjects, each subject a little above or below the model's value."""
    models = ("general", "special", "floor")
    return join(
        *(
            outcome(model, case=f"c{i:02}", dataset="BTCV", dsc=(value + 0.001 * (i % 5),))
            for model, value in zip(models, values, strict=False)
            for i in range(n)
        )
    )


def test_own_figures_have_ranks_only_where_the_subjects_decide(tmp_path, base):
    def found(name: str, run: Run) -> list[int | None]:
        own = of_run(folder(tmp_path / name, run), Named(base, "btcv"), "liver", "DSC")
        return [row["rank"] for row in rows(beside(own, dataset="btcv", target="liver", metric="DSC"))]

    assert found("few", _arms(3, 0.9, 0.7)) == [None, None]
    assert found("many", _arms(12, 0.9, 0.7)) == [1, 2]
    assert found("tied", _arms(12, 0.9, 0.9, 0.7)) == [1, 1, 3]


def test_the_program_says_why_own_figures_have_no_rank(tmp_path):
    run = folder(tmp_path / "mine", _arms(3, 0.9, 0.7))
    out = said("compare", "--dataset", "btcv", "-t", "liver", "--run", str(run))
    assert "A: in order of the means; 3 subjects cannot decide any difference, so no row has a rank" in out


def test_a_surface_measure_names_its_metric_with_the_tolerance(tmp_path, base):
    mine = Named(base, "btcv", ("mine",))
    own = of_run(folder(tmp_path / "mine", outcome(dsc=(0.8,))), mine, "liver", "NSD")
    assert own[0].definition == "mean over subjects; surface(tolerance_mm=2)"
    assert own[0].value == pytest.approx(0.85)
    assert of_run(tmp_path / "mine", mine, "liver", "HD95")[0].unit == "mm"


def test_runs_without_such_a_score_are_refused(tmp_path, base):
    mine = Named(base, "btcv", ("mine",))
    with pytest.raises(RunError, match="holds no finished task"):
        of_run(folder(tmp_path / "failed", outcome(status="failed", dsc=(None,), reason="broke")), mine, "liver", "DSC")
    with pytest.raises(RunError, match="is not a run folder"):
        of_run(tmp_path, mine, "liver", "DSC")
    with pytest.raises(RunError, match=r"has no DSC of spleen in btcv; it has .* of liver"):
        of_run(folder(tmp_path / "liver", outcome()), mine, "spleen", "DSC")


def test_what_was_scored_on_other_data_is_never_called_that_data_set(tmp_path, base):
    run = join(outcome(dataset="torso", dsc=(0.9,)), outcome(dataset="thick torso", dsc=(0.8,)))
    phantoms = folder(tmp_path / "phantoms", run)
    with pytest.raises(RunError, match=r'has scores of thick torso, torso, and not of btcv; .*--called "thick torso"'):
        of_run(phantoms, Named(base, "btcv"), "liver", "DSC")
    (own,) = of_run(phantoms, Named(base, "btcv", ("torso",)), "liver", "DSC")
    assert own.value == 0.9 and "1 subject of torso" in own.split
    assert own.source.endswith("; torso taken as btcv on your word; its thick torso left out, another data set")


def test_only_the_same_data_set_of_a_run_counts(tmp_path, base):
    run = join(outcome(dataset="BTCV", dsc=(0.7,)), outcome(dataset="AMOS22", dsc=(0.1,)))
    (own,) = of_run(folder(tmp_path / "both", run), Named(base, "btcv"), "liver", "DSC")
    assert own.value == 0.7 and own.n == 1
    assert own.source == "run both, measured with Segwise; its AMOS22 left out, another data set"


@pytest.mark.parametrize("name", ["BTCV", "btcv", "Beyond the Cranial Vault"])
def test_a_data_set_is_known_by_its_names(base, name):
    assert is_known_as(base, "btcv", name) == (known_as(base, name) == "btcv")
    assert not is_known_as(base, "btcv", "torso") and is_known_as(base, "msd-spleen", "Task09_Spleen")


def test_a_name_that_no_run_has_is_refused(tmp_path):
    run = folder(tmp_path / "mine", outcome(dataset="abdomen"))
    for more, words in ((("--run", str(run)), "there are abdomen"), ((), "give a run, too: --run DIR")):
        code, out, err = told("compare", "--dataset", "btcv", "-t", "liver", "--called", "abdmen", *more)
        assert (code, out) == (2, "") and words in err
    found = said(
        "compare", "--dataset", "btcv", "-t", "liver", "--run", str(run), "--called", "abdomen", "--format", "csv"
    )
    (row,) = [row for row in csv.DictReader(io.StringIO(found)) if row["measured"] == "True"]
    assert row["dataset"] == "btcv" and "abdomen taken as btcv on your word" in row["source"]


def test_the_report_sets_published_rows_beside_measured_ones_without_ranks():
    run = join(*(outcome("general", dataset="BTCV", case=case, dsc=(0.7,)) for case in "ab"))
    html = page(*run)
    part = html[html.index('<section id="published">') :]
    part = part[: part.index("</section>")]
    assert "VISTA3D" in part and "0.967" in part
    assert "arXiv:2406.05285 supplementary table 1" in part
    assert "These rows are not ranked" in part
    assert "Not ranked: split" in part
    assert 'href="#published"' in html


def test_the_report_says_nothing_of_data_that_nobody_published():
    assert 'id="published"' not in page(*study(3))


def test_the_surveys_48_are_listed():
    rows = list(csv.DictReader(io.StringIO(said("models", "--family", "generalist", "--format", "csv"))))
    assert len(rows) == 48
    assert all(row["source"] for row in rows)
    assert len(json.loads(said("models", "--family", "task-specific", "--format", "json"))) == 24


def test_filters_that_leave_nothing_give_an_empty_table_with_its_head():
    text = said("results", "--dataset", "msd-spleen", "--organ", "aorta", "--format", "csv")
    assert text.startswith("model_id,dataset_id,target,")
    assert text.count("\n") == 1
    assert json.loads(said("results", "--dataset", "msd-spleen", "--organ", "aorta", "--format", "json")) == []


def test_a_table_names_every_source_once():
    text = said("results", "--dataset", "btcv", "--organ", "Liver", "--metric", "dsc")
    assert "VISTA3D" in text
    assert text.count("[1] arXiv:2406.05285 supplementary table 1") == 1


def test_citations_come_instead_of_rows():
    text = said("results", "--dataset", "acdc", "--cite", "bibtex")
    assert text.startswith("@misc{arxiv-2506-10825,")
    assert len(re.findall(r"^@\w+\{", text, re.M)) == text.count("\n}\n")
    assert "https://arxiv.org/abs/2506.10825" in said("models", "--family", "generalist", "--cite", "text")


def test_compare_says_what_sets_groups_apart(tmp_path):
    run = folder(tmp_path / "mine", outcome("general", dataset="BTCV", dsc=(0.75,)))
    text = said("compare", "--dataset", "btcv", "--target", "liver", "--run", str(run))
    assert re.search(r"^A +general +generalist +0\.75 +box2d +1 subject of BTCV, set \w{6} +run mine", text, re.M)
    assert re.search(r"split \(1 subject of BTCV, set \w{6} / not stated\)", text)
    found = json.loads(said("compare", "--dataset", "btcv", "-t", "liver", "--run", str(run), "--format", "json"))
    assert found["rows"][0]["measured"] is True
    assert found["differs_from_A"]["B"]["prompt"] == "box2d / none"


def test_reproduce_prints_numbers_and_filters():
    text = said("reproduce")
    for words in (
        "reproduced: 48 models",
        "reproduced: 24 models",
        "reproduced: 5,120 GB",
        "not testable from these data",
    ):
        assert words in text
    assert text.count("filter: select") == len(re.findall(r"^  source:", text, re.M)) == 13
    assert "our reading" in text


def test_a_claim_that_is_off_is_said_by_the_exit_code(tmp_path):
    claims = tmp_path / "claims.toml"
    row = 'id = "a"\nsays = "a"\nsource = "me"\nexpected = 49\nunit = "models"\nlow = 0\nhigh = 99\n'
    claims.write_text(f"[[statement]]\n{row}sql = \"select count(*) from survey_models where family = 'generalist'\"\n")
    done = CliRunner().invoke(program.app, ["evidence", "reproduce", "--claims", str(claims)])
    assert done.exit_code == 1
    assert "not reproduced: 48 models, said: 49" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("results", "--dataset", "btvc"), 'did you mean "BTCV"?'),
        (("models", "--format", "xml"), '--format "xml": expected table, csv, json'),
        (("models", "--cite", "ris"), '--cite "ris": expected text or bibtex'),
        (("compare", "--dataset", "btcv", "--run", "nowhere"), "is not a run folder"),
        (("charts", "-o", "x", "--format", "gif"), '--format "gif": expected svg or png'),
    ],
)
def test_mistakes_answer_with_one_message(arguments, words):
    code, out, err = told(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and words in err
    assert "Traceback" not in err


def test_charts_are_drawn(tmp_path):
    said("charts", "-o", str(tmp_path))
    texts = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert sorted(texts) == ["crossover.svg", "memory.svg", "spread.svg", "timeline.svg"]
    assert "A generalist leads on 24 of 47 data sets, a task-specific model on 23" in texts["crossover.svg"]
    assert "48 generalist and 24 task-specific models" in texts["timeline.svg"]
    assert all("Moglia et al." in text for text in texts.values())


def test_help_of_the_program_needs_no_duckdb():
    code = "import sys; sys.modules['duckdb'] = None; from segwise.cli.app import app; sys.argv = ['segwise', '--help']"
    done = subprocess.run([sys.executable, "-c", f"{code}; app()"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "evidence" in done.stdout
