"""The assumptions of a scenario as a table: every value with its range and where it comes from."""

from __future__ import annotations

from collections.abc import Sequence

from segwise.decide.scenario import KINDS, Scenario, shipped
from segwise.report.markup import e, note, table


def assumptions(scenario: Scenario, keys: Sequence[str]) -> str:
    """HTML of the assumptions of these keys."""
    rows = []
    for key in keys:
        one, kind = scenario.assumptions[key], KINDS[key]
        cells = [f'<td class="w">{e(kind.meaning)}</td>', f"{one.value:,g}", f"{one.low:,g} – {one.high:,g}"]
        rows.append([e(key), *cells, f'<td class="w small">{e(one.source)}</td>'])
    text = (
        "No figure here was measured in the run. To put in your own, write a file: "
        f"<code>base = &quot;{e(scenario.base or shipped()[0])}&quot;</code>, then under "
        "<code>[assumptions]</code> a line each, as in "
        "<code>wage_hour = { value = 72, low = 60, high = 90, source = &quot;payroll 2026&quot; }</code>, and give "
        "<code>--scenario FILE.toml</code>."
    )
    head = ["Key", '<th scope="col" class="w">Meaning</th>', "Value", "Range tried"]
    head += ['<th scope="col" class="w">Where it comes from</th>']
    return note(text) + table(head, rows, name="Assumptions", left=2)
