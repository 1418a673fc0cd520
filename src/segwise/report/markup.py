"""Pieces of HTML. Everything that comes from outside goes through `e`."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from typing import Any

DASH = '<span class="none">–</span>'


def e(text: Any) -> str:
    """Any value as text that is safe between tags and in quoted attributes."""
    return html.escape(str(text), quote=True)


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many decimals, a dash for None and nan."""
    return DASH if value is None or math.isnan(value) else f"{value:z.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int = 3) -> str:
    """A number with its sign; one that rounds to zero has none."""
    if value is None or math.isnan(value):
        return DASH
    text = f"{value:+.{digits}f}"
    return (text if text.strip("+-0.") else text[1:]).replace("-", "−")


def interval(low: float, high: float, digits: int = 3) -> str:
    """A range in brackets, nothing where it is nan."""
    return "" if math.isnan(low) else f'<span class="ci">[{number(low, digits)}, {number(high, digits)}]</span>'


def seconds(value: float | None) -> str:
    """A duration in the unit that suits it."""
    if value is None or math.isnan(value):
        return DASH
    if value < 0.0995:
        return f"{value * 1000:.0f} ms" if value >= 0.001 else "&lt; 1 ms"
    return f"{value:.2g} s" if value < 9.95 else f"{value:.0f} s"


def n_bytes(value: float | None) -> str:
    """A size in MB or GB."""
    if not value:
        return DASH
    return f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"


def p_value(value: float) -> str:
    """A p-value."""
    return DASH if math.isnan(value) else ("&lt; .001" if value < 0.001 else f"{value:.3f}".replace("0.", ".", 1))


def count(n: int, one: str, many: str = "") -> str:
    """ "1 case", "2 cases"."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def listing(words: Sequence[str], *, word: str = "and") -> str:
    """ "a, b and c"."""
    return f"{', '.join(words[:-1])} {word} {words[-1]}" if len(words) > 1 else "".join(words)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, name: str = "", left: int = 1) -> str:
    """A table of cells that are HTML already; the first `left` columns are words, the others numbers.

    A cell may begin with "<td" or "<th" and is then taken whole.
    """
    cells = [
        "<tr>" + "".join(c if c.startswith(("<td", "<th")) else _cell(c, i, left) for i, c in enumerate(row)) + "</tr>"
        for row in rows
    ]
    heads = "".join(
        c if c.startswith("<th") else f'<th scope="col"{_side(i, left)}>{c}</th>' for i, c in enumerate(head)
    )
    label = f' aria-label="{e(name)}"' if name else ""
    return (
        f'<div class="scroll" tabindex="0"><table{label}><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(cells)}</tbody></table></div>"
    )


def section(anchor: str, title: str, *parts: str) -> str:
    """A section with its heading; nothing if all its parts are empty."""
    body = "".join(part for part in parts if part)
    return f'<section id="{anchor}"><h2>{title}</h2>{body}</section>' if body else ""


def figure(svg: str, caption: str) -> str:
    """A picture with its caption (HTML)."""
    return f"<figure>{svg}<figcaption>{caption}</figcaption></figure>" if svg else ""


def note(text: str, *, kind: str = "info") -> str:
    """A remark in a box; kind is "info" or "warn"."""
    return f'<div class="note {kind}">{text}</div>'


def details(summary: str, body: str, *, unfolded: bool = False) -> str:
    """Something that can be folded away."""
    return f"<details{' open' if unfolded else ''}><summary>{summary}</summary>{body}</details>"


def heat(value: float) -> str:
    """The opening of a cell tinted by a value of [0, 1]."""
    return f'<td class="heat" style="--v:{max(0.0, min(1.0, value)):.2f}">'


def _cell(content: str, column: int, left: int) -> str:
    return f'<th scope="row">{content}</th>' if column == 0 else f"<td{_side(column, left)}>{content}</td>"


def _side(column: int, left: int) -> str:
    return ' class="w"' if column < left else ""
