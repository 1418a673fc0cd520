"""Failure signatures beside a record, so that `report` can say where to look and needs no mask."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np

from segwise.pair import Pair
from segwise.records.types import Record
from segwise.signatures import judge, look


def flagged(record: Record, pair: Pair) -> dict[str, Any]:
    """What `crops` stores of a record's failures.

    Args:
        record: its resolved arguments may name the plane whose slices are neighbours.
        pair: its masks and prompt.

    Returns:
        {"failures": JSON {"reference": severities by signature, "blind": the same without the reference, "flags" and
        "blind_flags": as `judge.Flag`, the gravest first}}; "reference" is {} for an empty reference.
    """
    seen = look.look(pair, plane=str(record.resolved.get("plane", "axial")))
    found: dict[str, Any] = {"reference": {}, "flags": []}
    blind = judge.judge(seen, blind=True)
    found["blind"] = _rounded(blind)
    found["blind_flags"] = [dataclasses.asdict(flag) for flag in judge.flags(seen, blind)]
    verdicts = judge.judge(seen, blind=False) if pair.reference is not None else {}
    if not pair.n_reference:
        verdicts = {name: one for name, one in verdicts.items() if name == "hallucination"}
    found["reference"] = _rounded(verdicts)
    found["flags"] = [dataclasses.asdict(flag) for flag in judge.flags(seen, verdicts)]
    return {"failures": np.array(json.dumps(found))}


def _rounded(verdicts: dict[str, judge.Verdict]) -> dict[str, float]:
    return {name: round(one.severity, 3) for name, one in verdicts.items()}
