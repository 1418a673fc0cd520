"""The base asked with filters: which models, data sets, results or costs; every filter works on every table.

A filter that speaks of models (family, year ...) keeps the data sets on which such models have a figure, and one that
speaks of figures (organ, metric ...) keeps the models and costs of those that have one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from segwise.errors import SpecError
from segwise.evidence.base import SURVEY_MODELS, Base

SHOWN = {  # what a table for people has; csv and json have every column
    "models": "id name family year fusion_level adaptation dims prompts params_millions "
    "train_gpu_memory_gb paper source",
    "datasets": "id name anatomy_region modality n_cases n_classes access license source",
    "results": "model family year dataset target metric value unit prompt setting variant reported_by source",
    "compute": "model variant what params_millions gflops gpu_memory_gb hours hardware source",
}
VIEW = {"models": "models", "datasets": "datasets", "results": "figures", "compute": "costs"}
ORDER = {
    "models": "family, year, name",
    "datasets": "name",
    "results": "dataset, target, metric, family, model, variant",
    "compute": "model, what, variant",
}


@dataclass(frozen=True, kw_only=True)
class Filters:
    """What rows are wanted; "" or () is no filter.

    Attributes:
        family: generalist or task-specific.
        fusion: F0 to F4, or none.
        adaptation: words of it: "adapters", "LoRA".
        dims: 2D or 3D; 2D+3D is both.
        prompt: its kind (point, box, text, none) or as stated ("1 point").
        organ: common names of one structure, its sides among them.
        region: a main structure of the survey.
        dataset, model: id or name.
        metric: DSC, NSD, HD95, HD.
        year: of the model, "2024" or "2020-2024".
        reported_by: "primary", or words of the paper that printed the figure.
    """

    family: str = ""
    fusion: str = ""
    adaptation: str = ""
    dims: str = ""
    prompt: str = ""
    organ: tuple[str, ...] = ()
    region: str = ""
    dataset: str = ""
    model: str = ""
    metric: str = ""
    year: str = ""
    reported_by: str = ""

    @property
    def given(self) -> dict[str, Any]:
        """Those that say something, by name."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name))}


class Condition(NamedTuple):
    """A filter as SQL on the views `models` or `figures`; `level` is which of the two."""

    level: str
    sql: str
    values: tuple[Any, ...]


class Answer(NamedTuple):
    """What came: rows with all columns, how many the table has without any filter, and the columns' names."""

    rows: list[dict[str, Any]]
    n_all: int
    columns: tuple[str, ...]


class _Kind(NamedTuple):
    level: str  # "models" or "figures"
    columns: tuple[str, ...]  # any of them may match
    how: str  # "is": the same letters; "part": one of several by ; + or /; "words": found within


_KINDS = {
    "family": _Kind("models", ("family",), "is"),
    "fusion": _Kind("models", ("fusion_level",), "is"),
    "adaptation": _Kind("models", ("adaptation",), "words"),
    "dims": _Kind("models", ("dims",), "part"),
    "model": _Kind("models", ("id", "name"), "is"),
    "prompt": _Kind("figures", ("prompt_kind", "prompt"), "is"),
    "organ": _Kind("figures", ("structure",), "is"),
    "region": _Kind("figures", ("anatomy_region",), "part"),
    "dataset": _Kind("figures", ("dataset_id", "dataset"), "is"),
    "metric": _Kind("figures", ("metric",), "is"),
    "reported_by": _Kind("figures", ("reported_by",), "words"),
}
_NAMES = "select id, name, full_name from datasets"
_OWN = {"id": "model_id", "name": "model"}  # columns of `models` as they are called in `figures` and `costs`


def ask(base: Base, table: str, wanted: Filters, *, sort: str = "", whole: bool = False) -> Answer:
    """The rows of a table that pass all filters.

    Args:
        base: an open one.
        table: "models", "datasets", "results" or "compute".
        wanted: filters.
        sort: a column, "-" before it for the greatest first; blanks come last. "": as the table is best read.
        whole: models beside those that the survey counts, too: hidden ones, later ones, studies, and ours.

    Raises:
        SpecError: a value that no row has, or a column that is none; names the nearest.
    """
    conditions = [_condition(base, table, name, value) for name, value in wanted.given.items()]
    clauses, values = _clauses(table, conditions)
    if table == "models" and not whole and not wanted.model:
        clauses.append(SURVEY_MODELS)
    where = f" where {' and '.join(clauses)}" if clauses else ""
    view = VIEW[table]
    n_all = base.rows(f"select count(*) as n from {view}")[0]["n"]
    order = _order(base, table, sort)
    rows = base.rows(f"select * from {view}{where} order by {order}", values)
    return Answer(rows, n_all, _columns(base, table))


def find(base: Base, name: str, value: str) -> str:
    """The id of a "model" or "dataset" by id or name.

    Raises:
        SpecError: none has it.
    """
    table = f"{name}s"
    known = base.rows(f"select id, name from {table}")
    found = [row["id"] for row in known if _same(value) in (_same(row["id"]), _same(row["name"]))]
    if not found:
        raise _unknown(name, value, [word for row in known for word in (row["id"], row["name"])])
    return str(found[0])


def known_as(base: Base, name: str) -> str | None:
    """The id of the data set that a folder or a reader calls so, or None: "BTCV", "Task09_Spleen", "LiTS"."""
    rows = base.rows(f"{_NAMES} order by id")
    return next((str(row["id"]) for row in rows if _called(row, name)), None)


def is_known_as(base: Base, id: str, name: str) -> bool:
    """Whether a folder or a reader that says `name` may mean the data set with this id."""
    return any(_called(row, name) for row in base.rows(f"{_NAMES} where id = ?", [id]))


def _called(row: Mapping[str, Any], name: str) -> bool:
    asked = {_same(name), _same("msd-" + re.sub(r"^Task\d+_", "", name))}
    words = (row["id"], row["name"], row["full_name"] or "", *row["name"].split("/"))
    return bool(asked & {_same(word) for word in words if word})


def _condition(base: Base, table: str, name: str, value: Any) -> Condition:
    if name == "year":
        low, high = _years(value)
        return Condition("models", "year between ? and ?", (low, high))
    if name == "organ" and table == "datasets":
        return _labelled(base, value)
    kind = _KINDS[name]
    level = "datasets" if table == "datasets" and name in ("region", "dataset") else kind.level
    columns = ("id", "name") if level == "datasets" and name == "dataset" else kind.columns
    if table == "models" and name == "prompt":
        level, columns, kind = "models", ("prompts",), kind._replace(how="part")
    asked = value if isinstance(value, tuple) else (value,)
    parts: list[str] = []
    values: list[Any] = []
    known: list[str] = []
    for column in columns:
        there = base.values(level, column)
        known += there
        fitting = [word for word in there if any(_fits(word, one, kind.how) for one in asked)]
        if fitting:
            parts.append(f'"{column}" in ({", ".join("?" * len(fitting))})')
            values += fitting
    if not parts:
        raise _unknown(name, asked[0], known)
    return Condition(level, f"({' or '.join(parts)})", tuple(values))


def _labelled(base: Base, names: Sequence[str]) -> Condition:
    """Data sets that label a structure, whether or not a figure speaks of it."""
    known = [word for text in base.values("datasets", "structures") for word in text.split(";")]
    if not {_same(word) for word in known} & {_same(name) for name in names}:
        raise _unknown("organ", names[0], known)
    sql = "list_has_any(string_split(lower(structures), ';'), ?)"
    return Condition("datasets", sql, ([name.lower() for name in names],))


def _clauses(table: str, conditions: Sequence[Condition]) -> tuple[list[str], list[Any]]:
    """Conditions as they stand for a table: on its own rows, or through the figures that tie models and data sets."""
    own = {"models": "models", "datasets": "datasets"}.get(table)
    clauses: list[str] = []
    values: list[Any] = []
    through: list[Condition] = []
    for condition in conditions:
        direct = condition.level == own or (table in ("results", "compute") and condition.level == "models")
        if table == "results" or direct:
            clauses.append(condition.sql if own else _renamed(condition.sql))
            values += condition.values
        else:
            through.append(condition)
    if through:
        key = {"models": ("id", "model_id"), "compute": ("model_id", "model_id"), "datasets": ("id", "dataset_id")}[
            table
        ]
        inner = " and ".join(
            _renamed(condition.sql) if condition.level == "models" else condition.sql for condition in through
        )
        clauses.append(f"{key[0]} in (select {key[1]} from figures where {inner})")
        values += [value for condition in through for value in condition.values]
    return clauses, values


def _renamed(sql: str) -> str:
    for column, other in _OWN.items():
        sql = sql.replace(f'"{column}"', f'"{other}"')
    return sql


def _order(base: Base, table: str, sort: str) -> str:
    if not sort:
        return ORDER[table]
    name = sort.removeprefix("-")
    columns = _columns(base, table)
    if name not in columns:
        raise _unknown("sort", name, columns)
    return f'"{name}" {"desc" if sort.startswith("-") else "asc"} nulls last, {ORDER[table]}'


def _columns(base: Base, table: str) -> tuple[str, ...]:
    return tuple(row["column_name"] for row in base.rows(f"describe {VIEW[table]}"))


def _fits(word: str, asked: str, how: str) -> bool:
    if how == "words":
        return asked.lower() in word.lower()
    parts = re.split(r"[;+/]", word) if how == "part" else []
    return _same(asked) in {_same(part) for part in (word, *parts)}


def _same(text: str) -> str:
    """Letters and digits in lower case: "MSD Liver" is "msd-liver"."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _years(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{4})(?:-(\d{4}))?", text.strip())
    if not found or int(found[2] or found[1]) < int(found[1]):
        raise SpecError(f'--year "{text}": expected a year or a span, such as 2024 or 2020-2024')
    return int(found[1]), int(found[2] or found[1])


def _unknown(name: str, value: str, known: Sequence[str]) -> SpecError:
    option = "--" + name.replace("_", "-")
    words = list(dict.fromkeys(known))
    lower = {word.lower(): word for word in words}
    near = [lower[word] for word in difflib.get_close_matches(value.lower(), lower, n=3, cutoff=0.5)]
    if near:
        hint = "did you mean " + " or ".join(f'"{word}"' for word in near) + "?"
    elif len(words) <= 24:
        hint = f"there are {', '.join(words)}"
    else:
        hint = f"there are {len(words)}, such as {', '.join(words[:5])}"
    where = f" (segwise evidence {name}s lists all)" if name in ("dataset", "model") else ""
    return SpecError(f'{option} "{value}": nothing in the evidence has it; {hint}{where}')


def told(wanted: Filters) -> Mapping[str, str]:
    """The filters as a person gave them, for a line above a table."""
    return {
        name.replace("_", "-"): value[0] if isinstance(value, tuple) else value for name, value in wanted.given.items()
    }
