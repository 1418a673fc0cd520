"""Severities and flags of all signatures, with the slice and box to look at."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from segwise.pair import Pair
from segwise.signatures import breaks, decay, hallucination, leak, overrun, scale
from segwise.signatures.look import Found, Seen, look

SIGNATURES = {
    "leak": leak,
    "discontinuity": breaks,
    "hallucination": hallucination,
    "overrun": overrun,
    "decay": decay,
}


@dataclass(frozen=True, eq=False)
class Verdict:
    """One signature of one mask.

    Attributes:
        severity: at least 0; above 1 is a flag.
        component: which of its components is the worst in comparison with good masks.
        value: of that component.
        found: that component.
    """

    severity: float
    component: str
    value: float
    found: Found


@dataclass(frozen=True)
class Flag:
    """Where to look, in the order of the file's array.

    Attributes:
        signature, component, value, severity: as in `Verdict`.
        slice: index along `axis`.
        low, high: half-open box.
    """

    signature: str
    component: str
    value: float
    severity: float
    axis: int
    slice: int
    low: tuple[int, ...]
    high: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Judged:
    """All verdicts on a pair.

    Attributes:
        seen: its slices.
        answered: the slices of the answer without the reference and as it was given, for `blind`.
        reference: by signature, {} without a reference.
        blind: by signature, from mask, prompt and image.
    """

    seen: Seen
    answered: Seen
    reference: dict[str, Verdict]
    blind: dict[str, Verdict]


@functools.lru_cache(maxsize=1)  # the metric and what the report shows of it ask one after the other
def judged(pair: Pair, plane: str) -> Judged:
    """Every signature with and without the reference, made once for a pair.

    Raises:
        SpecError: an unknown plane.
    """
    seen = look(pair, plane=plane)
    known = {} if pair.reference is None else judge(seen, blind=False)
    answered = (
        seen if pair.whole is None else look(Pair(None, pair.whole, pair.grid, pair.prompt, pair.image), plane=plane)
    )
    return Judged(seen, answered, known, judge(answered, blind=True))


def components(seen: Seen, *, blind: bool) -> dict[str, dict[str, Found]]:
    """Signature -> component -> what was found; without looking at the reference if blind."""
    return {
        name: (module.without(seen) if blind else module.with_reference(seen)) for name, module in SIGNATURES.items()
    }


def judge(seen: Seen, *, blind: bool) -> dict[str, Verdict]:
    """Every signature's severity: its worst component in units of what good masks reach.

    Args:
        seen: of a pair; with a reference unless blind.
        blind: look at prediction, prompt and image only.
    """
    scales = scale.REFERENCE if not blind else scale.BLIND if seen.imaged else scale.ALONE
    return {name: _worst(found, scales[name]) for name, found in components(seen, blind=blind).items()}


def flags(seen: Seen, verdicts: Mapping[str, Verdict]) -> list[Flag]:
    """Those above 1, the gravest first."""
    raised = [(name, one) for name, one in verdicts.items() if one.severity > 1]
    return [_flag(seen, name, one) for name, one in sorted(raised, key=lambda item: -item[1].severity)]


def _worst(found: Mapping[str, Found], scales: Mapping[str, float]) -> Verdict:
    severities = {name: found[name].value / scales[name] for name in scales}
    name = max(severities, key=lambda one: severities[one])
    return Verdict(severities[name], name, found[name].value, found[name])


def _flag(seen: Seen, name: str, one: Verdict) -> Flag:
    shown = next((m for m in (one.found.where, seen.prediction, seen.reference) if m is not None and m.any()), None)
    at, low, high = (0, (0, 0, 0), (0, 0, 0)) if shown is None else seen.place(shown)
    return Flag(name, one.component, one.value, one.severity, seen.axis, at, low, high)
