"""Failure signatures beside a record, so that `report` can say where to look and needs no mask."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np

from segwise.pair import Pair
from segwise.records.types import Record
from segwise.signatures import judge
from segwise.signatures.look import PLANES


def flagged(record: Record, pair: Pair) -> dict[str, Any]:
    """What `crops` stores of a record's failures.

    Args:
        record: its resolved arguments may name the plane whose slices are neighbours.
        pair: its masks and prompt.

    Returns:
        {"failures": JSON {"reference": severities by signature, "blind": the same without the reference, "flags" and
        "blind_flags": as `judge.Flag`, the gravest first}}; "reference" is {} for an empty reference.
    """
    plane = str(record.resolved.get("plane", "axial"))
    judged = judge.judged(pair, plane if plane in PLANES else "axial")
    known = judged.reference
    if not pair.n_reference:
        known = {name: one for name, one in known.items() if name == "hallucination"}
    found = {
        "reference": _rounded(known),
        "flags": [dataclasses.asdict(flag) for flag in judge.flags(judged.seen, known)],
        "blind": _rounded(judged.blind),
        "blind_flags": [dataclasses.asdict(flag) for flag in judge.flags(judged.answered, judged.blind)],
    }
    return {"failures": np.array(json.dumps(found))}


def forget() -> None:
    """Let go of the last pair, which holds a scan."""
    judge.judged.cache_clear()


def _rounded(verdicts: dict[str, judge.Verdict]) -> dict[str, float]:
    return {name: round(one.severity, 3) for name, one in verdicts.items()}
