"""Sections that the report gets from here, where the run's plan names a scenario."""

from __future__ import annotations

from pathlib import Path

from segwise.decide import cost_page, scenario, workflow_page
from segwise.decide.measured import measured
from segwise.records.run import Run
from segwise.report.document import Section
from segwise.report.markup import e, note

KEPT = "scenario.toml"  # of a run: what its plan's file said when it last ran, which a report written again takes


def keep(run_dir: Path | str, name: str) -> None:
    """A copy of a user's own scenario in the run; nothing for a shipped one, or where there is no run."""
    run, file = Path(run_dir), Path(name)
    if name and name not in scenario.shipped() and run.is_dir() and file.is_file():
        part = run / f".{KEPT}.tmp"
        part.write_bytes(file.read_bytes())
        part.replace(run / KEPT)


def sections(run_dir: Path | str) -> list[Section]:
    """Cost of ownership and workflow; [] if the plan names no scenario or nothing of the run can be measured.

    Raises:
        PlanError: the scenario is wrong. RunError: not a run.
    """
    run = Run.read(run_dir)
    name = (run.about().get("plan") or {}).get("scenario")
    if not name:
        return []
    own = run.path / KEPT
    if name not in scenario.shipped() and not own.is_file() and not Path(name).is_file():  # a run of older days, moved
        lost = f"The plan's scenario, {e(name)}, is no longer there: segwise cost RUN -s FILE.toml writes this page."
        return [("cost", "Cost of ownership", note(lost, kind="warn"))]
    kept = own.is_file() and name not in scenario.shipped()
    site = scenario.read(own, called=Path(name).stem) if kept else scenario.read(name)
    arms = measured(run.records(), run.scores())
    return [cost_page.section(arms, site), workflow_page.section(arms, site)] if arms else []
