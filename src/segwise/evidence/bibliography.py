"""Titles, authors and places of papers that the base names by an identifier alone: `works.toml`, read once."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Paper:
    """What is known of a paper.

    Attributes:
        ids: its identifiers, as in `cite.Work`; one entry serves the preprint and what was printed of it.
        title, author: in full; authors as BibTeX has them, "and others" where no more are known.
        year: of the printed one, else of the preprint.
        journal, booktitle: where it was printed, at most one; "" if nowhere.
        volume, number, pages: there, "" if not known.
        datasets: ids of data sets that state no paper and are cited by this one.
        checked: in what all that was found: "authors" (their own BibTeX) or "lists" (references of others).
    """

    ids: tuple[str, ...]
    title: str
    author: str
    year: int
    journal: str = ""
    booktitle: str = ""
    volume: str = ""
    number: str = ""
    pages: str = ""
    datasets: tuple[str, ...] = ()
    checked: str = ""

    @property
    def kind(self) -> str:
        """Of BibTeX entry."""
        return "article" if self.journal else "inproceedings" if self.booktitle else "misc"

    @property
    def fields(self) -> dict[str, str]:
        """What an entry says beside title and identifier."""
        names = ("author", "year", "journal", "booktitle", "volume", "number", "pages")
        return {name: str(value) for name in names if (value := getattr(self, name))}

    @property
    def short(self) -> str:
        """ "Kirillov et al. 2023"."""
        first, *more = self.author.split(" and ")
        both = len(more) == 1 and more[0] != "others"
        rest = f" and {_family(more[0])}" if both else " et al." if more else ""
        return f"{_family(first)}{rest} {self.year}"


def _family(name: str) -> str:
    return name.partition(",")[0]


@functools.cache
def papers() -> Mapping[str, Paper]:
    """Identifier -> what is known of it."""
    return {id: paper for paper in _all() for id in paper.ids}


@functools.cache
def of_datasets() -> Mapping[str, str]:
    """Id of a data set without a paper of its own -> the identifier it is cited by."""
    return {dataset: paper.ids[0] for paper in _all() for dataset in paper.datasets}


@functools.cache
def _all() -> tuple[Paper, ...]:
    text = (resources.files(__package__) / "works.toml").read_text(encoding="utf-8")
    rows: list[dict[str, Any]] = tomllib.loads(text)["work"]
    return tuple(Paper(**{**row, **{name: tuple(row.get(name, ())) for name in ("ids", "datasets")}}) for row in rows)
