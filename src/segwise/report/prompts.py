"""How much an answer depends on what is said: what a millimetre of error and a missing point cost, organ by organ.

Prompters that differ in one number alone make a curve: an argument that ends in "_mm" is an error of the prompt, `n` is
a number of points or clicks. Defaults count as given, so `box3d` is where the curve of `box3d(jitter_mm=5)` begins.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np

from segwise import catalog
from segwise.errors import CatalogError
from segwise.report import figures
from segwise.report.gather import Arm, Gathered, panel_of
from segwise.report.markup import count, e, figure, number, signed, table
from segwise.report.markup import note as said
from segwise.report.specs import parsed
from segwise.report.statistics import ALPHA, Floats, interval_of_mean, minus, signed_rank, subjects_needed
from segwise.report.turning import by_person
from segwise.spec import Spec, Value

ENOUGH = 0.02  # of the measure: a prompt that loses no more than this against the best one is enough


@dataclass(frozen=True, eq=False)
class Curve:
    """One model under prompts that differ in one number.

    Attributes:
        model: its spec; prompter: without the number.
        argument: which number: "jitter_mm", "n" ...
        places: [K] rising; values: [K, P].
    """

    model: str
    prompter: str
    argument: str
    places: tuple[float, ...]
    values: Floats

    @property
    def label(self) -> str:
        """As tables and figures name it."""
        return f"{self.model} · {self.prompter}"

    @property
    def of_mm(self) -> bool:
        """The number is an error in mm."""
        return self.argument.endswith("_mm")

    @property
    def lost(self) -> Floats:
        """[P] of each person: lost for a mm of error (slope of the line), or for each point less (the ends)."""
        x = np.array(self.places)
        if self.of_mm:
            centred = x - x.mean()
            return minus(np.zeros(self.values.shape[1]), centred @ self.values / (centred**2).sum())
        return np.asarray(minus(self.values[-1], self.values[0]) / (x[-1] - x[0]))


def section(gathered: Gathered) -> str:
    """HTML of the section; "" if no number of a prompter was varied."""
    found = curves(gathered)
    if not found:
        return ""
    measure = gathered.primary
    notes = "".join(f"<li>{answer(curve, measure)}</li>" for curve in found)
    drawn = []
    for of_mm, along, name in ((True, "error of the prompt, mm", "error"), (False, "points or clicks", "points")):
        chosen = [_series(curve, i) for i, curve in enumerate(found) if curve.of_mm == of_mm]
        if chosen:
            drawn.append(figures.lines(chosen, measure=measure, along=along, name=f"prompt-{name}", log=False))
    caption = (
        "Mean over persons on the same targets at every place; bands: bootstrap over persons. What a curve loses is "
        "said of each by itself, whatever their number."
    )
    return (
        f"<ul>{notes}</ul>" + "".join(figure(svg, caption) for svg in drawn) + _table(found, measure) + _needs(gathered)
    )


def curves(gathered: Gathered) -> list[Curve]:
    """All curves, by model and prompter."""
    groups: dict[tuple[str, str, str], dict[float, Arm]] = defaultdict(dict)
    for arm in gathered.arms:
        if not arm.ranked:
            continue
        spec = parsed(arm.key[1])
        resolved = _resolved(spec)
        for name, value in resolved.items():
            if (name.endswith("_mm") or name == "n") and isinstance(value, int | float) and not isinstance(value, bool):
                rest = Spec(spec.name, {k: v for k, v in resolved.items() if k != name}, spec.plus)
                groups[arm.key[0], str(rest), name][float(value)] = arm
    found = []
    for (model, prompter, name), arms in sorted(groups.items()):
        places = tuple(sorted(arms))
        panel = panel_of(tuple(arms[at] for at in places)) if len(places) > 1 else None
        if panel is not None and panel.items:
            found.append(Curve(model, _short(prompter), name, places, by_person(panel)))
    return found


def _resolved(spec: Spec) -> dict[str, Value]:
    """Arguments with defaults, as given for a prompter that is not here."""
    try:
        return dict(catalog.member("prompters", spec.name).arguments(spec.base))
    except CatalogError:
        return dict(spec.args)


def _short(prompter: str) -> str:
    """Without the arguments that stand at their defaults."""
    spec = parsed(prompter)
    try:
        defaults = {p.name: p.default for p in catalog.member("prompters", spec.name).parameters.values()}
    except CatalogError:
        return prompter
    given = {name: value for name, value in spec.args.items() if defaults.get(name) != value}
    return str(Spec(spec.name, given, spec.plus))


def answer(curve: Curve, measure: str) -> str:
    """In words: what a mm of error or a missing point costs, or that these data cannot decide."""
    name, lost = f"<b>{e(curve.label)}</b>", float(curve.lost.mean())
    what = f"mm of {e(curve.argument.removesuffix('_mm'))}" if curve.of_mm else "missing point"
    over = f"between {curve.places[0]:g} and {curve.places[-1]:g}{' mm' if curve.of_mm else ''}"
    low, high = _interval(curve)
    n = len(curve.lost)
    p = float(signed_rank(curve.lost[:, None])[0])
    if n < subjects_needed(1, alpha=ALPHA) or p >= ALPHA or low <= 0 <= high:
        mean = f"{signed(-lost, 4)} {e(measure)}"
        return f"{name}: cannot decide what a {what} costs on {count(n, 'person')}; the mean is {mean} {over}."
    kind = "loses" if lost > 0 else "gains"
    bounds = f"95 % {number(min(abs(low), abs(high)), 4)} to {number(max(abs(low), abs(high)), 4)}"
    return f"{name} {kind} <b>{number(abs(lost), 4)} {e(measure)} a {what}</b> {over} ({bounds})."


def _interval(curve: Curve) -> tuple[float, float]:
    low, high = interval_of_mean(curve.lost[:, None], [str(i) for i in range(len(curve.lost))])
    return float(low[0]), float(high[0])


def _series(curve: Curve, index: int) -> figures.Series:
    low, high = interval_of_mean(curve.values.T, [str(i) for i in range(curve.values.shape[1])])
    bounds = ((), ()) if math.isnan(float(low[0])) else (low.tolist(), high.tolist())
    return figures.Series(curve.label, index, curve.places, curve.values.mean(axis=1).tolist(), *bounds)


def _table(found: Sequence[Curve], measure: str) -> str:
    rows = []
    for curve in found:
        mean = ", ".join(
            f"{at:g}: {number(v)}" for at, v in zip(curve.places, curve.values.mean(axis=1).tolist(), strict=True)
        )
        low, high = _interval(curve)
        rows.append(
            [
                e(curve.label),
                f'<td class="w">{e(curve.argument)}</td>',
                f'<td class="w">{mean}</td>',
                number(float(curve.lost.mean()), 4),
                f"{number(low, 4)} to {number(high, 4)}",
            ]
        )
    head = [
        "Model and prompter",
        '<th scope="col" class="w">Varied</th>',
        f'<th scope="col" class="w">{e(measure)}</th>',
    ]
    head += ["Lost a mm, or a point less", "95 %"]
    return table(head, rows, name="Robustness")


def _needs(gathered: Gathered) -> str:
    """Organ by organ: the prompt of least effort that comes near the best one, and what the others lose."""
    needed = needs(gathered)
    if not needed:
        return ""
    models = sorted({model for _, model in needed})
    rows = []
    for target in sorted({target for target, _ in needed}):
        cells = []
        for model in models:
            told = needed.get((target, model))
            cells.append(f'<td class="w">{"–" if told is None else e(told)}</td>')
        rows.append([e(target), *cells])
    head = ["Structure", *(f'<th scope="col" class="w">{e(model)}</th>' for model in models)]
    text = (
        f"Which organ needs which prompt: the one of least effort that loses no more than {ENOUGH:g} against the best "
        "prompt of that model, on means over persons; then what still less effort loses."
    )
    return said(text) + table(head, rows, name="Needs")


def needs(gathered: Gathered) -> dict[tuple[str, str], str]:
    """(target, model) -> the prompt that is enough, in words; models with one prompter are left out."""
    by_model: dict[str, list[Arm]] = defaultdict(list)
    for arm in gathered.arms:
        if arm.ranked:
            by_model[arm.key[0]].append(arm)
    found = {}
    for model, arms in by_model.items():
        for target in sorted({item[2] for arm in arms for item in arm.values}) if len(arms) > 1 else ():
            means = {
                arm.key[1]: fmean(v) for arm in arms if (v := [x for i, x in arm.values.items() if i[2] == target])
            }
            effort = {arm.key[1]: _effort(arm, target) for arm in arms}
            found[target, model] = _enough(means, effort)
    return found


def _enough(means: Mapping[str, float], effort: Mapping[str, float]) -> str:
    order = sorted(means, key=lambda name: (effort[name], -means[name]))
    best = max(means.values())
    enough = next(name for name in order if means[name] >= best - ENOUGH)
    less = [name for name in order if effort[name] < effort[enough]]
    beside = max(less, key=lambda name: means[name], default=None)
    text = f"{enough} ({means[enough]:.3f})"
    return text if beside is None else f"{text}; {beside} loses {best - means[beside]:.3f}"


def _effort(arm: Arm, target: str) -> float:
    asked = [o.last.n_interactions for o in arm.outcomes if o.last.target == target and o.status == "done"]
    return median(asked) if asked else math.inf
