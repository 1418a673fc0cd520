"""The program `segwise`: every command in one place, each a few lines that parse, call and show.

Nothing heavy is imported before a command needs it: `segwise --help`, `list` and `show` work without numpy or torch.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segwise import __version__
from segwise.cli import decide
from segwise.cli import show as screen
from segwise.cli.distill import convert, distill
from segwise.cli.evidence import evidence_app
from segwise.cli.pretrain import pretrain
from segwise.cli.study import compared, generated, studied
from segwise.cli.train import adapt, train
from segwise.cli.weights import Json, weights_app
from segwise.errors import SegwiseError, SpecError, is_no_memory

if TYPE_CHECKING:
    from segwise.records.types import Plan

app = typer.Typer(
    name="segwise",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Generalist or specialist? Compare segmentation models on your own CT and MR volumes.",
    epilog="Start with: segwise demo",
)
app.add_typer(weights_app, name="weights")
app.add_typer(evidence_app, name="evidence")
app.command()(train)
app.command()(adapt)
app.command()(distill)
app.command()(convert)
app.command()(pretrain)
app.command()(decide.cost)
app.command()(decide.workflow)
app.command()(decide.facts)
app.command()(decide.consent)

Layout = Annotated[str | None, typer.Option(help="Layout of the data set; default: recognised from the folder.")]
Out = Annotated[Path, typer.Option("-o", "--out", help="Where to write.")]
RunOut = Annotated[
    Path | None, typer.Option("-o", "--out", help="Folder of the run; not needed with --dry-run on --data.")
]
Workers = Annotated[
    int, typer.Option(min=1, help="Processes that run tasks, and trainings of a study; each loads its own model.")
]
Features = Annotated[
    Path | None,
    typer.Option(
        help="Folder where encoded scans are kept, so that another run on the same scans need not encode them again "
        "(up to 20 GiB; the seconds of encoding are reported as if there were none)."
    ),
]


@app.callback(invoke_without_command=True)
def _main(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        typer.echo(f"segwise {__version__}")
        raise typer.Exit


@app.command()
def demo(
    out: Out = Path("runs/demo"),
    pull: Annotated[bool, typer.Option(help="Try to bring LiteMedSAM's weights first.")] = False,
) -> None:
    """Compare models on built-in procedural scans and write an HTML report (about two minutes)."""
    from segwise import api

    if pull:
        screen.try_pull("litemedsam")
    with screen.progress() as tick:
        path = api.demo(out, progress=tick, expect=tick.expect)
    screen.done("Report", path)


@app.command()
def inspect(
    paths: Annotated[list[Path], typer.Argument(help="Images, label files, DICOM folders or zips.")],
    json: Json = False,
    series: Annotated[int | None, typer.Option(help="Number of a DICOM series among those found.")] = None,
    volume: Annotated[int | None, typer.Option(help="Number of a volume in a 4D file, from 0.")] = None,
    spacing: Annotated[
        str | None, typer.Option(help="Spacing in mm, d,h,w, for a file that has none; takes a 2D file as one slice.")
    ] = None,
) -> None:
    """Say what a file holds, what is odd about it, and what Segwise would do. Exit 0: would be read; 2: refused."""
    from segwise import api

    found = api.inspect(paths, series=series, volume=volume, spacing_mm=_spacing(spacing))
    screen.inspections(found, json=json)
    if not api.would_read(found):
        raise typer.Exit(2)


@app.command()
def cases(
    data: Annotated[Path, typer.Argument(help="Folder of a data set.")], layout: Layout = None, json: Json = False
) -> None:
    """List the cases of a data set and what can be segmented in them."""
    from segwise import api

    with screen.spinner(f"reading {data}"):
        found = api.cases(data, layout=layout)
    screen.cases(found, json=json)
    if found and all(case["error"] for case in found):
        raise typer.Exit(2)


@app.command("list")
def list_(
    kind: Annotated[
        str, typer.Argument(help="models, datasets, prompters, metrics, adapters, wrappers, plans or recipes")
    ],
    json: Json = False,
) -> None:
    """List the members of a kind."""
    screen.members(kind, json=json)


@app.command()
def show(
    kind: Annotated[str, typer.Argument(help="models, datasets, prompters, metrics, adapters, wrappers or plans")],
    name: Annotated[str, typer.Argument(help="Its name, as in segwise list; a model's may have arguments.")],
    json: Json = False,
) -> None:
    """Show everything a member declares: what it takes, its arguments, licence, sources."""
    screen.member(kind, name, json=json)


@app.command()
def segment(
    image: Annotated[Path, typer.Argument(help="The scan: NIfTI, NRRD, MHA, MGZ, DICOM folder or zip.")],
    out: Out,
    model: Annotated[
        str, typer.Option("-m", "--model", help="Spec, as in segwise list models; the default takes boxes and points.")
    ] = "default",
    box: Annotated[list[str] | None, typer.Option(help="d0,h0,w0,d1,h1,w1: voxels, half-open.")] = None,
    point: Annotated[list[str] | None, typer.Option(help="d,h,w,+ on the target or d,h,w,- beside it.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="Name of a structure; several give a label map.")] = None,
    mm: Annotated[bool, typer.Option("--mm", help="Boxes are x0,y0,z0,x1,y1,z1 and points x,y,z, in mm RAS.")] = False,
    modality: Annotated[str, typer.Option(help="CT or MR, where the file does not say.")] = "",
    series: Annotated[int | None, typer.Option(help="Number of a DICOM series.")] = None,
    volume: Annotated[int | None, typer.Option(help="Number of a volume in a 4D file, from 0.")] = None,
    spacing: Annotated[
        str | None, typer.Option(help="Spacing in mm, d,h,w, for a file that has none; takes a 2D file as one slice.")
    ] = None,
    json: Json = False,
) -> None:
    """Segment one scan and write the mask on its exact grid (.nii.gz, .nii, .nrrd or .mha)."""
    from segwise import api

    with screen.working(f"segmenting {image.name} with {model}"):
        answer = api.segment(
            image,
            model,
            out,
            boxes=tuple(box or ()),
            points=tuple(point or ()),
            texts=tuple(text or ()),
            mm=mm,
            modality=modality,
            series=series,
            volume=volume,
            spacing_mm=_spacing(spacing),
        )
    screen.answer(answer, json=json)


@app.command()
def annotate(
    session: Annotated[Path, typer.Argument(help="File that keeps the session (.json); begun if it is not there.")],
    image: Annotated[Path, typer.Argument(help="The scan, the same in every call.")],
    model: Annotated[
        str | None, typer.Option("-m", "--model", help="Spec; needed to begin, another one later switches the model.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="The object; default: the one spoken about last.")] = None,
    box: Annotated[list[str] | None, typer.Option(help="d0,h0,w0,d1,h1,w1: voxels, half-open.")] = None,
    point: Annotated[list[str] | None, typer.Option(help="d,h,w,+ on the target or d,h,w,- beside it.")] = None,
    stroke: Annotated[
        list[str] | None, typer.Option(help="'d,h,w d,h,w ... +' along the target, or '... -' beside it.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="Name of a structure.")] = None,
    deed: Annotated[str, typer.Option("--do", help="say, undo, redo, accept or resume.")] = "say",
    mm: Annotated[bool, typer.Option("--mm", help="Marks are in mm RAS.")] = False,
    modality: Annotated[str, typer.Option(help="CT or MR, where the file does not say.")] = "",
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Where to write the label map of all objects.")
    ] = None,
    json: Json = False,
) -> None:
    """Segment one scan step by step: say, undo, redo, switch the model, accept; a file remembers everything."""
    from segwise import annotate as by_hand

    with screen.working(f"{deed} on {image.name}"):
        turn = by_hand.annotate(
            session,
            image,
            model=model,
            target=target,
            deed=deed,
            boxes=tuple(box or ()),
            points=tuple(point or ()),
            strokes=tuple(stroke or ()),
            text=text,
            mm=mm,
            modality=modality,
            out=out,
        )
    screen.turn(turn, json=json)


@app.command()
def compare(
    data: Annotated[Path, typer.Argument(help="Folder of a data set.")],
    model: Annotated[list[str], typer.Option("-m", "--model", help="Spec of a model; repeat for several.")],
    prompter: Annotated[
        list[str] | None,
        typer.Option("-p", "--prompter", help="Spec of a simulated user; repeat. Models that take text need none."),
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option("-t", "--target", help="Only these structures, by commas; or repeat.")
    ] = None,
    case: Annotated[
        list[str] | None, typer.Option("-c", "--case", help="Only these cases, by commas; or repeat.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="Metric, or a measure like DSC; repeat. Default: all.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Draws of prompters that draw.")] = 1,
    out: RunOut = None,
    layout: Layout = None,
    workers: Workers = 1,
    features: Features = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print how many tasks and what is left out.")] = False,
) -> None:
    """Compare models on the same cases with the same prompts, and write a report. Repeat to resume."""
    from segwise import api

    plan = api.compare_plan(
        tuple(model),
        tuple(prompter or ()),
        targets=by_commas(target),
        cases=by_commas(case),
        metrics=tuple(metric or ()),
        seeds=seeds,
    )
    _experiment(plan, data, out, layout=layout, workers=workers, features=features, dry_run=dry_run)


def by_commas(texts: list[str] | None) -> tuple[str, ...]:
    """Names of an option that may be repeated, and may name several."""
    return tuple(name.strip() for text in texts or () for name in text.split(",") if name.strip())


@app.command()
def run(
    plan: Annotated[str, typer.Argument(help="Name of a shipped plan (segwise list plans) or path of a .toml file.")],
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of a data set; repeat for several: a study trains on the first, and tests on the others too. "
            "Not needed by a plan that makes its own persons."
        ),
    ] = None,
    out: RunOut = None,
    layout: Layout = None,
    workers: Workers = 1,
    features: Features = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print how many tasks and what is left out.")] = False,
) -> None:
    """Run a plan on a data set, and write a report; a study trains its models first. Repeat to resume."""
    from segwise import api

    found = api.read_plan(plan)
    api.check_plan(found)
    if found.study is not None:
        studied(found, data or [], out, layout=layout, workers=workers, features=features, dry_run=dry_run)
        return
    data = data or generated(found, out)
    if not data:
        raise SpecError(f"{plan} compares on your data: give --data FOLDER")
    _experiment(found, data, out, layout=layout, workers=workers, features=features, dry_run=dry_run)


@app.command()
def score(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    metric: Annotated[
        list[str] | None, typer.Option(help="Metric, or a measure like DSC; repeat. Default: the plan's.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Where the data set lies now, if it has moved.")] = None,
) -> None:
    """Score the stored masks of a run (again); needs neither models nor torch."""
    from segwise import api

    with screen.progress() as tick:
        n = api.score(run_dir, metrics=tuple(metric or ()), data=data, progress=tick)
    typer.echo(f"{n} scores written to {run_dir}")


@app.command()
def export(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    format: Annotated[str, typer.Option(help="csv, parquet or jsonl")] = "csv",
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Default: standard output.")] = None,
) -> None:
    """Write all scores of a run as a table, skipped and failed ones included."""
    from segwise import api

    api.export(run_dir, format=format, out=out)


@app.command()
def report(run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]) -> None:
    """Write RUN/report.html from the records of a run."""
    from segwise import api

    with screen.spinner("writing the report"):
        path = api.report(run_dir)
    screen.done("Report", path)


def _experiment(
    plan: Plan,
    data: Path | list[Path],
    out: Path | None,
    *,
    layout: str | None,
    workers: int,
    features: Path | None,
    dry_run: bool,
) -> None:
    from segwise import api

    if out is None and not dry_run:
        raise SpecError("nothing says where the run goes; give -o RUN, or --dry-run to only count tasks")
    preview = api.preview(plan, data, layout=layout)
    screen.preview(preview)
    if dry_run or out is None:
        return
    with screen.progress() as tick:
        path = api.run(
            preview,
            out,
            workers=workers,
            features=features,
            progress=tick,
            expect=tick.expect,
            command=tuple(sys.argv[1:]),
        )
    compared([preview], out, path)


def _spacing(text: str | None) -> tuple[float, float, float] | None:
    if text is None:
        return None
    from segwise.asked import numbers

    d, h, w = numbers(text, 3, "--spacing", "d,h,w in mm")
    return d, h, w


def main() -> None:
    """Run the program; a `SegwiseError` becomes one message and exit code 2."""
    try:
        app(standalone_mode=True)
    except SegwiseError as error:
        screen.error(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        _stopped()
    except SystemExit as left:
        if left.code == 130:  # typer's word for Ctrl-C
            _stopped()
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        if os.environ.get("SEGWISE_DEBUG"):
            raise
        place = error.filename or "a file"
        screen.error(f"{place}: {error.strerror or error}; expected a place that exists, can be written and has space")
        sys.exit(2)
    except Exception as error:
        if os.environ.get("SEGWISE_DEBUG"):
            raise
        if is_no_memory(error):
            screen.error(
                f"out of memory ({error}); expected to fit: take smaller settings, a smaller model or scan, or another "
                "machine"
            )
            sys.exit(2)
        screen.error(f"internal error, please report it: {type(error).__name__}: {error} (SEGWISE_DEBUG=1 shows where)")
        sys.exit(1)


def _stopped() -> None:
    screen.error(
        "stopped; no half file is left, and what a run, session or training has finished is kept: repeat to go on"
    )
    sys.exit(130)


if __name__ == "__main__":
    main()
