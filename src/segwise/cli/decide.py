"""`segwise cost`, `workflow`, `facts` and `consent`: parse, call, show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segwise.cli import show as screen

RunDir = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")]
Of = Annotated[
    str, typer.Option("-s", "--scenario", help="small-hospital, research-centre, trial-core-lab or a .toml.")
]
Generalist = Annotated[str, typer.Option(help="Which model of the run stands for the generalist; default: the best.")]
Specialist = Annotated[str, typer.Option(help="Which model of the run stands for the specialist; default: the best.")]


def cost(
    run_dir: RunDir,
    scenario: Of = "small-hospital",
    out: Annotated[Path, typer.Option("-o", "--out", help="The page to write.")] = Path("cost.html"),
    generalist: Generalist = "",
    specialist: Specialist = "",
) -> None:
    """Total cost of ownership of generalist and specialist, their break-even, and what every assumption does."""
    from segwise.decide import cost_page
    from segwise.decide import scenario as scenarios

    with screen.spinner("computing the cost"):
        text = cost_page.page(run_dir, scenarios.read(scenario), generalist=generalist, specialist=specialist)
    screen.done("Cost", written(out, text))


def workflow(
    run_dir: RunDir,
    scenario: Of = "small-hospital",
    out: Annotated[Path, typer.Option("-o", "--out", help="The page to write.")] = Path("workflow.html"),
    model: Annotated[list[str] | None, typer.Option("-m", "--model", help="Only this model; repeat.")] = None,
) -> None:
    """Simulate shifts: click to mask, minutes a case, cases an hour, utilisation, against drawing by hand."""
    from segwise.decide import scenario as scenarios
    from segwise.decide import workflow_page

    with screen.spinner("simulating shifts"):
        text = workflow_page.page(run_dir, scenarios.read(scenario), models=tuple(model or ()))
    screen.done("Workflow", written(out, text))


def facts(
    run_dir: RunDir,
    model: Annotated[str, typer.Option("-m", "--model", help="Model of the run: its spec, or its bare name.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The page to write.")] = Path("facts.html"),
) -> None:
    """Facts about a model: use, training data, accuracy, failures, what was never tested, a checklist of regulation."""
    from segwise.decide import facts_page

    with screen.spinner("gathering facts"):
        text = facts_page.page(run_dir, model)
    screen.done("Facts", written(out, text))


def consent(
    run_dir: RunDir,
    model: Annotated[str, typer.Option("-m", "--model", help="Model of the run: its spec, or its bare name.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the papers.")] = Path("consent"),
) -> None:
    """Drafts for an ethics board: a plain sheet for patients, a questionnaire with key, a protocol to validate it."""
    from segwise.decide import consent as papers
    from segwise.decide.reading import TARGET

    with screen.spinner("writing the papers"):
        found = papers.write(run_dir, model, out)
    good = "reaches" if found.reading.ease >= TARGET else "misses"
    screen.note(f"reading ease {found.reading.ease:.0f}, {good} the target of {TARGET:.0f}; version {found.version}")
    screen.done("Consent", found.folder)


def written(path: Path, text: str) -> Path:
    """Writes a page whole or not at all; its path.

    Raises:
        FileError: the place cannot be written.
    """
    from segwise.errors import FileError

    half = path.with_name(f".{path.name}.tmp")
    try:
        half.write_text(text, encoding="utf-8")
        half.replace(path)
    except OSError as error:
        raise FileError(
            f"{path}: cannot be written ({error.strerror}); give -o FILE in a folder that exists"
        ) from error
    return path
