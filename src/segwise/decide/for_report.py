"""Sections that the report gets from here, where the run's plan names a scenario."""

from __future__ import annotations

from pathlib import Path

from segwise.decide import cost_page, scenario, workflow_page
from segwise.decide.measured import measured
from segwise.records.run import Run
from segwise.report.document import Section


def sections(run_dir: Path | str) -> list[Section]:
    """Cost of ownership and workflow; [] if the plan names no scenario or nothing of the run can be measured.

    Raises:
        PlanError: the scenario is wrong. RunError: not a run.
    """
    run = Run.read(run_dir)
    name = (run.about().get("plan") or {}).get("scenario")
    if not name:
        return []
    site, arms = scenario.read(name), measured(run.records(), run.scores())
    return [cost_page.section(arms, site), workflow_page.section(arms, site)] if arms else []
