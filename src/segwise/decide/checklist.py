"""A checklist after the EU AI Act, the MDR and FDA guidance: an item is traced to a fact, or says what is missing."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from segwise.decide.facts import Facts
from segwise.report.markup import e, note, table

FILE = Path(__file__).with_name("checklist.toml")


@dataclass(frozen=True, kw_only=True)
class Item:
    """Something that is asked for.

    Attributes:
        law: text and place.
        item: what is asked, in our words.
        needs: keys of the facts that answer it; () if no run can.
        missing: what is to be done where a fact is not there.
    """

    law: str
    item: str
    missing: str
    needs: tuple[str, ...] = ()


def items() -> tuple[Item, ...]:
    """All items, in order."""
    content = tomllib.loads(FILE.read_text(encoding="utf-8"))
    return tuple(Item(**{**one, "needs": tuple(one.get("needs", ()))}) for one in content["items"])


def answered(item: Item, facts: Facts) -> bool:
    """Every fact that it needs is there."""
    return bool(item.needs) and all(key in facts for key in item.needs)


def checklist(facts: Facts) -> str:
    """HTML of the checklist."""
    rows = []
    every = items()
    for item in every:
        if answered(item, facts):
            told = "; ".join(f"{e(key)}: {facts.shown(key)}" for key in item.needs)
            sources = "; ".join(dict.fromkeys(facts[key].source for key in item.needs))
            cell = f'<td class="w">{told}<br><span class="small">{e(sources)}</span></td>'
        else:
            absent = [key for key in item.needs if key not in facts]
            which = f" <b>{e(', '.join(absent))}</b>:" if absent else ""
            cell = f'<td class="w"><span class="tag bad">missing</span>{which} {e(item.missing)}</td>'
        rows.append([e(item.law), f'<td class="w">{e(item.item)}</td>', cell])
    n = sum(answered(item, facts) for item in every)
    text = (
        f"{n} of {len(every)} items are traced to records or card; the others say what is missing. The items are "
        "our own words of 2026-11 and no legal advice; read the texts in force. Those of the AI Act reach devices "
        "under the MDR on 2 August 2028."
    )
    head = ["Asked by", '<th scope="col" class="w">What</th>', '<th scope="col" class="w">Traced to, or missing</th>']
    return note(text) + table(head, rows, name="Checklist", left=3)
