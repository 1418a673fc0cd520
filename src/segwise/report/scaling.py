"""What compute at inference buys: each model alone and with wrappers that ask it more often, against measured seconds.

A curve is a model with one kind of wrapper and one prompter, its arguments varied, ordered by the measured seconds of
encoding and decoding a target. The model alone is where every curve begins.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from segwise import catalog
from segwise.report import figures
from segwise.report.gather import Arm, Gathered, Panel, panel_of
from segwise.report.markup import count, e, figure, number, seconds, signed, table
from segwise.report.markup import note as said
from segwise.report.outcome import Outcome
from segwise.report.specs import parsed
from segwise.report.statistics import Floats, interval_of_mean
from segwise.report.turning import WORTH, by_person, knee, stop
from segwise.spec import Spec


@dataclass(frozen=True, eq=False)
class Curve:
    """A model with more and more looks.

    Attributes:
        model: without wrappers; wrappers: their names; prompter: who asked.
        panel: the arms by cost, the model alone first.
        spent_s: [K] median seconds of encoding and decoding a target.
    """

    model: str
    wrappers: str
    prompter: str
    panel: Panel
    spent_s: tuple[float, ...]

    @property
    def values(self) -> Floats:
        """[K, P]."""
        return by_person(self.panel)

    @property
    def costs(self) -> tuple[float, ...]:
        """[K] times the seconds of the model alone."""
        return tuple(s / self.spent_s[0] for s in self.spent_s)

    @property
    def label(self) -> str:
        """As tables and figures name it."""
        return f"{self.model} + {self.wrappers} · {self.prompter}"


def section(gathered: Gathered) -> str:
    """HTML of the section; "" if no model ran both alone and with a wrapper."""
    found = curves(gathered)
    if not found:
        return ""
    notes = "".join(said(answer(curve, gathered.primary)) for curve in found)
    drawn = [_series(curve, i) for i, curve in enumerate(found)]
    ticks = {float(2**k): f"{2**k}×" for k in range(0, math.ceil(math.log2(max(max(s.x) for s in drawn))) + 1)}
    svg = figures.lines(
        drawn,
        measure=gathered.primary,
        along="inference, times the seconds of the model alone",
        name="scaling",
        ticks=ticks,
    )
    caption = (
        "Mean over persons against the measured seconds of encoding and decoding a target, as multiples of the model "
        "asked once; bands: bootstrap over persons."
    )
    return notes + figure(svg, caption) + _table(found, gathered.primary)


def curves(gathered: Gathered) -> list[Curve]:
    """All curves, by model, prompter and wrapper."""
    alone: dict[tuple[str, str], Arm] = {}
    wrapped: dict[tuple[str, str, str], list[Arm]] = defaultdict(list)
    for arm in gathered.arms:
        if not arm.ranked:
            continue
        base, names = _parts(arm.key[0])
        if names:
            wrapped[base, arm.key[1], names].append(arm)
        else:
            alone[base, arm.key[1]] = arm
    found = []
    for (base, prompter, names), arms in sorted(wrapped.items()):
        first = alone.get((base, prompter))
        if first is not None and (curve := _curve(base, names, prompter, first, arms)) is not None:
            found.append(curve)
    return found


def _parts(model: str) -> tuple[str, str]:
    """(the spec without wrappers, names of its wrappers)."""
    spec, known = parsed(model), catalog.names("wrappers")
    own = tuple(plus for plus in spec.plus if plus.name not in known)
    return str(Spec(spec.name, spec.args, own)), "+".join(plus.name for plus in spec.plus if plus.name in known)


def _curve(base: str, names: str, prompter: str, first: Arm, arms: Sequence[Arm]) -> Curve | None:
    panel = panel_of((first, *arms))
    spent = {arm.key: s for arm in panel.arms if (s := _spent(arm, panel))}
    if not panel.items or first.key not in spent or len(spent) < 2:
        return None
    order = [first, *sorted((a for a in arms if a.key in spent), key=lambda a: (spent[a.key], a.label))]
    return Curve(base, names, prompter, panel_of(tuple(order)), tuple(spent[arm.key] for arm in order))


def _spent(arm: Arm, panel: Panel) -> float | None:
    wanted = set(panel.items)
    found = [s for o in arm.outcomes if o.item in wanted and o.status == "done" and (s := _inference(o)) > 0]
    return median(found) if found else None


def _inference(outcome: Outcome) -> float:
    return outcome.seconds.get("encode_s", 0.0) + outcome.seconds.get("decode_s", 0.0)


def answer(curve: Curve, measure: str) -> str:
    """In words: the knee and the stop rule, or that these data cannot decide."""
    values, costs = curve.values, curve.costs
    found, last = knee(values), stop(costs, values)
    name = f"<b>{e(curve.label)}</b>"
    rule = (
        f"Stop rule on these means: go on while a doubling of the seconds adds {WORTH:g} of {e(measure)}; "
        f"that ends at {_at(curve, last)}."
    )
    if found.verdict == "knee":
        first, final = (f"{costs[k]:.1f}×" for k in (found.low, found.high))
        sure = f" (95 % {first} to {final})" if found.low != found.high else " in 95 % of draws"
        gain = f"{signed(found.gain)} {e(measure)} at the best"
        return f"{name}: the knee is at <b>{_at(curve, found.place)}</b>{sure}; {gain}. {rule}"
    if found.verdict == "no gain":
        return f"{name}: no gain: nothing here adds {WORTH:g} of {e(measure)} to the model asked once. {rule}"
    n = values.shape[1]
    best = f"the best mean is {signed(found.gain)} over" if found.gain > 0 else "no mean is above that of"
    people = count(n, "person")
    return f"{name}: cannot decide whether more looks help; {best} the model asked once, on {people}. {rule}"


def _at(curve: Curve, k: int) -> str:
    plus = [p for p in parsed(curve.panel.arms[k].key[0]).plus if p.name in curve.wrappers.split("+")]
    what = "+".join(map(str, plus)) or "the model alone"
    return f"{e(what)} ({curve.costs[k]:.1f}× the cost)"


def _series(curve: Curve, index: int) -> figures.Series:
    values = curve.values
    low, high = interval_of_mean(values.T, [str(i) for i in range(values.shape[1])])
    known = not math.isnan(float(low[0]))
    return figures.Series(
        curve.label,
        index,
        curve.costs,
        values.mean(axis=1).tolist(),
        low.tolist() if known else (),
        high.tolist() if known else (),
    )


def _table(found: Sequence[Curve], measure: str) -> str:
    rows = []
    for curve in found:
        mean = curve.values.mean(axis=1)
        for k, arm in enumerate(curve.panel.arms):
            per = math.nan
            if k and (doublings := math.log2(curve.costs[k] / curve.costs[k - 1])) > 0.1:
                per = float(mean[k] - mean[k - 1]) / doublings
            rows.append(
                [
                    f'{e(arm.key[0])} <span class="how">{e(curve.prompter)}</span>',
                    seconds(curve.spent_s[k]),
                    f"{curve.costs[k]:.1f}×",
                    number(float(mean[k])),
                    signed(float(mean[k] - mean[0])) if k else "–",
                    signed(per),
                ]
            )
    head = ["Model", "Inference a target", "Cost", f"Mean {e(measure)}", "Gain", "Gain a doubling"]
    return table(head, rows, name="Scaling")
