"""The data sets of a run: folders, what reads them, and names that tell them apart.

A data set without a name of its own is called as its folder. Folders that are called alike (siteA/data and siteB/data,
or single cases of one folder) would be taken for one, so they get as much of their path as tells them apart; the name
that they had stays a part of it, so that a model that was trained under it is still known to have seen them.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segwise.case import Case
from segwise.evaluate import inventory


@dataclass(frozen=True)
class Source:
    """A data set as found.

    Attributes:
        root: its folder, absolute.
        layout: the member that reads it.
        cases: its cases; nothing is read yet.
        name: what it is called here, where its cases call it otherwise; "".
    """

    root: Path
    layout: str
    cases: tuple[Case, ...]
    name: str = ""


def read_sources(roots: Sequence[Path | str], layout: str | None = None) -> list[Source]:
    """The data sets of some folders, in their order.

    Raises:
        DatasetError: one is of no known layout.
    """
    found = []
    for root in roots:
        way, cases = inventory.find(Path(root), layout)
        found.append(Source(Path(root).resolve(), way, tuple(cases)))
    alike: dict[str, set[Path]] = defaultdict(set)
    for source in found:
        if own := _after_folder(source):
            alike[own].add(source.root)
    told = {root: name for own, these in alike.items() if len(these) > 1 for root, name in _told(these).items()}
    return [_called(source, told.get(source.root, "")) for source in found]


def called(cases: Sequence[Case], name: str) -> tuple[Case, ...]:
    """Cases under another name of their data set; as they are for ""."""
    return tuple(dataclasses.replace(case, dataset=name) if name else case for case in cases)


def _called(source: Source, name: str) -> Source:
    return dataclasses.replace(source, cases=called(source.cases, name), name=name)


def _after_folder(source: Source) -> str:
    """The name of a data set that is called as its folder, or as the folder around its only case; "" of others."""
    (name, *others) = {case.dataset for case in source.cases}
    return name if not others and name in (source.root.name, source.root.parent.name) else ""


def _told(roots: set[Path]) -> dict[Path, str]:
    """The shortest end of each path that no other one has, of two parts at least."""
    for n in range(2, 1 + max(len(root.parts) for root in roots)):
        ends = {root: "/".join(root.parts[-n:]) for root in roots}
        if len(set(ends.values())) == len(roots):
            return ends
    return {}
