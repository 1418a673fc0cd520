"""nnInteractive: a 3D generalist that is asked by clicks, boxes, scribbles and lassos, one after another.

Source: Isensee et al., nnInteractive: Redefining 3D Promptable Segmentation (arXiv 2503.08373) and its package 2.5.0
(MIC-DKFZ/nnInteractive). The session's rules are in `lifts/interactive.py`, the network in `nets/nnunet.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from segwise.card import ModelCard, WeightFile
from segwise.errors import SpecError, WeightsError
from segwise.geometry import Array, Grid, Volume, bounds, regrid
from segwise.lifts.interactive import Interactive
from segwise.lifts.interactive_board import Rules
from segwise.lifts.interactive_plan import slices
from segwise.models._planned import ordered, resolved
from segwise.nets import nnunet as nets
from segwise.nets.flops import Published
from segwise.prompt import Prompt
from segwise.segmenter import Frame, Parts, Tree
from segwise.weights import fill, opened
from segwise.weights.checkpoint import Checkpoint

CARD = ModelCard(
    title="nnInteractive",
    summary="Any structure in a volume from clicks, flat boxes, scribbles and lassos, refined mark by mark.",
    family="generalist",
    takes=("points", "box", "stroke", "mask"),
    modalities=("CT", "MR"),
    dims=3,
    licence_code="Apache-2.0",
    licence_weights="CC BY-NC-SA 4.0",
    non_commercial=True,
    keys=(
        r"^encoder\.stem\.convs\.0\.conv\.weight \d+x([89]|1\d)x",
        r"^decoder\.seg_layers\.",
    ),
    paper="https://arxiv.org/abs/2503.08373",
    code="https://github.com/MIC-DKFZ/nnInteractive (154d9c6)",
    weights=(WeightFile(file="nninteractive/fold_0/checkpoint_final.pth", n_bytes=0),),
    training_note=(
        "120+ volumetric 3D sets of CT, MRI, PET, 3D microscopy and others, as its authors state (arXiv 2503.08373); "
        "their names are unknown here, so whether a public set was among them is unknown"
    ),
    parameters_m=102.4,
    memory="the volume once, and a patch of 192^3 with its features: about 10 GB in single precision",
    input=(
        "the file's own voxels, ordered to slices, rows, columns; no resampling; z-score with the mean and standard "
        "deviation of the box around what is not 0; patches of 192^3 zoomed out up to 4 times"
    ),
    deviations=(
        "on a CPU with dense storage (its default up to 2^27 voxels) the original divides its stored marks by the "
        "running weight in place whenever a crop is a view, so that old marks fade twice; here never, as on a GPU",
        "the search for refining patches draws from the ask's seed, the original from numpy's global generator",
        "every mark is followed by a prediction, in order, also when several come in one ask",
        "a stroke is drawn with the thickness that the metadata prefers; a closed stroke is a lasso, its contour only",
        "3D boxes are refused as there, unless the metadata allows them; box3d=middle-slice takes the box's middle "
        "slice",
        "logits are +1 and -1: the original answers with a mask",
        "a volume of one value becomes 0 (the original stops, or divides by zero)",
        "patches of at most 48 voxels get a smaller rim that does not count as covered (the original stops there)",
        "the published sizes are those of nnU-Net's ResEnc L at 192^3, which fit the authors' about 400 MB",
    ),
    seconds_hint=120.0,
)

KINDS = ("points", "bbox2d", "bbox3d", "scribble", "lasso")
_PAIRS = {"bbox2d": (1, 2), "bbox3d": (1, 2), "lasso": (1, 2), "points": (3, 4), "scribble": (5, 6)}
_FILES = ("inference_info.json", "inference_session_class.json")  # new, old
_CODE = "nninteractive-1"


@dataclass(frozen=True)
class PlainFrame(Frame[None]):
    """The whole volume, normalised; marks are the lift's."""

    shape: tuple[int, int, int]

    @property
    def digest(self) -> str:  # type: ignore[override]
        """Of all that changes a view."""
        return hashlib.blake2b(repr((_CODE, self.shape)).encode(), digest_size=16).hexdigest()

    def prepare(self, volume: Volume) -> Volume:
        """float32 [1, D, H, W] of the first channel: slices, rows, columns in the file's own directions."""
        grid = volume.grid.toward(ordered(volume.grid.axes))
        turned = regrid(volume.array[:1], volume.grid, grid, order=0, outside=0.0)
        return Volume.of(normalised(np.array(turned, dtype=np.float32))[0], grid, volume.channels[:1])

    def window(self, grid: Grid, centre: Sequence[int]) -> Grid:
        """A patch around an index."""
        low = np.asarray(centre, dtype=int) - np.array(self.shape) // 2
        return grid.crop(low.tolist(), (low + self.shape).tolist())

    def view(self, prepared: Volume, window: Grid) -> Array:
        """float32 [1, *shape], zeros beyond the volume."""
        return np.array(regrid(prepared.array, prepared.grid, window, order=1, outside=0.0), dtype=np.float32)

    def marks(self, prompt: Prompt, window: Grid, seen: Tree) -> None:
        """Nothing: marks are channels of the volume, not of a window."""

    def follow(self, mask: Array, window: Grid) -> None:
        """Nothing: the net sees volumes."""


def normalised(image: Array) -> tuple[Array, float, float]:
    """(float32 [1, D, H, W] minus mean over deviation, mean, deviation) of the box around what is not 0."""
    there = bounds(image[0] != 0) or ((0, 0, 0), image.shape[1:])
    values = torch.from_numpy(image)
    box = values[(0, *slices(np.array(there).T))]
    mean, deviation = box.mean(), box.std()
    if not deviation > 0:
        return np.zeros_like(image), float(mean), 0.0
    return ((values - mean) / deviation).numpy(), float(mean), float(deviation)


def load(
    *,
    checkpoint: str | None = None,
    box3d: Literal["refuse", "middle-slice"] = "refuse",
    autozoom: bool = True,
    accept_non_commercial: bool = False,
) -> Interactive:
    """nnInteractive with its released weights, or with others of its package.

    Args:
        checkpoint: a checkpoint_final.pth, a trained-model folder (plans.json, inference_info.json or
            inference_session_class.json, fold_0/checkpoint_final.pth), or a folder with checkpoint.pth and
            config.json; default: the released weights.
        box3d: a box of several slices, where the checkpoint takes flat ones only: "refuse" it before computing, or
            take its "middle-slice" (of slices as the file stacks them, axial ones for axial files).
        autozoom: look from further away while the answer runs out of the patch.
        accept_non_commercial: the use is non-commercial, which the weights' licence asks for.

    Raises:
        SpecError: box3d is something else.
        WeightsError: the weights are missing, damaged, of another model, or not accepted.
    """
    if box3d not in ("refuse", "middle-slice"):
        raise SpecError(f'nninteractive: box3d is "{box3d}", expected refuse or middle-slice')
    path = checkpoint
    if checkpoint is not None:
        folder = Path(checkpoint).expanduser()
        inner = folder / "fold_0" / "checkpoint_final.pth"
        path = str(inner) if folder.is_dir() and inner.is_file() else checkpoint
    file = opened("nninteractive", CARD, checkpoint=path, accept_non_commercial=accept_non_commercial)
    configuration = planned(file)
    net = nets.unet(configuration, file.shapes)
    fill(net, file.tensors, what=CARD.title)
    found = rules(metadata(file), tuple(int(n) for n in configuration["patch_size"]))
    if net.classes != 2 or net.channels != 1 + found.channels:
        raise WeightsError(
            f"this network has {net.channels} channels and {net.classes} outputs; expected {1 + found.channels} "
            "(image and marks, as its metadata says) and 2"
        )
    patch = found.patch
    return Interactive(Parts(net.eval(), PlainFrame(patch), None, file.digest), found, box3d=box3d, autozoom=autozoom)


def planned(file: Checkpoint) -> dict[str, Any]:
    """The configuration of the checkpoint's plans."""
    said = file.content.get("init_args")
    said = said if isinstance(said, Mapping) else {}
    plans = said.get("plans") or file.config.get("plans") or _json(file.path.parent.parent / "plans.json")
    name = said.get("configuration") or file.config.get("configuration")
    if not plans or not name:
        raise WeightsError(f"{file.path.name} names no plans and configuration; expected a checkpoint of nnInteractive")
    return resolved(plans, str(name))


def metadata(file: Checkpoint) -> Any:
    """What the metadata file says, new or old; "" (the published model's own) where there is none."""
    if "metadata" in file.config:
        return file.config["metadata"]
    for folder in (file.path.parent, file.path.parent.parent):
        for name in _FILES:
            if (folder / name).is_file():
                return _json(folder / name)
    return ""


def rules(said: Any, patch: tuple[int, ...]) -> Rules:
    """The session's rules; a bare string is the oldest metadata, with a decay of 0.9.

    Raises:
        WeightsError: the metadata asks for what is not known here.
    """
    given: Mapping[str, Any] = said if isinstance(said, Mapping) else {"interaction_decay": 0.9}
    new = "interaction_channels" in given or "channel_mapping" in given or "supported_interactions" in given
    asked, mapping = (given.get(k) or {} for k in ("supported_interactions", "channel_mapping"))
    strange = sorted((set(asked) - set(KINDS)) | (set(mapping) - {*KINDS, "prev_seg"}))
    if strange or given.get("pad_mode_image", "constant") != "constant":
        raise WeightsError(f"the metadata asks for {', '.join(strange) or 'another padding'}, which is not known here")
    previous = int(mapping.get("prev_seg", 0))
    pairs = {k: (int(v[0]), int(v[1])) for k, v in {**_PAIRS, **mapping}.items() if k != "prev_seg"}
    flat = [previous, *(c for pair in pairs.values() for c in pair)]
    n = max(*(c + 1 for c in flat), *(-c for c in flat), 1)
    n = int(given["interaction_channels"]) + 1 if new and "interaction_channels" in given else n
    supported = {"scribble": True, "lasso": True, "points": True, "bbox2d": True, "bbox3d": False, **asked}
    thick = given.get("preferred_scribble_thickness", 2)
    depth, height, width = thick if isinstance(thick, list | tuple) else (thick,) * 3
    decay = given.get("interaction_decay", 0.98)
    return Rules(
        patch=(patch[0], patch[1], patch[2]),
        channels=n,
        previous=previous % n,
        pairs={k: (a % n, b % n) for k, (a, b) in pairs.items()},
        supported=frozenset(k for k, yes in supported.items() if yes),
        decay=1.0 if decay is None else float(decay),
        radius=int(given.get("point_radius", 4)),
        thickness=(int(depth), int(height), int(width)),
        initial=bool(given.get("supports_initial_label", True)),
    )


def published() -> list[Published]:
    """A residual-encoder U-Net of nnU-Net's ResEnc L size at the published patch of 192^3."""
    plan = nets.Architecture(
        residual=True,
        dims=3,
        features=(32, 64, 128, 256, 320, 320),
        kernels=((3, 3, 3),) * 6,
        strides=((1, 1, 1), *(((2, 2, 2),) * 5)),
        n_encoder=(1, 3, 4, 6, 6, 6),
        n_decoder=(1,) * 5,
        norm_kwargs={"eps": 1e-5, "affine": True},
        nonlin_kwargs={"inplace": True},
    )
    with torch.device("meta"):
        net = nets.UNet(plan, channels=8, classes=2).eval()
        image = torch.empty(1, 8, 192, 192, 192)
        skips = net.encoder(image)
    stages = {"encoder": lambda: net.encoder(image), "decoder": lambda: net.decoder(skips, deep=False)}
    return [Published(label="ResEnc L, 192^3", net=net, stages=stages, per="patch", input="8×192×192×192")]


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}; expected it beside the checkpoint") from error
