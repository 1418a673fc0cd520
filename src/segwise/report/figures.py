"""Figures as inline SVG: real text in the page's font, ink and lines in the page's colours, so dark mode works."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib import ticker

from segwise.report.markup import e

# Okabe and Ito's palette without yellow and black, which vanish on a light or a dark page; safe for colour-blind eyes
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">")
_DOTS = 150
_TOWARDS = {"axial": "towards the head", "coronal": "towards the back", "sagittal": "towards the left"}
_INK, _LINE, _PAPER = "#010203", "#040506", "#070809"  # stand for the page's own colours
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "segwise",
    "text.parse_math": False,
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}


@dataclass(frozen=True, eq=False)
class Series:
    """What a figure shows of one arm.

    Attributes:
        label: its name.
        index: its place in the ranking, which gives colour and marker.
        x, y: numbers of equal length; what they are is the figure's business.
        low, high: bounds of y, or of the one number x.
    """

    label: str
    index: int
    x: Sequence[float] = ()
    y: Sequence[float] = ()
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def colour(index: int) -> str:
    """Colour of an arm by its place in the ranking."""
    return COLOURS[index % len(COLOURS)]


def forest(arms: Sequence[Series], *, measure: str, name: str = "forest") -> str:
    """Mean (x[0]) and interval of each arm from best to worst, with the subjects' values (y) behind.

    `name` keeps the ids of several such figures on one page apart.
    """
    with plt.rc_context(_STYLE):
        figure, axes = _rows(len(arms))
        for row, arm in enumerate(arms):
            ticks = _thinned(arm.y)
            axes.plot(ticks, [row] * len(ticks), "|", color=colour(arm.index), alpha=0.45, markersize=11)
            if arm.low:
                axes.plot([arm.low[0], arm.high[0]], [row, row], "-", color=colour(arm.index), linewidth=3)
            axes.plot(arm.x, [row], _marker(arm), color=colour(arm.index), markersize=8, markeredgecolor=_PAPER)
        _name_rows(axes, arms)
        _score_axis(axes, [v for arm in arms for v in (*arm.x, *arm.y)])
        axes.set_xlabel(f"mean {measure} with 95 % interval; ticks are subjects")
        return _svg(figure, name, f"Mean {measure} of each arm with its interval")


def strips(arms: Sequence[Series], *, measure: str) -> str:
    """The spread of single results (y) of each arm: every item a dot, with quartiles."""
    with plt.rc_context(_STYLE):
        figure, axes = _rows(len(arms))
        for row, arm in enumerate(arms):
            dots = _thinned(arm.y)
            width = min(0.24, 0.015 * len(dots))
            shift = [row + width * (((i * 0.618034) % 1) - 0.5) * 2 for i in range(len(dots))]
            axes.scatter(
                dots, shift, s=18 if len(dots) < _DOTS else 9, color=colour(arm.index), alpha=0.45, linewidths=0
            )
        axes.boxplot(
            [list(arm.y) for arm in arms],
            orientation="horizontal",
            positions=range(len(arms)),
            widths=0.55,
            showfliers=False,
            boxprops={"color": _INK, "linewidth": 1.1},
            whiskerprops={"color": _INK},
            capprops={"color": _INK},
            medianprops={"color": _INK, "linewidth": 2.2},
        )
        _name_rows(axes, arms)
        _score_axis(axes, [v for arm in arms for v in arm.y])
        axes.set_xlabel(f"{measure}: every dot a target of a case; box: quartiles and median")
        return _svg(figure, "strips", f"Distribution of {measure} by arm")


def curves(arms: Sequence[Series], *, measure: str) -> str:
    """A measure (y, with low and high) against the number of interactions (x); arms of one round are single points."""
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(8.6, 4.2))
        for arm in arms:
            if arm.low and len(arm.x) > 1:
                axes.fill_between(arm.x, arm.low, arm.high, color=colour(arm.index), alpha=0.13, linewidth=0)
            line = "-" if len(arm.x) > 1 else ""
            axes.plot(arm.x, arm.y, _marker(arm) + line, color=colour(arm.index), linewidth=2, label=arm.label)
        _score_axis(axes, [v for arm in arms for v in (*arm.y, *arm.low)], vertical=True)
        _count_axis(axes, max(max(arm.x) for arm in arms))
        axes.set_xlabel("interactions of a person for one target (mean)")
        axes.set_ylabel(f"mean {measure}")
        _legend(axes)
        return _svg(figure, "curves", f"{measure} against number of interactions")


def by_subjects(arms: Sequence[Series], *, measure: str, starts: Mapping[str, float]) -> str:
    """A measure against the number of labelled subjects (x, on a logarithmic scale); lines of models as they came."""
    levels = {f"{name}, as it came": value for name, value in starts.items()}
    return lines(arms, measure=measure, along="labelled subjects that were trained on", name="labels", levels=levels)


def lines(
    arms: Sequence[Series],
    *,
    measure: str,
    along: str,
    name: str,
    levels: Mapping[str, float] | None = None,
    log: bool = True,
    ticks: Mapping[float, str] | None = None,
) -> str:
    """A measure (y, with low and high as a band) along something else (x): the one figure of all curves.

    Args:
        arms: one line each.
        measure: what y is.
        along: what x is.
        name: keeps the ids of several such figures on one page apart.
        levels: dotted lines by name.
        log: x on a logarithmic scale; it must be above 0.
        ticks: what stands at which x; default: every x that is there.
    """
    levels = levels or {}
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(8.6, 4.2))
        for arm in arms:
            if arm.low:
                axes.fill_between(arm.x, arm.low, arm.high, color=colour(arm.index), alpha=0.13, linewidth=0)
            axes.plot(arm.x, arm.y, _marker(arm) + "-", color=colour(arm.index), linewidth=2, label=arm.label)
        for word, value in levels.items():
            axes.axhline(value, color=_INK, linewidth=1, linestyle=":", label=word)
        _score_axis(axes, [v for arm in arms for v in (*arm.y, *arm.low)] + list(levels.values()), vertical=True)
        places = ticks or {x: f"{x:g}" for x in sorted({x for arm in arms for x in arm.x})}
        if log:
            axes.set_xscale("log")
        axes.set_xticks(list(places), list(places.values()))
        axes.xaxis.set_minor_locator(ticker.NullLocator())
        axes.set_xlabel(along)
        axes.set_ylabel(f"mean {measure}")
        _legend(axes)
        return _svg(figure, name, f"{measure} against {along}")


def costs(arms: Sequence[Series], *, measure: str, front: Sequence[int]) -> str:
    """A measure (y[0]) against seconds a target (x[0], logarithmic); `front` are those that none beats on both."""
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(8.6, 4.2))
        best = sorted((arms[i].x[0], arms[i].y[0]) for i in front)
        axes.step(
            [x for x, _ in best], [y for _, y in best], where="post", color=_INK, linewidth=1, linestyle=(0, (4, 3))
        )
        for arm in arms:
            if arm.low:
                axes.plot(
                    [arm.x[0]] * 2, [arm.low[0], arm.high[0]], "-", color=colour(arm.index), linewidth=1.5, alpha=0.6
                )
            axes.plot(
                arm.x,
                arm.y,
                _marker(arm),
                color=colour(arm.index),
                markersize=9,
                markeredgecolor=_PAPER,
                label=arm.label,
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:g} s"))
        axes.xaxis.set_minor_formatter(ticker.NullFormatter())
        low, high = min(arm.x[0] for arm in arms), max(arm.x[0] for arm in arms)
        axes.set_xlim(low / 2.5, high * 2.5)
        if high / low < 10:
            axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
        _score_axis(axes, [v for arm in arms for v in (*arm.y, *arm.low)], vertical=True)
        axes.set_xlabel("median seconds a target (logarithmic)")
        axes.set_ylabel(f"mean {measure}")
        _legend(axes)
        return _svg(figure, "costs", f"{measure} against seconds a target")


def slices(
    reference: Sequence[float], areas: Sequence[Series], scores: Sequence[Series], *, plane: str, name: str
) -> str:
    """Area (y of `areas`, cm²) and DSC (y of `scores`) of each slice (x), over the reference's areas as a grey band."""
    with plt.rc_context(_STYLE):
        figure, (above, below) = plt.subplots(2, sharex=True, figsize=(8.6, 4.6), height_ratios=(3, 2))
        x = areas[0].x
        above.fill_between(x, reference, step="mid", color=_INK, alpha=0.16, linewidth=0)
        below.fill_between(x, [float(area > 0) for area in reference], step="mid", color=_INK, alpha=0.08, linewidth=0)
        for axes, lines in ((above, areas), (below, scores)):
            for arm in lines:
                axes.plot(
                    arm.x,
                    arm.y,
                    _marker(arm) + "-",
                    color=colour(arm.index),
                    linewidth=1.8,
                    markersize=4,
                    label=arm.label,
                )
            axes.grid(visible=True, alpha=0.5)
        above.set_ylim(bottom=0)
        above.set_ylabel("area, cm²")
        below.set_ylim(-0.03, 1.03)
        below.set_ylabel("DSC of the slice")
        below.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        below.set_xlabel(f"{plane} slice, counted {_TOWARDS.get(plane, 'along the axis')}")
        _legend(above)
        return _svg(figure, name, "Area and DSC by slice")


def _thinned(values: Sequence[float]) -> list[float]:
    """At most 150 of many values, evenly by rank, so that the file stays small and the shape the same."""
    if len(values) <= _DOTS:
        return list(values)
    ordered = sorted(values)
    return [ordered[round(i * (len(ordered) - 1) / (_DOTS - 1))] for i in range(_DOTS)]


def _marker(arm: Series) -> str:
    return MARKERS[arm.index % len(MARKERS)]


def _rows(n: int) -> tuple[Any, Any]:
    figure, axes = plt.subplots(figsize=(8.6, 0.9 + 0.42 * max(n, 2)))
    return figure, axes


def _name_rows(axes: Any, arms: Sequence[Series]) -> None:
    axes.set_yticks(range(len(arms)), [_short(arm.label) for arm in arms])
    axes.set_ylim(len(arms) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _score_axis(axes: Any, values: Sequence[float], *, vertical: bool = False) -> None:
    """From a round number below the least value to 1, so that nothing is cut off and nothing exaggerated."""
    known = [v for v in values if not math.isnan(v)]
    low = max(0.0, int((min(known, default=0.0) - 0.03) * 10) / 10)
    inside = max(known, default=1.0) <= 1.0 and min(known, default=0.0) >= 0
    axis = axes.yaxis if vertical else axes.xaxis
    if inside:
        (axes.set_ylim if vertical else axes.set_xlim)(low - 0.005, 1.005)
    axis.grid(visible=True, alpha=0.5)


def _count_axis(axes: Any, most: float) -> None:
    """Numbers of interactions; beyond 20 compressed, so that a box a slice does not push single clicks together."""
    if most <= 20:
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        return
    axes.set_xscale("symlog", linthresh=5, linscale=1.2)
    ticks = [t for t in (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if t <= most * 1.3]
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set_xlim(-0.5, most * 1.4)


def _legend(axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles, [_short(label) for label in labels], loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9)


def _short(label: str, at_most: int = 44) -> str:
    """A label cut before its prompter; without its remark, which the tables beside have."""
    if len(label) > at_most:
        label = re.sub(r" \([^()]*\)$", "", label)
    if len(label) <= at_most:
        return label
    name, _, how = label.rpartition(" · ")
    kept = at_most - len(how) - 4
    return f"{name[:kept]}… · {how}" if name and kept > 10 else f"{label[: at_most - 1]}…"


def _svg(figure: Any, name: str, title: str) -> str:
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None, "Creator": None}
    )
    plt.close(figure)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", svg)
    svg = svg.replace(_INK, "currentColor").replace(_LINE, "var(--line)").replace(_PAPER, "var(--paper)")
    svg = re.sub(
        r'<svg[^>]*viewBox="([^"]+)"[^>]*>', rf'<svg viewBox="\1" role="img" aria-label="{e(title)}">', svg, count=1
    )
    return re.sub(r"\n\s*", "\n", svg)
