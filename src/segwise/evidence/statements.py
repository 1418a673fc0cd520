"""The survey's own claims asked of its own base: what it says, what comes out, and by which filter.

A claim is one `[[statement]]` of `statements.toml`. The answer is computed each time; nothing is stored with it.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any

import duckdb

from segwise.errors import FileError
from segwise.evidence.base import Base

RELATIONS = ("=", ">=")


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A claim about the base.

    Attributes:
        id: short name. says: the claim in words.
        source: who says so.
        expected: the number claimed; relation: "=" or ">=", how the base's must stand to it.
        unit: of both numbers; low, high: the range that they can have.
        sql: the filter; answers one number.
        reading: the rule behind the filter where it is ours and not the survey's.
        untestable: why no filter can answer; then `sql` counts what an answer would need.
    """

    id: str
    says: str
    source: str
    expected: float
    unit: str
    low: float
    high: float
    sql: str
    relation: str = "="
    reading: str = ""
    untestable: str = ""


@dataclass(frozen=True)
class Outcome:
    """A claim with the number that the base gives for it, None if it gives none."""

    statement: Statement
    found: float | None

    @property
    def verdict(self) -> str:
        """ "reproduced", "not reproduced" or "not testable from these data"."""
        said, found = self.statement, self.found
        if said.untestable and found == said.expected:
            return "not testable from these data"
        if said.untestable or found is None:
            return "not reproduced"
        holds = found >= said.expected if said.relation == ">=" else math.isclose(found, said.expected)
        return "reproduced" if holds else "not reproduced"


def reproduce(base: Base, statements: tuple[Statement, ...] | None = None) -> list[Outcome]:
    """Every claim, recomputed.

    Raises:
        FileError: a filter that the base cannot answer with one number.
    """
    return [Outcome(one, _asked(base, one)) for one in (read() if statements is None else statements)]


def read(path: Path | None = None) -> tuple[Statement, ...]:
    """The claims of a file; default: those that ship.

    Raises:
        FileError: it cannot be read, or a claim lacks a field, has one that is not known, a wrong type, a number out of
            its range, no source, or an id that came before.
    """
    name = "statements.toml" if path is None else str(path)
    place = resources.files(__package__) / name if path is None else path
    try:
        content = tomllib.loads(place.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise FileError(f"{name}: cannot be read ({error}); expected [[statement]] entries in TOML") from error
    rows = content.get("statement", [])
    if set(content) != {"statement"} or not isinstance(rows, list):
        raise FileError(
            f"{name}: expected [[statement]] entries and nothing else, got {', '.join(content) or 'nothing'}"
        )
    found = [_statement(row, f"{name}: statement[{number}]") for number, row in enumerate(rows, start=1)]
    ids = [one.id for one in found]
    if twice := [id for id in ids if ids.count(id) > 1]:
        raise FileError(f'{name}: id "{twice[0]}" came twice, expected once')
    return tuple(found)


def _statement(row: Mapping[str, Any], where: str) -> Statement:
    kinds = {field.name: str(field.type) for field in fields(Statement)}
    for name, value in row.items():
        if name not in kinds:
            raise FileError(f"{where}.{name}: no such field; there are {', '.join(kinds)}")
        wanted = int | float if kinds[name] == "float" else str
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise FileError(f"{where}.{name}: {value!r} came, expected {'a number' if wanted is not str else 'text'}")
    needed = [name for name in kinds if name not in ("relation", "reading", "untestable")]
    for name in needed:
        if not str(row.get(name, "")).strip():
            raise FileError(f"{where}.{name} is missing; a claim needs {', '.join(needed)}")
    said = Statement(**row)
    if said.relation not in RELATIONS:
        raise FileError(f'{where}.relation: "{said.relation}" came, expected {" or ".join(RELATIONS)}')
    if not said.low <= said.expected <= said.high:
        raise FileError(f"{where}.expected: {said.expected:g} is not within {said.low:g} to {said.high:g} {said.unit}")
    return said


def _asked(base: Base, said: Statement) -> float | None:
    try:
        if len(base.connection.extract_statements(said.sql)) != 1:
            raise FileError(f"{said.id}: sql: several statements came, expected one SELECT")
        rows = base.rows(said.sql)
    except duckdb.Error as error:
        raise FileError(f"{said.id}: sql: {str(error).splitlines()[0]}") from error
    if not rows:
        return None
    values = list(rows[0].values())
    right = None | int | float | Decimal
    if len(rows) != 1 or len(values) != 1 or isinstance(values[0], bool) or not isinstance(values[0], right):
        kind = f", {type(values[0]).__name__}" if len(rows) == len(values) == 1 else ""
        raise FileError(f"{said.id}: sql: {len(rows)} rows of {len(values)} columns came{kind}, expected one number")
    return None if values[0] is None else float(values[0])
