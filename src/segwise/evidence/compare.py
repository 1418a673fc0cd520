"""Figures of one data set and target side by side, published and measured; only what is comparable is ranked.

Two figures are ranked against each other if they agree in four aspects: the split (on which cases), the edition (of the
data set), the prompt, and the definition of the metric. An aspect agrees if both state the same, or if neither states
it and both were printed in one place: a table keeps one protocol for its rows. Whatever else came would be a guess, so
such rows stand side by side without ranks, and what differs is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segwise.errors import SpecError
from segwise.evidence.base import Base
from segwise.evidence.query import find
from segwise.evidence.schema import METRICS

ASPECTS = ("split", "edition", "prompt", "definition")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number, published or measured.

    Attributes:
        model, family: what was scored.
        value: of the metric, in its unit; n: cases or subjects behind it, None if not stated.
        split, edition, prompt, definition: the four aspects, "" where not stated.
        setting, variant: how the model was trained and which of its sizes.
        reported_by: who measured it: "primary", a paper, or a run.
        printed_in: the table, paper or run that it stands in.
        source: as in the base.
        measured: it is from a run of the user's own.
        behind: of a run's own figure, how many of its protocol are better beyond chance; None where nobody can tell.
        doubt: why it must not be ranked at all, "" if nothing speaks against it.
        paper: of the model, to be cited.
    """

    model: str
    family: str
    value: float
    unit: str
    n: int | None = None
    split: str = ""
    edition: str = ""
    prompt: str = ""
    definition: str = ""
    setting: str = ""
    variant: str = ""
    reported_by: str
    printed_in: str
    source: str
    measured: bool = False
    behind: int | None = None
    doubt: str = ""
    paper: str = ""

    def stated(self, aspect: str) -> str:
        """What it says of an aspect, "" if nothing."""
        return str(getattr(self, aspect))

    @property
    def protocol(self) -> tuple[str, ...]:
        """Equal for figures that may be ranked against each other."""
        terms = [self.stated(aspect) or f"as in {self.printed_in}" for aspect in ASPECTS]
        return (*terms, self.unit, self.doubt)


@dataclass(frozen=True)
class Group:
    """Figures of one protocol, best first.

    Attributes:
        figures: in order.
        ranks: 1 for the best, equal for equal values; None where there is nothing to rank against. Of own figures the
            rank counts those that are better beyond chance over the subjects; all None where these decide nothing.
    """

    figures: tuple[Figure, ...]
    ranks: tuple[int | None, ...]


@dataclass(frozen=True)
class Beside:
    """All figures of a data set, target and metric.

    Attributes:
        dataset, target, metric: what they are of.
        groups: the one with the user's own figures first, then the larger ones first.
        differs: of each further group, what sets it apart from the first one.
    """

    dataset: str
    target: str
    metric: str
    groups: tuple[Group, ...]
    differs: tuple[Mapping[str, str], ...]


def published(base: Base, dataset: str, structures: Sequence[str], metric: str) -> list[Figure]:
    """What others report of a target in a data set.

    Args:
        base: an open one.
        dataset: id or name.
        structures: common names that mean the target; ("mean",) for the mean of all targets.
        metric: DSC, NSD, HD95, HD.

    Raises:
        SpecError: no such data set or metric; or nothing is published of this target: names what is.
    """
    id = find(base, "dataset", dataset)
    if metric not in METRICS:
        raise SpecError(f'--metric "{metric}": expected one of {", ".join(METRICS)}')
    marks = ", ".join("?" * len(structures))
    column = "target" if tuple(structures) == ("mean",) else "structure"
    chosen = f"dataset_id = ? and metric = ? and {column} in ({marks})"
    sql = f"select * from figures where {chosen} order by model, variant, value"
    rows = base.rows(sql, [id, metric, *structures])
    if not rows:
        raise SpecError(_nothing(base, id, structures[0], metric))
    return [_figure(row) for row in rows]


def beside(figures: Sequence[Figure], *, dataset: str, target: str, metric: str) -> Beside:
    """Figures in groups that may be ranked, each ranked by the metric's own direction."""
    by_protocol: dict[tuple[str, ...], list[Figure]] = {}
    for figure in figures:
        by_protocol.setdefault(figure.protocol, []).append(figure)
    sign = -1 if METRICS[metric].higher_is_better else 1
    groups = [_ranked(sorted(found, key=lambda f: (sign * f.value, f.model))) for found in by_protocol.values()]
    groups.sort(key=lambda g: (not g.figures[0].measured, -len(g.figures), g.figures[0].printed_in))
    differs = [differences(groups[0].figures[0], group.figures[0]) for group in groups[1:]]
    return Beside(dataset, target, metric, tuple(groups), tuple(differs))


def differences(one: Figure, other: Figure) -> dict[str, str]:
    """Aspect -> how two figures differ in it or why that cannot be told; {} if they may be ranked."""
    found = {}
    for aspect in ASPECTS:
        mine, its = one.stated(aspect), other.stated(aspect)
        if mine and its and mine != its:
            found[aspect] = f"{mine} / {its}"
        elif bool(mine) != bool(its):
            found[aspect] = f"{mine or 'not stated'} / {its or 'not stated'}"
        elif not mine and one.printed_in != other.printed_in:
            found[aspect] = "not stated by either"
    if one.unit != other.unit:
        found["unit"] = f"{one.unit} / {other.unit}"
    if one.doubt != other.doubt:
        found["weights"] = f"{one.doubt or 'known'} / {other.doubt or 'known'}"
    return found


def rows(found: Beside) -> list[dict[str, Any]]:
    """The comparison as rows: group, rank, then the figure's own fields; for csv, json and tables."""
    made = []
    for number, group in enumerate(found.groups):
        for figure, rank in zip(group.figures, group.ranks, strict=True):
            head = {"group": letter(number), "rank": rank, "dataset": found.dataset, "target": found.target}
            made.append({**head, "metric": found.metric, **vars(figure)})
    return made


def letter(number: int) -> str:
    """A, B ... Z, AA, AB ..."""
    head, last = divmod(number, 26)
    return (letter(head - 1) if head else "") + chr(ord("A") + last)


def _ranked(ordered: Sequence[Figure]) -> Group:
    if len(ordered) < 2 or ordered[0].doubt:
        return Group(tuple(ordered), (None,) * len(ordered))
    if any(figure.measured for figure in ordered):
        behind = [figure.behind for figure in ordered]
        sure = None not in behind and any(behind)
        return Group(tuple(ordered), tuple(n + 1 if sure and n is not None else None for n in behind))
    values = [figure.value for figure in ordered]
    return Group(tuple(ordered), tuple(values.index(value) + 1 for value in values))


def _figure(row: Mapping[str, Any]) -> Figure:
    texts = ("split", "edition", "prompt", "definition", "setting", "variant", "paper")
    told: dict[str, Any] = {name: row[name] or "" for name in texts}
    return Figure(
        model=row["model"],
        family=row["family"],
        value=row["value"],
        unit=row["unit"],
        n=row["n"],
        reported_by=row["reported_by"],
        printed_in=row["printed_in"],
        source=row["source"],
        **told,
    )


def _nothing(base: Base, dataset: str, target: str, metric: str) -> str:
    sql = """select coalesce(structure, target) as word, count(*) as n from figures where dataset_id = ? and metric = ?
             group by all order by n desc, word"""
    there = [row["word"] for row in base.rows(sql, [dataset, metric])]
    if not there:
        other = base.rows("select distinct metric from figures where dataset_id = ? order by 1", [dataset])
        known = ", ".join(row["metric"] for row in other)
        return f'no {metric} is published of "{dataset}" here; ' + (
            f"there is {known}" if known else "it has no figures"
        )
    more = f" and {len(there) - 12} more" if len(there) > 12 else ""
    return f'nothing is published of "{target}" in {dataset} here; there is {", ".join(there[:12])}{more}'
