"""What a run could not answer, and what of the question remains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segwise.report import transfer
from segwise.report.gather import Gathered
from segwise.report.markup import e, note


def section(gathered: Gathered, meta: Mapping[str, Any]) -> str:
    """HTML of the section: what `evaluate` found before the run, and each structure held out; "" if nothing is left."""
    lines = [str(line) for line in meta.get("unanswered") or ()]
    if not lines:
        return ""
    arms = [arm for arm in gathered.arms if arm.ranked]
    return "".join(note(e(line), kind="warn") for line in lines) + transfer.anatomies(arms, gathered.primary)
