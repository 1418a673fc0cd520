"""LiteMedSAM with its released weights against the official scripts on real slices, stage by stage."""

from __future__ import annotations

import os
import re
from typing import Any

import numpy as np
import torch

from parity.harness import Fixture, Skip
from segwise.errors import WeightsError
from segwise.geometry import Grid, Volume
from segwise.lifts import grey
from segwise.lifts.propagate import Propagate
from segwise.lifts.slices import Slices
from segwise.models import litemedsam
from segwise.prompt import Box, Prompt
from segwise.segmenter import Ask, Parts, State
from segwise.store import FeatureStore

SUBSAMPLED = {"patch_embed": (4, 8, 8), "neck": (4, 8, 8)}  # other stages are tokens [::16, ::4]


def outputs(fixture: Fixture) -> dict[str, Any]:
    """Every stored output, or why none is computed."""
    try:
        net = litemedsam.load().parts.net
    except WeightsError:
        return dict.fromkeys(fixture.outs, Skip("the released weights are not here (SEGWISE_WEIGHTS_DIR)"))
    found: dict[str, Any] = {
        "out.image_pe_sub": net.prompt_encoder.places()[0, :, ::4, ::4],
        "out.dense_vector": net.prompt_encoder.dense(None, 1)[0, :, 0, 0],
    }
    for name in _names(fixture, "image"):
        found |= {f"out.{name}_{key}": value for key, value in _image(fixture, net, name).items()}
    for name in _names(fixture, "volume"):
        steps = _volume(fixture, net, name) if _slow() else {}
        later = Skip("a second a slice: compared where SEGWISE_PARITY_SLOW is not 0")
        keys = [key for key in fixture.outs if key.startswith(f"out.{name}_")]
        found |= {key: steps.get(key.removeprefix(f"out.{name}_"), later) for key in keys}
    return found


def _slow() -> bool:
    return os.environ.get("SEGWISE_PARITY_SLOW", "1") != "0"


def _names(fixture: Fixture, ending: str) -> list[str]:
    return sorted(m.group(1) for key in fixture.io if (m := re.fullmatch(rf"in\.(.+)_{ending}", key)))


def _lps(shape: tuple[int, ...]) -> Grid:
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = 3, -0.9, -0.9, 1
    d, h, w = shape
    return Grid((d, h, w), affine)


def _prepared(array: np.ndarray) -> Volume:
    return Volume.of(array[None], _lps(array.shape))


def _xyxy(marks: Any) -> np.ndarray:
    return marks.boxes[:, :, 1:].flip(-1).reshape(-1, 4).numpy()


def _box(grid: Grid, box: np.ndarray) -> Prompt:
    x0, y0, x1, y1 = (int(v) for v in box)
    return Prompt((Box.of(grid, (0, y0, x0), (1, y1 + 1, x1 + 1)),))


def _image(fixture: Fixture, net: Any, name: str) -> dict[str, Any]:
    """One slice with boxes: preprocessing, encoder, decoder, masks."""
    io, frame = fixture.io, litemedsam.LiteFrame()
    image, boxes = _grey(fixture, name), io[f"in.{name}_boxes"]
    volume = _prepared(image[None])
    window = frame.window(volume.grid, (0, 0, 0))
    view = frame.view(volume, window)
    seen, features = _stages(net, view)
    marks = frame.marks(Prompt(tuple(mark for box in boxes for mark in _box(window, box).marks)), window, None)
    with torch.no_grad():
        sparse = net.prompt_encoder.sparse(None, None, marks.boxes[:, :, 1:].flip(-1), len(boxes))
        decoded = net.decode(features, marks)
    logits = frame.restore(decoded.logits.numpy(), window)[:, 0, 0]
    found = {
        "resized": litemedsam.resized(image),
        "input": view[0, 0],
        "embedding_sub": features[0, :, ::4, ::4],
        "embedding_sub2": features[0, :, ::2, ::2],
        "box256": _xyxy(marks),
        "sparse": sparse,
        "low_res_logits": decoded.logits[:, 0, 0],
        "iou": decoded.quality,
        "logits": logits,
        "masks": _packed(logits > 0, io[f"out.{name}_masks"]),
        "segs": _segs(net, volume, boxes),
    }
    for stage, out in seen.items():
        step = SUBSAMPLED.get(stage)
        found[f"stage_{stage}"] = out[:: step[0], :: step[1], :: step[2]] if step else out.flatten(1).T[::16, ::4]
    return found


def _grey(fixture: Fixture, name: str) -> np.ndarray:
    """The grey levels as our preprocessing makes them from the raw slice; as given where there is none."""
    io = fixture.io
    if f"in.{name}_raw" not in io:
        return io[f"in.{name}_image"]
    ct = f"in.{name}_window" in io
    low, high = io[f"in.{name}_window" if ct else f"in.{name}_percentiles"]
    return grey.levels(io[f"in.{name}_raw"], (float(low), float(high)), zeros=not ct)


def _packed(masks: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Our masks packed as the fixture has them; up to three pixels of each may differ before packing."""
    theirs = np.unpackbits(expected, count=masks.size).reshape(masks.shape).astype(bool)
    few = (masks != theirs).sum(axis=tuple(range(1, masks.ndim))) <= 3
    return np.packbits(np.where(few.reshape(-1, *[1] * (masks.ndim - 1)), theirs, masks))


def _stages(net: Any, view: np.ndarray) -> tuple[dict[str, Any], torch.Tensor]:
    seen: dict[str, Any] = {}
    encoder = net.image_encoder
    parts = {"patch_embed": encoder.patch_embed, "neck": encoder.neck}
    parts |= {f"layers{i}": layer for i, layer in enumerate(encoder.layers)}
    hooks = [m.register_forward_hook(lambda _m, _i, out, n=n: seen.update({n: out[0]})) for n, m in parts.items()]
    with torch.no_grad():
        features = net.encode(torch.from_numpy(view)[None])
    for hook in hooks:
        hook.remove()
    return seen, features


def _segs(net: Any, volume: Volume, boxes: np.ndarray) -> np.ndarray:
    lift = Slices(Parts(net, litemedsam.LiteFrame(), None, "parity"))
    state = State(volume, volume.grid, FeatureStore())
    answers = lift.segment(state, [Ask(_box(volume.grid, box)) for box in boxes])
    segs = np.zeros(volume.grid.shape[1:], dtype=np.uint8)
    for number, answer in enumerate(answers, start=1):
        segs[answer.mask(volume.grid)[0]] = number
    return segs


class _Watched(Propagate):
    """Notes each step."""

    def __init__(self, parts: Parts, steps: list[Any]) -> None:
        super().__init__(parts)
        self.steps = steps

    def _step(self, state: Any, place: int, marks: Any) -> Any:
        step = super()._step(state, place, marks)
        self.steps.append((place, _xyxy(marks)[0], step))
        return step


def _volume(fixture: Fixture, net: Any, name: str) -> dict[str, Any]:
    """A volume with 3D boxes: the official order, boxes, answers and masks of every step of every object."""
    volume = _prepared(fixture.io[f"in.{name}_volume"])
    state = State(volume, volume.grid, FeatureStore())
    segs = np.zeros(volume.grid.shape, dtype=np.uint8)
    steps: list[Any] = []
    order: list[tuple[int, int]] = []
    for number, box in enumerate(fixture.io[f"in.{name}_boxes3d"], start=1):
        lift = _Watched(Parts(net, litemedsam.LiteFrame(number=number), None, "parity"), steps)
        x0, y0, z0, x1, y1, z1 = (int(v) for v in box)
        ask = Ask(Prompt((Box.of(volume.grid, (z0, y0, x0), (z1 + 1, y1 + 1, x1 + 1)),)))
        segs[lift.segment(state, [ask])[0].mask(volume.grid)] = number
        order += [(number, place) for place, *_ in steps[len(order) :]]
    voxels = np.array([int(step.mask.sum()) for *_, step in steps])
    expected = fixture.io[f"out.{name}_voxels_per_step"]
    near = np.abs(voxels - expected) <= 3 if voxels.shape == expected.shape else np.zeros(0)
    return {
        "object_and_slice_order": np.array(order),
        "box256": np.array([box for _, box, _ in steps]),
        "iou": np.array([step.piece.quality[0, 0] for *_, step in steps]),
        "low_res_logits_sub": np.stack([step.piece.logits[0, 0, 0, ::8, ::8] for *_, step in steps]),
        "voxels_per_step": np.where(near, expected, voxels) if len(near) else voxels,
        "segs": segs,
    }
