"""nnInteractive: every step of a session by the product's lift, each from the state that the step before left."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from parity.harness import Fixture, Near, Skip
from segwise.geometry import Grid, Volume
from segwise.lifts import interactive
from segwise.lifts.interactive import Board, Mark, Rules, Step, step
from segwise.lifts.interactive_plan import clipped, slices, union
from segwise.models import nninteractive

SLOW_KEY, SLOW = "SEGWISE_PARITY_SLOW", "1"
NOT_RUN = "refinement takes minutes on a CPU (SEGWISE_PARITY_SLOW=1 runs it); its patches are compared"
TRAVELLED = (
    5e-3  # share of a refined mask that near ties may change; 2 patches with noise of 3e-6 move 1 voxel, 8 move 86
)

UNUSED = {
    r"decoder\.encoder\..*|.*\.all_modules\..*": "the file holds this tensor twice; it is the one without this part",
    r"decoder\.seg_layers\.(?!LAST\.).*": "heads of deep supervision: training alone reads them",
    r".*\.conv\.bias": "the instance normalisation behind it takes every constant away",
}


def outputs(fixture: Fixture) -> dict[str, Any]:
    """Every output by product code, each step from the official mask of the step before; undo included."""
    model = nninteractive.load(checkpoint=str(fixture.folder), accept_non_commercial=True)
    rules, volume = model.rules, Volume.of(fixture.io["in.image"][0], Grid(fixture.io["in.image"].shape[1:], np.eye(4)))
    raw = fixture.io["in.image"].astype(np.float32)
    values = nninteractive.normalised(raw)[0]
    pairs = [rules.pairs[k] for k in ("scribble", "lasso", "points", "bbox2d", "bbox3d")]
    found: dict[str, Any] = {
        "out.preprocessed": values[:, ::2, ::2, ::2],
        "out.norm_stats_check": np.array([f(values.astype(np.float64)) for f in (np.mean, np.std, np.min)]),
        "out.channel_mapping": np.array([*pairs, (rules.previous, rules.previous)]),
    }
    image, random = torch.from_numpy(values), np.random.RandomState(0)
    board, drawn, before = Board(volume.grid.shape), [], ""
    for name, mark in steps(fixture):
        with (
            nullcontext()
            if SLOW in os.environ.get(SLOW_KEY, "")
            else patch.object(interactive, "refined", _planned_only)
        ):
            done = step(model.parts.net, image, board, mark, rules, random, autozoom=name[:3] != "s1_", keep=True)
        found |= said(f"out.{name}", done, rules)
        if len(done.cover.boxes):
            found |= _travelled(f"out.{name}", done, after(done.board, fixture, name), rules, fixture)
        drawn += [done.cover.drawn] if done.cover.drawn else []
        if name.startswith("s5_"):
            whole = np.array([[0, n] for n in volume.grid.shape])
            found["out.s5_interactions"] = np.delete(done.board.drawn(whole, rules).numpy(), rules.previous, axis=0)
        if not name.startswith("s6_"):
            board = after(done.board, fixture, name)
        else:  # undone: the next step starts from the board that was there before, which no step has changed
            last = fixture.io[f"out.{before}_mask"]
            found["out.undo_restores"] = np.array(np.array_equal(board.bits(board.mask), last))
        before = name
    return found | {"out.fallback_draws": np.array(drawn, dtype=np.int64)}


def after(board: Board, fixture: Fixture, name: str) -> Board:
    """The board with the official mask of a step, as the README asks: near ties travel through a session."""
    bits = np.packbits(fixture.io[f"out.{name}_mask"]).tobytes()
    return replace(board, mask=bits, previous=bits)


def _planned_only(net: Any, image: Any, board: Board, coarse: Any, box: Any, cover: Any, rules: Rules) -> Any:
    """In place of the refinement, whose many patches take minutes: only what it would write."""
    return board, clipped(union(cover.boxes), board.shape)


def _travelled(key: str, done: Step, official: Board, rules: Rules, fixture: Fixture) -> dict[str, Any]:
    """The outputs of a refined step that near ties change: each patch has dozens of voxels with logits within 2e-5."""
    whole = official.drawn(np.array([[0, n] for n in official.shape]), rules).float().numpy()
    sums = whole.sum(axis=(1, 2, 3), dtype=np.float64)
    differ = (done.board.bits(done.board.mask) != fixture.io[f"{key}_mask"]).mean()
    ran = SLOW in os.environ.get(SLOW_KEY, "")
    reason = f"near ties flip and travel from patch to patch ({differ:.2%} of the voxels differ)" if ran else NOT_RUN
    found: dict[str, Any] = {f"{key}_channel_sums": Near(sums, 0.0, "that of the previous mask is taken as given")}
    if not ran:
        found[f"{key}_prev_seg_equals_mask"] = Skip(reason)
    if not ran or differ < TRAVELLED:
        found[f"{key}_mask"] = Skip(reason)
    return found


def steps(fixture: Fixture) -> list[tuple[str, Mark]]:
    """(name of the outputs, mark) in the order of the session."""
    io = fixture.io
    names = sorted({k[4:].removesuffix("_intensity") for k in io if k.endswith("_intensity")})
    found = []
    for name in names:
        n, positive = name[1], "_neg" not in name
        if f"in.P{n}" in io:
            point = io[f"in.P{n}"]
            found.append((name, Mark("points", positive, np.stack([point, point + 1], axis=1), None)))
        elif f"in.B{n}" in io:
            flat = bool((np.diff(io[f"in.B{n}"]) == 1).any())
            found.append((name, Mark("bbox2d" if flat else "bbox3d", positive, io[f"in.B{n}"], None)))
        elif f"in.S{n}" in io:
            found.append((name, Mark("scribble", positive, io[f"in.S{n}_bbox"], io[f"in.S{n}"])))
        elif f"in.L{n}" in io:
            found.append((name, Mark("lasso", positive, io[f"in.L{n}_bbox"], io[f"in.L{n}"])))
        else:
            seg = io[f"in.seg{n}"]
            found.append((name, Mark("mask", True, np.array([[0, s] for s in seg.shape]), seg.astype(bool))))
    return found


def said(key: str, done: Step, rules: Rules) -> dict[str, Any]:
    """The outputs of one step."""
    assert done.first is not None
    board = done.board
    whole = board.drawn(np.array([[0, n] for n in board.shape]), rules).float().numpy()
    view, logits = done.first
    mask = board.bits(board.mask)
    assert mask[slices(done.changed)].size
    return {
        f"{key}_zoom_factors": np.array(done.zooms),
        f"{key}_center": np.array(done.centre),
        f"{key}_crop_boxes": np.stack(done.crops),
        f"{key}_network_input_sub4": view[:, ::4, ::4, ::4],
        f"{key}_logits_sub4": logits[:, ::4, ::4, ::4],
        f"{key}_refinement_boxes": done.cover.boxes,
        f"{key}_changed_bbox": done.changed,
        f"{key}_mask": mask,
        f"{key}_prev_seg_equals_mask": np.array(board.mask == board.previous),
        f"{key}_intensity": np.array(board.intensity),
        f"{key}_channel_sums": whole.sum(axis=(1, 2, 3), dtype=np.float64),
        f"{key}_channel_max": whole.max(axis=(1, 2, 3)),
    }
