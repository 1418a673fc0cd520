"""SAM 2: the official image and video predictors' outputs, from our frame, net and memory lift."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from parity.harness import SHARE, Fixture, Near
from parity.sam import picture, places
from segwise.geometry import Channel, Grid, Volume
from segwise.lifts.memory import Memory, Track
from segwise.models import sam2
from segwise.nets import sam2 as sam2_net
from segwise.nets.contract import Decoded, Marks
from segwise.segmenter import State
from segwise.store import FeatureStore

UNUSED: dict[str, str] = {
    r"k_proj\.bias$": "a key's bias adds one number to all scores of a query: softmax drops it",
    r"^no_mem_pos_enc$": "no_mem_embed is added directly: the original never reads it either",
}
BFLOAT = "memories are bfloat16: the fixture's README asks for atol 2e-2 on them and rtol 1e-2 on what is tracked"


def film(frames: np.ndarray) -> Volume:
    """uint8 [T, H, W, 3] as a prepared volume, rows to P and columns to L, voxels of 1 mm."""
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = 1, -1, -1, 1
    return Volume.of(
        np.ascontiguousarray(frames.transpose(3, 0, 1, 2)), Grid(frames.shape[:3], affine), (Channel(),) * 3
    )


@torch.no_grad()
def outputs(fixture: Fixture) -> dict[str, Any]:
    """Every stored output."""
    return images(fixture) | films(fixture)


# Image predictor


def images(fixture: Fixture) -> dict[str, Any]:
    """What the image predictor makes of one picture and each of its prompts."""
    models = {
        n: sam2.load(checkpoint=str(fixture.folder), lift="slices", candidates=c) for n, c in ((1, "one"), (3, "three"))
    }
    net, frame = models[1].parts.net, models[1].parts.frame
    prepared = picture(fixture.io["in.image"])
    view = torch.from_numpy(frame.view(prepared, prepared.grid))[None]
    features = net.encode(view)
    found: dict[str, Any] = {
        "out.model_input": view[0, :, 0],
        "out.image_embed": net.unconditioned(features["map"]),
        "out.high_res_feat0": features["quarter"],
        "out.high_res_feat1": features["eighth"],
    }
    ends = "_low_res_logits"
    qualities = [fixture.io[key] for key in fixture.outs if key.endswith("_iou")]
    for case in sorted(key.removeprefix("out.").removesuffix(ends) for key in fixture.outs if key.endswith(ends)):
        model = models[1 if len(fixture.io[f"out.{case}_iou"]) == 1 else 3]
        decoded = model.parts.net.decode(features, marks_of(fixture, case, frame, prepared.grid))
        found |= {
            f"out.{case}_mask_logits": frame.restore(decoded.logits.numpy(), prepared.grid)[0, :, 0],
            f"out.{case}_iou": lone(decoded.quality[0], qualities)
            if len(decoded.quality[0]) == 1
            else decoded.quality[0],
            f"out.{case}_low_res_logits": decoded.low_res[0],
        }
    return found


def marks_of(fixture: Fixture, case: str, frame: Any, window: Grid) -> Marks:
    """The points and box of a case, in pixels of the original image; E has the logits that B answered."""
    io = fixture.io
    seen = io["out.B_low_res_logits"] if case == "E" else None
    points = places(io.get(f"in.{case}_points", np.empty((0, 2))))
    positive = io.get(f"in.{case}_labels", np.empty(0)) == 1
    corners = places(np.reshape(io.get(f"in.{case}_box", np.empty(0)), (-1, 2, 2)))
    return frame.queries(points, positive, corners, window, seen)


# Video predictor


def films(fixture: Fixture) -> dict[str, Any]:
    """What the video predictor makes of each of its runs."""
    model = sam2.load(checkpoint=str(fixture.folder), lift="memory")
    assert isinstance(model, Memory)
    volume = film(fixture.io["in.video"])
    state = State(volume, volume.grid, FeatureStore())
    found: dict[str, Any] = {
        "out.video_input_frame0": model.frame.view(volume, model.window(state, 0))[:, 0],
    }
    for run in sorted({key.split("_")[0].removeprefix("out.") for key in fixture.outs if re.match(r"out\.V\d+_", key)}):
        found |= one_run(fixture, run, model, state)
    return found


def one_run(fixture: Fixture, run: str, model: Memory, state: State) -> dict[str, Any]:
    """The prompts, frames and memories of a run; its first object is asked with the run's own marks."""
    objects = prompted(fixture, run)
    tracks = [
        Track({place: asked(fixture, run, i, model, state, place)}, 0, state.volume.grid.shape[0])
        for i, (_, place) in enumerate(objects)
    ]
    model.follow(state, tracks)
    found: dict[str, Any] = {}
    for i, (name, place) in enumerate(objects):
        shown = [model.shown(state, track.found[place], place) for track in tracks[: i + 1]]
        found[f"out.{run}_prompt_f{place}_o{name}"] = np.stack(shown)
    for place in range(state.volume.grid.shape[0]):
        key = f"out.{run}_frame{place}"
        if fixture.has(key):
            logits = np.stack([model.shown(state, track.found[place], place) for track in tracks])
            found[key] = tracked(logits)
        found |= kept(model, state, run, tracks[0], place, fixture)
    return found


def prompted(fixture: Fixture, run: str) -> list[tuple[int, int]]:
    """(object, frame) of a run's prompts in the order of adding: each answer has a row for every object so far."""
    matches = [re.fullmatch(rf"out\.{run}_prompt_f(\d+)_o(\d+)", key) for key in fixture.outs]
    keys = sorted((match for match in matches if match), key=lambda match: len(fixture.io[match[0]]))
    return [(int(match[2]), int(match[1])) for match in keys]


def asked(fixture: Fixture, run: str, i: int, model: Memory, state: State, place: int) -> Marks:
    """The marks of an object of a run on a frame."""
    io, window = fixture.io, model.window(state, place)
    if i > 0:  # the fixture stores no click of a second object: it is the first click of the first run
        return model.frame.queries(places(io["in.V1_points"][:1]), np.array([True]), np.empty((0, 2, 3)), window)
    if f"in.{run}_mask" in io:
        return model.frame.masked(io[f"in.{run}_mask"][None])
    return marks_of(fixture, run, model.frame, window)


def kept(model: Memory, state: State, run: str, track: Track, place: int, fixture: Fixture) -> dict[str, Any]:
    """What is remembered of a frame; what a frame without marks answered stands on memories in bfloat16."""
    decoded, given = track.found[place], place in track.marks
    start = f"out.{run}_{'cond' if given else 'noncond'}_f{place}"
    scores = [fixture.io[key] for key in fixture.outs if re.match(rf"out\.{run}_noncond_.*_obj_score$", key)]
    score = decoded.presence[:, None]
    return {
        f"{start}_obj_ptr": decoded.pointer if given else tracked(decoded.pointer),
        f"{start}_obj_score": lone(score, scores) if given else tracked(score, among=scores),
        f"{start}_maskmem": rounded(remembered(model, state, decoded, place, given=given)),
    }


def tracked(value: Any, *, among: Sequence[np.ndarray] = ()) -> Near:
    """Within 1 % of its size, or of that of the numbers it is one of; -1024, of an absent object, does not count."""
    array = np.asarray(value)
    sized = np.concatenate([array.ravel(), *(other.ravel() for other in among)])
    return Near(array, 1e-2 * float(np.abs(sized[sized > sam2_net.ABSENT / 2]).max(initial=0)), BFLOAT)


def lone(value: Any, among: Sequence[np.ndarray]) -> Near:
    """One number has no spread of its own: the tolerance is that of all it is one of."""
    every = np.concatenate([np.ravel(value), *(other.ravel() for other in among)])
    return Near(value, SHARE * float(every.std()), "one number has no spread: that of its kind in all slices counts")


def rounded(memory: torch.Tensor) -> Near:
    """Within 2e-2, or one unit in the last place of bfloat16 where that is more."""
    return Near(memory, max(2e-2, 2.0**-7 * float(memory.abs().max())), BFLOAT)


def remembered(model: Memory, state: State, decoded: Decoded, place: int, *, given: bool) -> torch.Tensor:
    """float32 [1, keys, h, w]: the map that is kept of a frame."""
    (features,) = model.features(state, [place])
    return model.remembering.remember(features, decoded, prompted=given)["map"].float()
