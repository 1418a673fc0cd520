"""The commands `segwise evidence ...`: published figures listed, compared, recomputed and drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segwise.cli import show as screen
from segwise.cli import show_evidence as sheet

evidence_app = typer.Typer(
    no_args_is_help=True, help="What others published: models, data sets, figures and costs, each with its source."
)

Family = Annotated[str, typer.Option(help="generalist or task-specific.")]
Fusion = Annotated[str, typer.Option(help="Fusion level of the survey: F0 to F4, or none.")]
Adaptation = Annotated[str, typer.Option(help="Words of how a model was adapted, such as LoRA or adapters.")]
Dims = Annotated[str, typer.Option(help="2D or 3D.")]
PromptKind = Annotated[
    str, typer.Option("--prompt", help="point, box, text, examples or none; or as stated: '1 point'.")
]
Organ = Annotated[str, typer.Option(help="A structure, by any name that segwise knows.")]
Region = Annotated[str, typer.Option(help="A main structure of the survey, such as Brain or 'Abdominal Organs'.")]
Dataset = Annotated[str, typer.Option(help="Id or name of a data set.")]
Model = Annotated[str, typer.Option("-m", "--model", help="Id or name of a model.")]
MetricName = Annotated[str, typer.Option("--metric", help="DSC, IoU, NSD, HD95, HD or ASSD.")]
Year = Annotated[str, typer.Option(help="Of the model: 2024 or 2020-2024.")]
ReportedBy = Annotated[str, typer.Option(help="primary (the model's own authors), or words of the paper that reports.")]
Sort = Annotated[str, typer.Option(help="A column; -COLUMN for the greatest first.")]
Format = Annotated[str, typer.Option(help="table, csv or json.")]
Cite = Annotated[str, typer.Option(help="Instead of the rows: whom to cite for them, as text or bibtex.")]
More = Annotated[list[Path] | None, typer.Option("--add", help="TOML file with figures of your own; repeat.")]
Everything = Annotated[bool, typer.Option("--all", help="models: also what the survey does not count, and studies.")]


TABLES = {
    "models": "List models: the survey's 48 generalist and 24 task-specific ones; --all adds those it does not count.",
    "datasets": "List data sets; filters on models and figures keep those with such a figure.",
    "results": "List published figures. A list is no ranking: segwise evidence compare says what may be ranked.",
    "compute": "List published parameters, FLOPs, memory and hours.",
}


def _lists(table: str) -> None:
    """Add the command that lists a table; all take the same filters."""

    def command(
        family: Family = "",
        fusion: Fusion = "",
        adaptation: Adaptation = "",
        dims: Dims = "",
        prompt: PromptKind = "",
        organ: Organ = "",
        region: Region = "",
        dataset: Dataset = "",
        model: Model = "",
        metric: MetricName = "",
        year: Year = "",
        reported_by: ReportedBy = "",
        sort: Sort = "",
        format: Format = "table",
        cite: Cite = "",
        add: More = None,
        all_: Everything = False,
    ) -> None:
        from segwise import anatomy
        from segwise.evidence.base import open_base
        from segwise.evidence.query import Filters, ask

        sheet.check(format, cite)
        name = anatomy.resolve(organ).name
        wanted = Filters(
            family=family,
            fusion=fusion,
            adaptation=adaptation,
            dims=dims,
            prompt=prompt,
            organ=(name, *(anatomy.union_of(name) or ())) if organ else (),
            region=region,
            dataset=dataset,
            model=model,
            metric=metric,
            year=year,
            reported_by=reported_by,
        )
        found = ask(open_base(add or ()), table, wanted, sort=sort, whole=all_)
        sheet.listed(table, found, wanted, format=format, cite=cite)

    evidence_app.command(table, help=TABLES[table])(command)


for _name in TABLES:
    _lists(_name)


@evidence_app.command()
def compare(
    dataset: Annotated[str, typer.Option(help="Id or name of a data set.")],
    target: Annotated[str, typer.Option("-t", "--target", help="A structure; default: the mean of all.")] = "mean",
    metric: Annotated[str, typer.Option(help="DSC, NSD, HD95 or HD.")] = "DSC",
    run: Annotated[list[Path] | None, typer.Option(help="Folder of a run of your own to set beside; repeat.")] = None,
    called: Annotated[
        list[str] | None,
        typer.Option(help="What your runs call that data set, if it is a name of yours; repeat."),
    ] = None,
    format: Format = "table",
    cite: Cite = "",
    add: More = None,
) -> None:
    """Set figures of one data set and target side by side, and rank only those that are comparable."""
    from segwise import anatomy
    from segwise.evidence import compare as room
    from segwise.evidence.base import open_base
    from segwise.evidence.query import find
    from segwise.evidence.schema import METRICS
    from segwise.report.measured import Named, of_runs

    sheet.check(format, cite)
    base = open_base(add or ())
    id, metric = find(base, "dataset", dataset), next((m for m in METRICS if m.lower() == metric.lower()), metric)
    name = anatomy.resolve(target).name
    mine = Named(base, id, tuple(called or ()))
    once = list(dict.fromkeys(path.resolve() for path in run or ()))
    own = of_runs(once, mine, name, metric)
    found = room.published(base, id, (name,), metric)
    sheet.comparison(room.beside([*own, *found], dataset=id, target=name, metric=metric), format=format, cite=cite)


@evidence_app.command()
def reproduce(
    format: Format = "table",
    claims: Annotated[Path | None, typer.Option(help="TOML file with claims of your own instead.")] = None,
    add: More = None,
) -> None:
    """Recompute what the survey says of its own base, with the filter of each number. Exit code 1 if one is off."""
    from segwise.evidence import statements
    from segwise.evidence.base import open_base

    sheet.check(format, "")
    found = statements.reproduce(open_base(add or ()), statements.read(claims))
    sheet.reproduced(found, format=format)
    if any(outcome.verdict == "not reproduced" for outcome in found):
        raise typer.Exit(1)


@evidence_app.command()
def charts(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the charts.")],
    format: Annotated[str, typer.Option(help="svg or png.")] = "svg",
    add: More = None,
) -> None:
    """Draw who leads on which data set, memory against DSC, how far reporters differ, and when models came."""
    from segwise.evidence.base import open_base
    from segwise.report.charts import draw_all

    with screen.spinner("drawing"):
        paths = draw_all(open_base(add or ()), out, format=format)
    for path in paths:
        screen.done("Chart", path)
