"""Figures of decisions: cost against cases, what an assumption does, parts of a whole; inline SVG as the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib import pyplot as plt
from matplotlib import ticker

from segwise.report.figures import _INK, _LINE, _STYLE, Series, _legend, _short, _svg, colour


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A row: `low` and `high` are where its two ends lie, `left` and `right` what is written there."""

    label: str
    low: float
    high: float
    left: str
    right: str


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A row of parts that add up."""

    label: str
    parts: Sequence[float]


def against_cases(ways: Sequence[Series], *, currency: str, horizon: float, marks: Sequence[float], name: str) -> str:
    """Total cost (y, with low and high) against cases (x); `marks` are the numbers of cases where lines cross."""
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(8.6, 4.2))
        for way in ways:
            if way.low:
                axes.fill_between(way.x, way.low, way.high, color=colour(way.index), alpha=0.15, linewidth=0)
            axes.plot(way.x, way.y, "-", color=colour(way.index), linewidth=2, label=way.label)
        for at in marks:
            axes.axvline(at, color=_INK, linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate(f"{at:,.0f}", (at, 0.97), xycoords=("data", "axes fraction"), fontsize=9, ha="left")
        axes.axvline(horizon, color=_LINE, linewidth=2)
        axes.annotate(
            "planned", (horizon, 0.02), xycoords=("data", "axes fraction"), fontsize=9, ha="right", rotation=90
        )
        axes.grid(visible=True, alpha=0.5)
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(ticker.FuncFormatter(lambda v, _: f"{v:,.0f}"))
        axes.set_xlabel("cases")
        axes.set_ylabel(f"all costs so far, {currency}")
        _legend(axes)
        return _svg(figure, name, "Total cost against number of cases")


def tornado(bars: Sequence[Bar], *, middle: float, xlabel: str, name: str) -> str:
    """What each assumption does when it alone moves over its range; the line is where all are as assumed."""
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(8.6, 0.9 + 0.36 * max(len(bars), 2)))
        ends = [v for bar in bars for v in (bar.low, bar.high, middle)]
        pad = 0.012 * ((max(ends) - min(ends)) or 1.0)
        for row, bar in enumerate(bars):
            for value, text, hue in ((bar.low, bar.left, 0), (bar.high, bar.right, 1)):
                axes.barh(row, value - middle, left=middle, height=0.6, color=colour(hue), alpha=0.8)
                other = bar.high if value == bar.low else bar.low
                side = "left" if value > middle or (value == middle and other < middle) else "right"
                axes.annotate(text, (value + (pad if side == "left" else -pad), row), fontsize=8, ha=side, va="center")
        axes.axvline(middle, color=_INK, linewidth=1)
        if min(ends) < 0 < max(ends):
            axes.axvline(0, color=_INK, linewidth=1, linestyle=":")
        axes.set_yticks(range(len(bars)), [bar.label for bar in bars])
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.margins(x=0.14)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.grid(visible=True, alpha=0.5)
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda v, _: f"{v:,.0f}"))
        axes.set_xlabel(xlabel)
        return _svg(figure, name, "What each assumption does")


def stacks(rows: Sequence[Stack], parts: Sequence[str], *, xlabel: str, name: str) -> str:
    """Bars of parts that add up, one a row."""
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(8.6, 0.9 + 0.42 * max(len(rows), 2)))
        for i, part in enumerate(parts):
            lefts = [sum(v for v in row.parts[:i] if not math.isnan(v)) for row in rows]
            axes.barh(
                range(len(rows)), [row.parts[i] for row in rows], left=lefts, height=0.6, color=colour(i), label=part
            )
        axes.set_yticks(range(len(rows)), [_short(row.label) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.grid(visible=True, alpha=0.5)
        axes.set_xlabel(xlabel)
        _legend(axes)
        return _svg(figure, name, xlabel)
