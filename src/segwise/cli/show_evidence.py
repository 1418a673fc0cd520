"""How published figures are printed: tables for people, csv and json with every column, citations."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from segwise.cli import show as screen
from segwise.errors import SpecError

if TYPE_CHECKING:
    from segwise.evidence.compare import Beside, Group
    from segwise.evidence.query import Answer, Filters
    from segwise.evidence.statements import Outcome

FORMATS = ("table", "csv", "json")
CITED = ("", "text", "bibtex")
_PIPED_WIDTH = 10_000  # columns
_HEADS = {"train_gpu_memory_gb": "training GB", "params_millions": "M params", "gpu_memory_gb": "GB"}
_COMPARED = (
    "group",
    "rank",
    "model",
    "variant",
    "family",
    "value",
    "prompt",
    "split",
    "setting",
    "reported_by",
    "source",
)


def check(format: str, cite: str) -> None:
    """Refuse what cannot be printed, before anything is read.

    Raises:
        SpecError: an unknown format or way to cite.
    """
    if format not in FORMATS:
        raise SpecError(f'--format "{format}": expected {", ".join(FORMATS)}')
    if cite not in CITED:
        raise SpecError(f'--cite "{cite}": expected text or bibtex')


def listed(table: str, found: Answer, wanted: Filters, *, format: str, cite: str) -> None:
    """Rows of a table of the base, or whom to cite for them."""
    from segwise.evidence.query import SHOWN, told

    if cite:
        _cited(found.rows, cite)
        return
    if format != "table":
        _data(found.rows, format, found.columns)
        return
    columns = SHOWN[table].split()
    if found.rows:
        _table(columns, found.rows)
    given = ", ".join(f"{name} {value}" for name, value in told(wanted).items())
    screen.note(f"{len(found.rows)} of {found.n_all} {table}{f': {given}' if given else ''}")
    if not found.rows:
        one = len(told(wanted)) == 1
        screen.note("no row passes this filter" if one else "none passes all filters; leave one out, or see each alone")
    _credit()


def comparison(found: Beside, *, format: str, cite: str) -> None:
    """Figures in groups, and what keeps the groups apart."""
    from segwise.evidence import compare

    rows = compare.rows(found)
    if cite:
        _cited([row for row in rows if not row["measured"]], cite)
    elif format == "csv":
        _data(rows, format, tuple(rows[0]))
    elif format == "json":
        apart = {compare.letter(n): dict(how) for n, how in enumerate(found.differs, start=1)}
        screen.data({"rows": rows, "differs_from_A": apart})
    else:
        _table(_COMPARED, rows)
        for line in _apart(found):
            print(line)
        _credit()


def reproduced(found: Sequence[Outcome], *, format: str) -> None:
    """Claims with the number that came out and the filter it came by."""
    from segwise.evidence.base import SURVEY_MODELS

    rows = [{**vars(o.statement), "found": o.found, "verdict": o.verdict} for o in found]
    if format != "table":
        _data(rows, format, tuple(rows[0]) if rows else ())
        return
    for row in rows:
        relation = "" if row["relation"] == "=" else "at least "
        said = "" if row["untestable"] else f", said: {relation}{_number(float(row['expected']))}"
        print(f"{row['says']}")
        print(f"  {row['verdict']}: {_number(row['found']) or 'no'} {row['unit']}{said}")
        if row["untestable"]:
            print(f"  why: {' '.join(row['untestable'].split())}")
        if row["reading"]:
            print(f"  our reading: {row['reading']}")
        print(f"  filter: {' '.join(row['sql'].split())}")
        print(f"  source: {row['source']}\n")
    print(f"survey_models: {SURVEY_MODELS}")
    print(
        "survey_datasets: the 55 data sets of the survey's database; survey_results: its figures; survey_best: its best"
    )
    print("mean DSC of a model on a data set")


def _own(group: Group) -> str:
    """What ranks of a run's own figures mean."""
    if any(group.ranks):
        return "a rank counts the rows that are better beyond chance over the subjects; equal ranks are not told apart"
    n = group.figures[0].n
    return f"in order of the means; {n} subject{'s' * (n != 1)} cannot decide any difference, so no row has a rank"


def _apart(found: Beside) -> Iterable[str]:
    from segwise.evidence.compare import letter

    for number, group in enumerate(found.groups):
        if len(group.figures) > 1 and group.figures[0].measured and not group.figures[0].doubt:
            yield f"{letter(number)}: " + _own(group)
    if len(found.groups) == 1:
        yield "all rows are comparable" if len(found.groups[0].figures) > 1 else "one row, nothing to rank it against"
        return
    yield "Only rows of one group are ranked against each other. What sets a group apart from A:"
    alike: dict[str, list[str]] = {}
    for number, how in enumerate(found.differs, start=1):
        words = "; ".join(f"{aspect} ({words})" for aspect, words in how.items())
        alike.setdefault(words, []).append(letter(number))
    for words, letters in alike.items():
        yield f"  {', '.join(letters)}: {words}"


def _cited(rows: Sequence[Mapping[str, Any]], cite: str) -> None:
    from segwise.evidence.cite import works

    for work in works(rows):
        print(work.bibtex() if cite == "bibtex" else work.text())


def _credit() -> None:
    from segwise.evidence.cite import CREDIT

    screen.note(f"credit: {CREDIT}; --cite text or --cite bibtex lists them")


def _data(rows: Sequence[Mapping[str, Any]], format: str, columns: Sequence[str]) -> None:
    if format == "json":
        screen.data(list(rows))
        return
    writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    shown = [column for column in columns if any(row[column] not in (None, "") for row in rows)]
    sources = {text: f"[{number}]" for number, text in enumerate(dict.fromkeys(row["source"] for row in rows), start=1)}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in shown:
        side: Literal["left", "right"] = "right" if _numeric(column, rows) else "left"
        table.add_column(_HEADS.get(column, column.replace("_", " ")), overflow="fold", justify=side)
    for row in rows:
        cells = {**row, "source": sources[row["source"]]}
        table.add_row(*(escape(_number(cells[column])) for column in shown))
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_PIPED_WIDTH)
    console.print(table)
    for text, mark in sources.items():
        print(f"{mark} {text}")


def _numeric(column: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    return all(isinstance(row[column], int | float | None) for row in rows) and column != "year"


def _number(value: Any) -> str:
    """A cell: numbers as short as they are exact, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}".rstrip("0").rstrip(".") if abs(value) < 10 else f"{value:,.6g}"
    return str(value)
