"""Structure by structure, and every target of every case."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

import numpy as np

from segwise.report import words
from segwise.report.gather import Arm, Gathered
from segwise.report.markup import DASH, details, e, heat, note, number, table
from segwise.report.outcome import Item
from segwise.report.ranking import arm_name
from segwise.report.statistics import compare

COLUMNS_UP_TO = 12
_ITEMS_UP_TO = 500


def by_target(gathered: Gathered, order: Sequence[Arm], place: dict[str, int]) -> str:
    """Targets × arms; the best is bold where that target alone decides it, else only marked as highest."""
    arms = list(order)[:COLUMNS_UP_TO]
    targets = sorted({item[2] for arm in arms for item in arm.asked}, key=_sides_together)
    head = ["Structure", "Subjects", *(arm_name(arm, place) for arm in arms)]
    rows = [[e(target), *_target_row(arms, target)] for target in targets]
    if not rows:
        return ""
    more = f" The first {COLUMNS_UP_TO} of {len(order)} arms." if len(order) > COLUMNS_UP_TO else ""
    legend = (
        f"Mean {e(gathered.primary)} over subjects. <b>Bold</b>: better than every other arm on this structure beyond "
        "chance (Holm over the pairs of this row, not over rows). <span class='top'>•</span> marks the highest where "
        f"the data cannot decide. A small n: fewer subjects than the row.{more}"
    )
    union = note(words.unions(gathered)) if gathered.unions else ""
    whole = table(head, rows, name="By structure").replace('class="scroll"', 'class="scroll tall"', 1)
    return note(legend) + union + whole + _by_item(arms, place)


def _by_item(arms: Sequence[Arm], place: dict[str, int]) -> str:
    """Every target of every case, folded away."""
    items = sorted({item for arm in arms for item in arm.values}, key=lambda i: (*i[:2], _sides_together(i[2])))
    head = ["Case", '<th scope="col" class="w">Structure</th>', *(arm_name(arm, place) for arm in arms)]
    rows = []
    for item in items[:_ITEMS_UP_TO]:
        values = [arm.values.get(item) for arm in arms]
        cells = [DASH if v is None else f"{heat(v)}{number(v)}</td>" for v in values]
        rows.append([e(item[1]), f'<td class="w">{e(item[2])}</td>', *cells])
    more = f" The first {_ITEMS_UP_TO}; all are in segwise export." if len(items) > _ITEMS_UP_TO else ""
    body = table(head, rows, name="Every target").replace('class="scroll"', 'class="scroll tall"', 1)
    return details(f"Every target of every case ({len(items)}), seeds averaged.{more}", body)


def _sides_together(target: str) -> tuple[str, str]:
    side, _, base = target.partition(" ")
    return (base, side) if side in ("left", "right") and base else (target, "")


def _target_row(arms: Sequence[Arm], target: str) -> list[str]:
    person = {o.item: o.person for arm in arms for o in arm.outcomes if o.last.target == target}
    n_row = len({person[item] for arm in arms for item in arm.asked if item[2] == target})
    means: list[float | None] = []
    sizes = []
    for arm in arms:
        by_person = _by_person({i: v for i, v in arm.values.items() if i[2] == target}, person)
        means.append(fmean(map(fmean, by_person.values())) if by_person else None)
        sizes.append(len(by_person))
    best = max((m for m in means if m is not None), default=None)
    sure = _decided(arms, target, person)
    cells = [str(n_row)]
    for i, (mean, n) in enumerate(zip(means, sizes, strict=True)):
        if mean is None:
            failed = any(o.status == "failed" and o.last.target == target for o in arms[i].outcomes)
            cells.append('<span class="tag bad">failed</span>' if failed else DASH)
            continue
        highest = best is not None and abs(mean - best) < 1e-9
        text = f"<b>{number(mean)}</b>" if highest and sure else number(mean)
        mark = (
            ' <span class="top" title="highest, not decided">•</span>' if highest and not sure and len(arms) > 1 else ""
        )
        few = f" <small>n {n}</small>" if n != n_row else ""
        cells.append(f"{heat(mean)}{text}{mark}{few}</td>")
    return cells


def _by_person(values: dict[Item, float], person: dict[Item, str]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = defaultdict(list)
    for item, value in values.items():
        found[person[item]].append(value)
    return found


def _decided(arms: Sequence[Arm], target: str, person: dict[Item, str]) -> bool:
    """One arm is better than all others that have this target, beyond chance."""
    able = [arm for arm in arms if any(item[2] == target for item in arm.values)]
    shared = sorted(set.intersection(*({i for i in arm.values if i[2] == target} for arm in able))) if able else []
    if len(able) < 2 or len({person[item] for item in shared}) < 6:
        return False  # six is the fewest that can decide even one pair
    values = np.array([[arm.values[item] for arm in able] for item in shared])
    return len(compare(values, [person[item] for item in shared], n_boot=2000).top) == 1
