"""What a row of the base holds: columns with type, unit and range; what is missing or impossible is said in a sentence.

Four tables: `models`, `datasets`, `results` (a row is one published figure) and `compute` (parameters, FLOPs, memory,
hours). Every row has a source. Blank means not found, never zero.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from segwise.errors import FileError

Row = Mapping[str, Any]
SQL = {"text": "VARCHAR", "int": "BIGINT", "number": "DOUBLE", "flag": "BOOLEAN"}
FAMILIES = ("generalist", "task-specific")
LEVELS = ("F0", "F1", "F2", "F3", "F4", "none")


_PROMPTS = {"point": "point", "click": "point", "box": "box", "text": "text", "example": "examples", "none": "none"}


def prompt_kind(prompt: str | None) -> str | None:
    """The kind of a prompt as stated: "2 clicks" is "point", "text (Grounding DINO box)" is "text"; None if unknown."""
    found = {prompt.find(word): kind for word, kind in _PROMPTS.items() if word in prompt} if prompt else {}
    return found[min(found)] if found else None


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        name: its name, with the unit as suffix where there is one.
        kind: "text", "int", "number" or "flag".
        needed: a row without it is refused.
        allowed: the only values, or () for any.
        low, high: range of a number, both included.
    """

    name: str
    kind: str = "text"
    needed: bool = False
    allowed: tuple[str, ...] = ()
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True)
class Metric:
    """A metric that figures may have.

    Attributes:
        units: those that a row may state.
        high: greatest value; the least is 0.
        higher_is_better: the direction.
    """

    units: tuple[str, ...]
    high: float
    higher_is_better: bool


METRICS = {
    "DSC": Metric(("fraction",), 1.0, True),
    "IoU": Metric(("fraction",), 1.0, True),
    "NSD": Metric(("fraction",), 1.0, True),
    "HD95": Metric(("mm",), 1000.0, False),
    "HD": Metric(("mm", "not stated"), 1000.0, False),
    "ASSD": Metric(("mm",), 1000.0, False),
}


def _texts(names: str) -> tuple[Column, ...]:
    return tuple(Column(name) for name in names.split())


_SOURCE = Column("source", needed=True)
_MODELS = (
    Column("id", needed=True),
    Column("name", needed=True),
    Column("family", needed=True, allowed=FAMILIES),
    Column("year", "int", low=1990, high=2100),
    Column("base"),
    Column("fusion_level", allowed=LEVELS),
    *_texts("adaptation dims prompts"),
    Column("params_millions", "number", low=0),
    Column("train_gpu_memory_gb", "number", low=0),
    *_texts("train_hardware paper code weights license"),
    _SOURCE,
    Column("kind", allowed=("model", "study")),
    *_texts("architecture visual_backbone"),
    Column("gflops", "number", low=0),
    *_texts("published_version weights_license"),
    Column("in_survey", allowed=("db", "readme", "db+readme", "no")),
    Column("hidden_in_survey_app", allowed=("yes", "no")),
    Column("note"),
)
_DATASETS = (
    Column("id", needed=True),
    Column("name", needed=True),
    *_texts("anatomy_region modality"),
    Column("n_cases", "int", low=0),
    Column("n_classes", "int", low=0),
    *_texts("task access license homepage labels used_in_seed"),
    _SOURCE,
    *_texts("full_name body_region"),
    Column("n_labelled", "int", low=0),
    *_texts("sub_datasets doi_or_paper note structures"),
)
_RESULTS = (
    Column("model_id", needed=True),
    Column("dataset_id", needed=True),
    Column("target", needed=True),
    Column("structure"),
    Column("metric", needed=True, allowed=tuple(METRICS)),
    Column("value", "number", needed=True, low=0),
    Column("unit", needed=True),
    *_texts("setting prompt prompt_kind split edition definition"),
    Column("reported_by", needed=True),
    _SOURCE,
    *_texts("printed_in variant"),
    Column("n", "int", low=1),
    *_texts("value_as_printed survey_table survey_best note"),
)
_COMPUTE = (
    Column("model_id", needed=True),
    *_texts("variant"),
    Column("what", needed=True),
    Column("params_millions", "number", low=0),
    Column("gflops", "number", low=0),
    Column("gpu_memory_gb", "number", low=0),
    Column("hours", "number", low=0),
    Column("hardware"),
    _SOURCE,
)
TABLES: dict[str, tuple[Column, ...]] = {
    "models": _MODELS,
    "datasets": _DATASETS,
    "results": _RESULTS,
    "compute": _COMPUTE,
}


def checked(table: str, row: Row, where: str) -> dict[str, Any]:
    """The row with every column of its table, None where it says nothing.

    Args:
        table: one of `TABLES`.
        row: column -> value; None and "" are blank.
        where: begins the message: the file and the number of the row.

    Raises:
        FileError: a column that is not known, one that is missing (a source above all), or a value of another type or
            outside its range; for a result also a unit that is not the metric's.
    """
    columns = {column.name: column for column in TABLES[table]}
    for name in row:
        if name not in columns:
            close = difflib.get_close_matches(name, columns, n=1)
            hint = f'did you mean "{close[0]}"?' if close else f"there are {', '.join(columns)}"
            raise FileError(f"{where}: {name}: no such column; {hint}")
    found = {name: _value(row.get(name), column, f"{where}: {name}") for name, column in columns.items()}
    if table == "results":
        _measured_right(found, where)
    return found


def _value(value: Any, column: Column, where: str) -> Any:
    if value is None or (isinstance(value, str) and not value.strip()):
        if column.name == "source":
            raise FileError(
                f"{where} is missing: a figure without a source is none; give the paper, page or file it is from"
            )
        if column.needed:
            raise FileError(f"{where} is missing; expected {_expected(column)}")
        return None
    right = {"text": str, "int": int, "number": int | float, "flag": bool}[column.kind]
    if not isinstance(value, right) or (isinstance(value, bool) and column.kind != "flag"):
        raise FileError(f"{where}: {value!r} came, expected {_expected(column)}")
    if column.allowed and value not in column.allowed:
        raise FileError(f'{where}: "{value}" came, expected {_expected(column)}')
    if isinstance(value, int | float) and not (math.isfinite(value) and column.low <= value <= column.high):
        raise FileError(f"{where}: {value} came, expected {_expected(column)}")
    return float(value) if column.kind == "number" else value


def _expected(column: Column) -> str:
    if column.allowed:
        return f"one of {', '.join(column.allowed)}"
    words = {"text": "text", "int": "a whole number", "number": "a number", "flag": "true or false"}[column.kind]
    if column.low == -math.inf:
        return words
    return f"{words} from {column.low:g}" + ("" if column.high == math.inf else f" to {column.high:g}")


def _measured_right(row: Row, where: str) -> None:
    metric = METRICS[row["metric"]]
    if row["unit"] not in metric.units:
        raise FileError(
            f'{where}: unit: "{row["unit"]}" came, expected {" or ".join(metric.units)} for {row["metric"]}'
        )
    if row["value"] > metric.high:
        percent = "; a fraction, not per cent" if metric.high == 1.0 else ""
        raise FileError(
            f"{where}: value: {row['value']:g} came, expected 0 to {metric.high:g} for {row['metric']}{percent}"
        )


def all_checked(table: str, rows: Iterable[Row], where: str) -> list[dict[str, Any]]:
    """Many rows, numbered from 1 in the messages."""
    return [checked(table, row, f"{where}[{number}]") for number, row in enumerate(rows, start=1)]
