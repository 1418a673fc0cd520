"""Charts of the published figures: who leads where, what memory buys, how reporters disagree, when models came.

Each takes an open base and gives a matplotlib figure; `draw_all` writes them into a folder.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib import ticker
from matplotlib.lines import Line2D

from segwise.errors import FileError, SpecError
from segwise.evidence.base import Base
from segwise.report.figures import COLOURS

FORMATS = ("svg", "png")
FAMILIES = ("generalist", "task-specific")
COLOUR = dict(zip(FAMILIES, COLOURS, strict=False))
MARKER = dict(zip(FAMILIES, "os", strict=True))
CREDIT = "Figures: Moglia et al., arXiv:2506.10825, and the sources named in segwise evidence results."
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "segwise",
    "text.parse_math": False,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.alpha": 0.4,
    "legend.frameon": False,
}
_SPREAD_ROWS = 40
_CELL = 0.2  # inches that a model's name takes on the timeline


def crossover(base: Base) -> Any:
    """The best mean DSC of each family on every data set that has both, by how far apart they are."""
    sql = """
    select any_value(dataset) as dataset, max(value) filter (family = 'generalist') as g,
           max(value) filter (family = 'task-specific') as t,
           arg_max(model, value) filter (family = 'generalist') as g_model,
           arg_max(model, value) filter (family = 'task-specific') as t_model
    from survey_best group by dataset_id having g is not null and t is not null order by g - t, dataset
    """
    rows = base.rows(sql)
    figure, axes = plt.subplots(figsize=(10, 1.6 + 0.19 * len(rows)))
    for y, row in enumerate(rows):
        ahead = "generalist" if row["g"] > row["t"] else "task-specific"
        axes.plot([row["g"], row["t"]], [y, y], "-", color=COLOUR[ahead], linewidth=1.6, alpha=0.6)
        for family, key in zip(FAMILIES, "gt", strict=True):
            axes.plot(row[key], y, MARKER[family], color=COLOUR[family], markersize=5)
        best = row["g_model" if ahead == "generalist" else "t_model"]
        axes.text(1.012, y, f"{abs(row['g'] - row['t']):.3f}  {best}", fontsize=7, va="center", color=COLOUR[ahead])
    axes.set_yticks(range(len(rows)), [row["dataset"] for row in rows], fontsize=7.5)
    axes.set_ylim(-0.8, len(rows) - 0.2)
    axes.set_xlim(min(min(row["g"], row["t"]) for row in rows) - 0.02, 1.005)
    axes.grid(axis="x")
    axes.set_xlabel("best published mean DSC; right: by how much the leading family leads, and with which model")
    n = sum(row["g"] > row["t"] for row in rows)
    axes.set_title(
        f"A generalist leads on {n} of {len(rows)} data sets, a task-specific model on {len(rows) - n}", loc="left"
    )
    _families(axes, loc="lower left")
    return _credited(figure, "Best values of different papers, splits and prompts: a lead here is no ranking.")


def memory(base: Base) -> Any:
    """Memory of training against published mean DSC, a panel for each of the six data sets with most models."""
    sql = """
    select dataset_id, any_value(dataset) as dataset, model, any_value(family) as family,
           any_value(train_gpu_memory_gb) as gb, max(value) as value
    from survey_best where train_gpu_memory_gb is not null group by dataset_id, model order by dataset_id, model
    """
    panels: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in base.rows(sql):
        panels[row["dataset"]].append(row)
    chosen = sorted(panels, key=lambda name: (-len(panels[name]), name))[:6]
    figure, grid = plt.subplots(2, 3, figsize=(11, 6.6), sharex=True)
    for axes, name in zip(grid.flat, chosen, strict=False):
        for row in panels[name]:
            axes.plot(row["gb"], row["value"], MARKER[row["family"]], color=COLOUR[row["family"]], alpha=0.75)
        low = min(row["value"] for row in panels[name])
        for row in sorted(panels[name], key=lambda r: -r["value"])[:1]:
            axes.annotate(
                row["model"], (row["gb"], row["value"]), (0, 5), textcoords="offset points", fontsize=7, ha="center"
            )
        axes.set_xscale("log")
        axes.set_ylim(low - 0.03, min(1.0, max(row["value"] for row in panels[name]) + 0.05))
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:g}"))
        axes.grid()
        axes.set_title(f"{name} ({len(panels[name])} models)", loc="left", fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel("GB of all cards together (logarithmic)")
    for axes in grid[:, 0]:
        axes.set_ylabel("published mean DSC")
    _families(grid[0][0], loc="lower right")
    figure.suptitle("Memory of training against DSC", x=0.01, ha="left", fontsize=11)
    return _credited(
        figure,
        "Only models whose memory is known; each panel names its best value. Splits and prompts differ between papers.",
    )


def spread(base: Base) -> Any:
    """The same model on the same data set as different papers report it, widest first."""
    sql = """
    select model, dataset, any_value(family) as family, list(value order by value) as values,
           max(value) - min(value) as range
    from figures where metric = 'DSC' and target = 'mean' and definition is null
          and not regexp_matches(coalesce(setting, ''), 'on [0-9]+ cases')
    group by model, dataset having count(distinct reported_by) > 1 order by range desc, model, dataset
    """
    everything = base.rows(sql)
    rows = everything[:_SPREAD_ROWS][::-1]
    figure, axes = plt.subplots(figsize=(9, 1.4 + 0.19 * len(rows)))
    for y, row in enumerate(rows):
        axes.plot([row["values"][0], row["values"][-1]], [y, y], "-", color=COLOUR[row["family"]], alpha=0.5)
        axes.plot(
            row["values"], [y] * len(row["values"]), MARKER[row["family"]], color=COLOUR[row["family"]], markersize=4
        )
        axes.text(1.012, y, f"{row['range']:.2f}", fontsize=7, va="center")
    axes.set_yticks(range(len(rows)), [f"{row['model']} on {row['dataset']}" for row in rows], fontsize=7.5)
    axes.set_ylim(-0.8, len(rows) - 0.2)
    axes.set_xlim(-0.01, 1.005)
    axes.grid(axis="x")
    axes.set_xlabel("published mean DSC, a mark a figure; right: greatest less least")
    axes.set_title(
        f"One model, one data set, several reporters: the {len(rows)} widest of {len(everything)} pairs", loc="left"
    )
    _families(axes, loc="lower left")
    return _credited(
        figure,
        "No figures of few training cases. Editions, splits, prompts, variants differ: see segwise evidence compare.",
    )


def timeline(base: Base) -> Any:
    """The models that the survey counts, by year of first publication, one name a cell."""
    rows = base.rows(
        "select name, family, year from survey_models where year is not null order by year, family desc, name"
    )
    years = sorted({row["year"] for row in rows})
    columns = {year: [row for row in rows if row["year"] == year] for year in years}
    most = max(map(len, columns.values()))
    figure, axes = plt.subplots(figsize=(1.25 * len(years) + 0.6, _CELL * most + 1.5))
    for x, year in enumerate(years):
        for y, row in enumerate(columns[year]):
            axes.bar(x, 0.9, bottom=y, width=0.94, color=COLOUR[row["family"]], alpha=0.2, linewidth=0)
            axes.plot([x - 0.45], [y + 0.45], MARKER[row["family"]], color=COLOUR[row["family"]], markersize=3.5)
            axes.text(x - 0.38, y + 0.45, _short(row["name"]), fontsize=7, va="center")
    axes.set_xticks(range(len(years)), [f"{year}\n{len(columns[year])}" for year in years])
    axes.set_xlim(-0.55, len(years) - 0.45)
    axes.set_ylim(0, most)
    axes.yaxis.set_visible(False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="x", length=0)
    counts = {family: sum(row["family"] == family for row in rows) for family in FAMILIES}
    words = " and ".join(f"{n} {family}" for family, n in counts.items())
    axes.set_title(f"{words} models by year of first publication", loc="left")
    _families(axes, loc="upper left")
    return _credited(figure, "")


CHARTS: dict[str, Callable[[Base], Any]] = {
    "crossover": crossover,
    "memory": memory,
    "spread": spread,
    "timeline": timeline,
}


def draw_all(base: Base, out: Path, *, format: str = "svg", names: Sequence[str] = tuple(CHARTS)) -> list[Path]:
    """Write the charts as OUT/NAME.svg or .png; their paths.

    Raises:
        SpecError: no such format. FileError: the folder cannot be written.
    """
    if format not in FORMATS:
        raise SpecError(f'--format "{format}": expected {" or ".join(FORMATS)}')
    paths = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in names:
            with plt.rc_context(_STYLE), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Glyph")  # a name in a script that the font lacks is a box
                figure = CHARTS[name](base)
                path = out / f"{name}.{format}"
                date = {"Date": None} if format == "svg" else {}
                figure.savefig(path, bbox_inches="tight", dpi=130, metadata=date, facecolor="white")
                plt.close(figure)
            paths.append(path)
    except OSError as error:
        raise FileError(f"{out}: cannot be written ({error.strerror}); give another folder with -o") from error
    return paths


def _families(axes: Any, *, loc: str) -> None:
    marks = [Line2D([], [], marker=MARKER[f], color=COLOUR[f], linestyle="", markersize=5) for f in FAMILIES]
    axes.legend(marks, FAMILIES, loc=loc, fontsize=8)


def _credited(figure: Any, caution: str) -> Any:
    figure.tight_layout()
    figure.text(0.01, -0.005, " ".join(filter(None, (caution, CREDIT))), fontsize=7, va="top", color="#555555")
    return figure


def _short(name: str, at_most: int = 18) -> str:
    name = name.partition(" (")[0]
    return name if len(name) <= at_most else f"{name[: at_most - 1]}…"
