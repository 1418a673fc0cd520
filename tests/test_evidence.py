"""The evidence base: every shipped row is sound, the survey's claims come out, wrong rows and filters are named."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from segwise import anatomy
from segwise.errors import FileError, SpecError
from segwise.evidence import statements
from segwise.evidence.base import open_base, read_rows
from segwise.evidence.cite import works
from segwise.evidence.query import Filters, ask, find
from segwise.evidence.schema import METRICS, TABLES, checked
from segwise.evidence.statements import Statement, reproduce

ROOT = Path(__file__).parent.parent
ROOM = ROOT / "src" / "segwise" / "evidence"
RESULT = {
    "model_id": "sam",
    "dataset_id": "btcv",
    "target": "liver",
    "metric": "DSC",
    "value": 0.5,
    "unit": "fraction",
    "reported_by": "primary",
    "source": "arXiv:2304.02643",
}


@pytest.fixture(scope="module")
def base():
    """To look at."""
    return open_base()


@pytest.fixture
def own():
    """To change."""
    return open_base()


def toml(path, kind="result", **row):
    lines = [f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}" for key, value in row.items()]
    path.write_text("\n".join([f"[[{kind}]]", *lines]), encoding="utf-8")
    return path


@pytest.mark.parametrize("table", TABLES)
def test_every_shipped_row_is_sound_and_has_a_source(base, table):
    rows = base.rows(f"select * from {table}")
    assert len(rows) > 100
    for number, row in enumerate(rows, start=1):
        assert checked(table, row, f"{table}[{number}]") == row
        assert row["source"].strip()


def test_every_added_row_names_a_structure_that_the_vocabulary_knows():
    added = read_rows(ROOM / "added.toml", "added.toml")["results"]
    assert added
    for row in added:
        assert row["target"].startswith("mean") or anatomy.resolve(row["target"]).name == row["target"]
        assert METRICS[row["metric"]].high >= row["value"] >= 0


def test_figures_resolve_and_none_is_made_of_the_files_we_may_not_ship(base):
    n = base.rows("select count(*) as n from results")[0]["n"]
    assert base.rows("select count(*) as n from figures")[0]["n"] == n
    assert not base.rows("select 1 from results where source like '%totalsegmentator_results/%'")
    assert base.rows("select count(*) as n from results where source like '%Touchstone%'")[0]["n"] == 170
    assert base.rows("select count(*) as n from survey_results")[0]["n"] == 740


def test_the_files_are_what_the_script_writes(shared):
    command = [sys.executable, str(ROOT / "docs" / "evidence.py"), str(shared / "survey"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_survey_is_reproduced(base):
    found = {outcome.statement.id: outcome.found for outcome in reproduce(base)}
    assert found == {
        "generalist-models": 48,
        "task-specific-models": 24,
        "data-sets": 59,
        "anatomical-regions": 14,
        "main-structures": 17,
        "generalist-memory": 96,
        "task-specific-memory": 34,
        "task-specific-memory-later": 40,
        "medical-sam-2-memory": 5120,
        "data-sets-with-both": 47,
        "generalists-lead": 24,
        "task-specific-lead": 23,
        "generalists-generalise": 0,
    }
    verdicts = {outcome.statement.id: outcome.verdict for outcome in reproduce(base)}
    assert verdicts.pop("generalists-generalise") == "not testable from these data"
    assert set(verdicts.values()) == {"reproduced"}


@pytest.mark.parametrize(
    ("family", "claim"), [("generalist", "generalist-models"), ("task-specific", "task-specific-models")]
)
def test_a_model_less_changes_its_count_and_the_claim_fails(own, family, claim):
    gone = own.rows("select id from survey_models where family = ? order by id limit 1", [family])[0]["id"]
    before = {o.statement.id: o for o in reproduce(own)}[claim]
    own.rows("delete from models where id = ?", [gone])
    after = {o.statement.id: o for o in reproduce(own)}[claim]
    assert (before.verdict, after.verdict) == ("reproduced", "not reproduced")
    assert after.found == before.found - 1


def test_without_medical_sam_2_its_memory_is_not_reproduced(own):
    own.rows("delete from models where id = 'medical-sam-2'")
    found = {o.statement.id: o for o in reproduce(own)}["medical-sam-2-memory"]
    assert (found.found, found.verdict) == (None, "not reproduced")


def test_an_unseen_figure_would_make_the_last_claim_testable(own):
    own.rows("update results set setting = 'zero-shot' where survey_table = 'primary' and model_id = 'sammed'")
    found = {o.statement.id: o for o in reproduce(own)}["generalists-generalise"]
    assert found.found > 0
    assert found.verdict == "not reproduced"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"source": ""}, "statement[1].source is missing"),
        ({"source": "  "}, "statement[1].source is missing"),
        ({"expected": 2000}, "expected: 2000 is not within 0 to 1000 models"),
        ({"expected": "48"}, "'48' came, expected a number"),
        ({"relation": "<"}, 'relation: "<" came, expected = or >='),
        ({"filter": "x"}, "filter: no such field"),
    ],
)
def test_a_wrong_claim_is_refused(tmp_path, change, words):
    row = {
        "id": "a",
        "says": "48",
        "source": "arXiv:1",
        "expected": 48,
        "unit": "models",
        "low": 0,
        "high": 1000,
        "sql": "x",
    }
    with pytest.raises(FileError) as error:
        statements.read(toml(tmp_path / "claims.toml", "statement", **(row | change)))
    assert words in str(error.value)


def test_a_claim_whose_filter_answers_no_number_is_refused(base):
    said = Statement(id="a", says="a", source="a", expected=1, unit="a", low=0, high=9, sql="select id from models")
    with pytest.raises(FileError, match="expected one number"):
        reproduce(base, (said,))
    with pytest.raises(FileError, match="a: sql: "):
        reproduce(base, (Statement(**(vars(said) | {"sql": "select nothing from nowhere"})),))
    for sql in ("select date '2020-01-01'", "select [1, 2]", "select true"):
        with pytest.raises(FileError, match=r"1 rows of 1 columns came, .* expected one number"):
            reproduce(base, (Statement(**(vars(said) | {"sql": sql})),))
    with pytest.raises(FileError, match="several statements came"):
        reproduce(base, (Statement(**(vars(said) | {"sql": "select 1; drop table models"})),))
    assert reproduce(base, (Statement(**(vars(said) | {"sql": "select 1.0::decimal(9, 2)"})),))[0].found == 1


def test_claims_can_reach_no_file(base, tmp_path):
    (tmp_path / "secret.csv").write_text("a\n1\n")
    said = Statement(id="a", says="a", source="a", expected=1, unit="a", low=0, high=9, sql="")
    with pytest.raises(FileError, match="a: sql: "):
        reproduce(base, (Statement(**(vars(said) | {"sql": f"select a from '{tmp_path}/secret.csv'"})),))


def test_rows_of_ones_own_join_the_base(tmp_path):
    base = open_base([toml(tmp_path / "mine.toml", **RESULT | {"value": 0.4321, "prompt": "7 clicks"})])
    rows = ask(base, "results", Filters(model="SAM", dataset="btcv", organ=("liver",), prompt="point")).rows
    assert 0.4321 in [row["value"] for row in rows]
    assert {row["structure"] for row in rows} == {"liver"}


def test_a_structure_has_its_common_name_or_that_of_a_data_set_of_ones_own(tmp_path):
    base = open_base([toml(tmp_path / "mine.toml", **RESULT | {"structure": "L kidney", "value": 0.4321})])
    assert 0.4321 in [row["value"] for row in ask(base, "results", Filters(organ=("left kidney",))).rows]
    place = tmp_path / "own.toml"
    toml(place, **RESULT | {"dataset_id": "mine", "target": "fibrous blob"})
    own = '[[dataset]]\nid = "mine"\nname = "Mine"\nsource = "me"\nstructures = "liver;fibrous blob"\n\n'
    place.write_text(own + place.read_text())
    assert "mine" in [row["dataset_id"] for row in open_base([place]).rows("select dataset_id from results")]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"source": ""}, "result[1]: source is missing: a figure without a source is none"),
        ({"source": " "}, "result[1]: source is missing: a figure without a source is none"),
        ({"value": math.inf, "metric": "HD95", "unit": "mm"}, "value: inf came, expected a number from 0"),
        ({"reported_by": ""}, "reported_by is missing"),
        ({"value": 45.2}, "value: 45.2 came, expected 0 to 1 for DSC; a fraction, not per cent"),
        ({"value": "high"}, "value: 'high' came, expected a number from 0"),
        ({"metric": "HD95"}, 'unit: "fraction" came, expected mm for HD95'),
        ({"metric": "Dice"}, 'metric: "Dice" came, expected one of DSC'),
        ({"promt": "box"}, 'promt: no such column; did you mean "prompt"?'),
        ({"model_id": "medsma"}, 'model_id: "medsma" is not in the base'),
        ({"dataset_id": "mine"}, 'dataset_id: "mine" is not in the base; add it as [[dataset]]'),
        ({"target": "livr"}, 'target: "livr" is no structure that Segwise knows; did you mean liver'),
        ({"n": -1}, "n: -1 came, expected a whole number from 1"),
    ],
)
def test_a_wrong_row_is_refused_in_one_message(tmp_path, change, words):
    with pytest.raises(FileError) as error:
        open_base([toml(tmp_path / "mine.toml", **(RESULT | change))])
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_figure_enters_once(tmp_path):
    mine = toml(tmp_path / "mine.toml", **RESULT)
    with pytest.raises(FileError, match=r"mine.toml: result\[1\]: sam on btcv, liver, DSC from .* is there already"):
        open_base([mine, mine])
    other = toml(tmp_path / "other.toml", **RESULT | {"setting": "another fold"})
    assert open_base([mine, other]).rows("select 1 from results where reported_by = ?", [RESULT["reported_by"]])


def test_files_that_are_no_figures_are_refused(tmp_path):
    (tmp_path / "empty.toml").write_text("")
    with pytest.raises(FileError, match=r"empty.toml: holds no row; expected \[\[result\]\]"):
        open_base([tmp_path / "empty.toml"])
    with pytest.raises(FileError, match="cannot be read"):
        open_base([tmp_path / "nowhere.toml"])
    (tmp_path / "bad.toml").write_text("[[result")
    with pytest.raises(FileError, match="not TOML"):
        open_base([tmp_path / "bad.toml"])
    with pytest.raises(FileError, match=r"figure: no such table; there are \[\[model\]\]"):
        open_base([toml(tmp_path / "kind.toml", "figure", value=1)])
    with pytest.raises(FileError, match='id: "sam" is in the base already'):
        again = {"id": "sam", "name": "SAM", "family": "generalist", "source": "me"}
        open_base([toml(tmp_path / "again.toml", "model", **again)])


def test_generalists_are_the_surveys_48(base):
    assert len(ask(base, "models", Filters(family="generalist")).rows) == 48
    assert len(ask(base, "models", Filters(family="task-specific")).rows) == 24
    assert len(ask(base, "models", Filters(), whole=True).rows) == 119


@pytest.mark.parametrize("table", ["models", "datasets", "results", "compute"])
@pytest.mark.parametrize(
    "wanted",
    [
        {"family": "generalist"},
        {"fusion": "f1"},
        {"adaptation": "lora"},
        {"dims": "2D"},
        {"prompt": "point"},
        {"organ": ("liver",)},
        {"region": "brain"},
        {"dataset": "MSD Spleen"},
        {"metric": "hd95"},
        {"year": "2024-2025"},
        {"reported_by": "touchstone"},
        {"model": "nnu-net"},
    ],
    ids=lambda wanted: next(iter(wanted)),
)
def test_every_filter_takes_rows_away_from_every_table_and_leaves_some(base, table, wanted):
    everything = len(ask(base, table, Filters(), whole=True).rows)
    assert 0 < len(ask(base, table, Filters(**wanted), whole=True).rows) < everything


def test_filters_keep_what_they_say(base):
    rows = ask(base, "results", Filters(family="generalist", organ=("spleen",), year="2023-2024", metric="dsc")).rows
    assert {row["family"] for row in rows} == {"generalist"}
    assert {row["structure"] for row in rows} == {"spleen"}
    assert {row["year"] for row in rows} <= {2023, 2024}
    assert {row["metric"] for row in rows} == {"DSC"}
    models = ask(base, "models", Filters(dims="3D", prompt="text")).rows
    assert models
    assert all("3D" in row["dims"] and "text" in row["prompts"] for row in models)


def test_rows_are_sorted_as_asked_blanks_last(base):
    memory = [row["train_gpu_memory_gb"] for row in ask(base, "models", Filters(), sort="-train_gpu_memory_gb").rows]
    known = [value for value in memory if value is not None]
    assert memory[: len(known)] == sorted(known, reverse=True)
    assert len(known) < len(memory)


@pytest.mark.parametrize(
    ("wanted", "sort", "words"),
    [
        ({"dataset": "btvc"}, "", '--dataset "btvc": nothing in the evidence has it; did you mean "BTCV"'),
        ({"organ": ("lver",)}, "", 'did you mean "liver"'),
        ({"family": "both"}, "", "there are generalist, task-specific"),
        ({"year": "soon"}, "", "expected a year or a span"),
        ({"year": "2025-2020"}, "", "expected a year or a span"),
        ({"reported_by": "nobody"}, "", '--reported-by "nobody"'),
        ({}, "valeu", '--sort "valeu": nothing in the evidence has it; did you mean "value"'),
    ],
)
def test_unknown_values_are_named_with_what_is_near(base, wanted, sort, words):
    with pytest.raises(SpecError) as error:
        ask(base, "results", Filters(**wanted), sort=sort)
    assert words in str(error.value)


def test_names_find_ids(base):
    assert find(base, "dataset", "LiTS / MSD liver") == "lits-msd-liver"
    assert find(base, "model", "Medical SAM 2 (MedSAM-2)") == "medical-sam-2"
    with pytest.raises(SpecError, match='--model "medical-sam2x"'):
        find(base, "model", "medical-sam2x")


def test_the_surveys_authors_come_first_and_each_work_once(base):
    cited = works(ask(base, "results", Filters(dataset="acdc")).rows)
    assert cited[0].id == "arXiv:2506.10825"
    assert "Moglia, Andrea" in cited[0].bibtex()
    assert len({work.id for work in cited}) == len(cited)
    assert len({work.key for work in cited}) == len(cited)
    by_id = {work.id: work for work in cited}
    assert by_id["arXiv:2404.09556"].address == "https://arxiv.org/abs/2404.09556"
    assert "eprint = {2404.09556}" in by_id["arXiv:2404.09556"].bibtex()


def test_a_figure_without_the_survey_credits_its_own_source_only(base):
    rows = ask(base, "results", Filters(dataset="sam-med3d-evaluation")).rows
    cited = works(rows)
    assert "arXiv:2506.10825" not in {work.id for work in cited}
    assert any(work.address == "https://github.com/uni-medical/SAM-Med3D" for work in cited)
