"""What was trained: the effort of each trained arm beside what it reached, and whether channels are better fused early.

Memory and minutes of a training are of the machine that trained; folds and draws are averaged, of memory the most.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from segwise.errors import SpecError
from segwise.report.gather import Arm, Gathered, panel_of, total_seconds
from segwise.report.markup import count, e, interval, n_bytes, note, number, seconds, signed, table
from segwise.report.statistics import compare, interval_of_mean, subject_means
from segwise.spec import Spec, parse

EARLY = "early"


def section(gathered: Gathered) -> str:
    """HTML of the section; "" if nothing was trained."""
    arms = [arm for arm in gathered.arms if _learned(arm).get("seconds") is not None and arm.values]
    if not arms:
        return ""
    told = "".join(f"<li>{text}</li>" for text in fusions(arms, gathered.primary))
    text = note(
        "Minutes and memory of one training, on the machine that trained; seconds and memory of one target, on the one "
        f"that answered. Mean {e(gathered.primary)} over each arm's own persons, which only the ranking makes the same."
    )
    return (f"<ul>{told}</ul>" if told else "") + text + _table(arms, gathered.primary)


def fusions(arms: Sequence[Arm], measure: str) -> list[str]:
    """In words, of every model that was trained with its channels fused in several ways, on the persons of all ways."""
    groups: dict[tuple[str, ...], dict[str, Arm]] = defaultdict(dict)
    for arm in arms:
        learned = _learned(arm)
        model, fusion = _without_fusion(str(learned["model"]))
        alike = [str(learned.get(key)) for key in ("subjects", "generated", "data")]
        groups[model, arm.key[1], *alike].setdefault(fusion, arm)
    return [_fused(model, own, measure) for (model, *_), own in sorted(groups.items()) if len(own) > 1]


def _fused(model: str, by_way: Mapping[str, Arm], measure: str) -> str:
    ways = sorted(by_way, key=lambda way: (way != EARLY, way))
    panel = panel_of(tuple(by_way[way] for way in ways))
    head = f"<b>Fused early or late?</b> {e(model)}: "
    if not panel.items:
        return head + "no person was tested with all of them."
    result = compare(panel.values, panel.persons)
    told = []
    for i, way in enumerate(ways):
        learned = _learned(by_way[way])
        spent = [f"{float(learned['seconds']) / 60:.1f} min"]
        spent += [f"{float(learned['peak_gb']):.2f} GB"] if learned.get("peak_gb") else []
        told.append(f"{e(way)} {number(result.mean[i])} ({' and '.join(spent)} to train)")
    a, b = result.order[:2]
    size = f"{signed(result.difference[a, b])} {interval(result.difference_low[a, b], result.difference_high[a, b])}"
    people = count(result.n_subjects, "person")
    verdict = (
        f"{e(ways[a])} is ahead of {e(ways[b])} beyond chance ({size})"
        if result.decided[a, b]
        else f"{people} cannot decide whether {e(ways[a])} is better than {e(ways[b])} ({size.strip()})"
    )
    return f"{head}mean {e(measure)} {', '.join(told)}; {verdict}."


def _without_fusion(model: str) -> tuple[str, str]:
    """A spec without its way of fusing channels, and that way."""
    try:
        spec = parse(model)
    except SpecError:
        return model, EARLY
    args = {key: value for key, value in spec.args.items() if key != "fusion"}
    base: Spec = dataclasses.replace(spec, args=args)
    return str(base), str(spec.args.get("fusion", EARLY))


def _table(arms: Sequence[Arm], measure: str) -> str:
    head = ["Trained", "Subjects", "Trained parameters", "Minutes to train", "Memory to train", f"Mean {e(measure)}"]
    head += ["Seconds a target", "Memory to answer"]
    rows = []
    for arm in sorted(arms, key=lambda one: one.label):
        learned = _learned(arm)
        parameters, peak = learned.get("parameters"), float(learned.get("peak_gb") or math.nan)
        spent = [s for o in arm.outcomes if o.status == "done" and (s := total_seconds(o)) is not None]
        rows.append(
            [
                f'<td class="w">{e(arm.label)}</td>',
                str(learned.get("subjects", "")),
                f"{int(parameters):,}" if parameters else "–",
                number(float(learned["seconds"]) / 60, 1),
                "–" if math.isnan(peak) else f"{peak:.2f} GB",
                _reached(arm),
                seconds(median(spent) if spent else None),
                n_bytes(max((o.last.peak_bytes for o in arm.outcomes), default=0)),
            ]
        )
    return table(head, rows, name="Trained")


def _reached(arm: Arm) -> str:
    person = {o.item: o.person for o in arm.outcomes}
    items = sorted(arm.values)
    values = [[arm.values[item]] for item in items]
    low, high = interval_of_mean(np.array(values), [person[item] for item in items])
    mean = subject_means(np.array(values), [person[item] for item in items]).mean()
    return f"{number(float(mean))} {interval(float(low[0]), float(high[0]))}"


def _learned(arm: Arm) -> Mapping[str, Any]:
    learned = arm.card.get("learned")
    return learned if isinstance(learned, Mapping) else {}
