"""nnU-Net: any model that its package has trained, asked by the names of its own labels.

Source: Isensee et al., nnU-Net, Nat Methods 2021 (arXiv 1809.10486); nnU-Net Revisited, MICCAI 2024 (arXiv 2404.09556).
What plans say and the preprocessing are in `models/_planned.py`, the networks in `nets/nnunet.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from segwise import weights
from segwise.card import ModelCard
from segwise.errors import SpecError, WeightsError
from segwise.lifts.tiles import Tiling
from segwise.lifts.windows import Windows
from segwise.models._planned import PlannedFrame, Recipe, recipe, resolved
from segwise.nets import nnunet as nets
from segwise.nets.flops import Published
from segwise.segmenter import Parts
from segwise.weights.checkpoint import Checkpoint

CARD = ModelCard(
    title="nnU-Net",
    summary="A specialist trained by nnU-Net on any data set, asked by the names of its labels.",
    family="specialist",
    takes=("text",),
    modalities=("CT", "MR"),
    dims=3,
    licence_code="Apache-2.0",
    licence_weights="",
    keys=(
        r"^encoder\.stages\.0\.",
        r"^decoder\.seg_layers\.",
        r"!^encoder\.stem\.convs\.0\.conv\.weight \d+x8x",
    ),
    paper="https://arxiv.org/abs/1809.10486",
    code="https://github.com/MIC-DKFZ/nnUNet",
    training_listed=True,
    training_note=(
        "No weights of its own: a model is given as checkpoint=PATH, under its trainer's licence, trained on the data "
        "set that its dataset.json names; whoever gives it knows its persons"
    ),
    parameters_m=30.8,
    memory="a window's depth of planes for all classes in half precision, and the net: about 2 GB at 128^3",
    input=(
        "all channels that the plans name; axes in the file's directions, ordered to slices, rows, columns (axes=); "
        "cut to what is not 0; normalised, then resampled to the plans' spacing; windows of the plans' patch size, "
        "half a window apart, mirrored over the axes that the checkpoint allows"
    ),
    deviations=(
        "a volume whose slices are not axial is turned to axial ones first, where SimpleITK keeps the file's order "
        "(axes= repeats that); plans that ask for a reader with reorientation get RAS, as it does",
        "a volume of zeros is not cut (the original stops)",
        "several folds are averaged in each window, not after all: equal but for the rounding of half precision",
        "classes are compared in single precision after resampling; nnU-Net rounds to half precision first, so that a "
        "few voxels of ten thousand tie and go to the lower label",
        "cascades and other resampling functions than the default are refused",
        "the best 2 to 8 classes of a voxel are kept (as many as fit 768 MiB): signs are exact, sizes are bounds",
    ),
    seconds_hint=120.0,
)


def load(
    *,
    checkpoint: str | None = None,
    configuration: str = "",
    folds: str = "",
    mirror: bool = True,
    step: float = 0.5,
    axes: str = "",
) -> Windows:
    """A trained nnU-Net.

    Args:
        checkpoint: a checkpoint_final.pth (or the like), or a trained-model folder with plans.json, dataset.json and
            fold_X/checkpoint_final.pth.
        configuration: of the plans; "" for the one that the checkpoint was trained with.
        folds: with a folder, which folds are averaged, as "0,1,2" or "all"; "" for every one that is there.
        mirror: average over the mirrorings that the checkpoint allows.
        step: distance of windows in window sizes.
        axes: where the volume's array axes point for the net before the plans' transposition, as "SPL"; "" for the
            file's own directions, ordered to slices, rows, columns.

    Raises:
        SpecError: axes or step make no sense.
        WeightsError: no checkpoint is given, or it is none of nnU-Net, a cascade, or asks for what is not known here.
    """
    if not 0 < step <= 1:
        raise SpecError(f"nnunet: step is {step:g}, expected more than 0 and at most 1")
    if checkpoint is None:
        raise WeightsError(
            "nnunet has no weights of its own; give a trained model: nnunet(checkpoint=FOLDER), a folder with "
            "plans.json, dataset.json and fold_0/checkpoint_final.pth, or such a file itself"
        )
    files = [
        weights.opened("nnunet", CARD, checkpoint=str(path))
        for path in _files(Path(checkpoint).expanduser(), folds.replace(",", " ").split())
    ]
    plans, dataset, configuration = _said(files[0], configuration)
    chosen = resolved(plans, configuration)
    found = recipe(plans, dataset, chosen, files[0].content, axes=axes)
    members = []
    for file in files:
        net = nets.unet(chosen, file.shapes)
        weights.fill(net, file.tensors, what=f"the {configuration} network of its plans")
        members.append(net)
    _fits(members[0], found)
    net_: Any = members[0] if len(members) == 1 else nets.Folds(members)
    digest = files[0].digest if len(files) == 1 else weights.together(*files)
    parts = Parts(net_.eval(), PlannedFrame(found), found.labels, digest)
    tiling = Tiling.nnunet(found.patch, step=step)
    return Windows(parts, tiling, mirror=found.mirror if mirror else (), paint=found.paint)


def published() -> list[Published]:
    """A typical 3d_fullres plan (32 to 320 channels), plain and with a residual encoder (ResEnc L)."""
    found = []
    for label, residual, depth in (("3d_fullres", False, [2] * 6), ("3d_fullres, ResEnc L", True, [1, 3, 4, 6, 6, 6])):
        plan = nets.Architecture(
            residual=residual,
            dims=3,
            features=(32, 64, 128, 256, 320, 320),
            kernels=((3, 3, 3),) * 6,
            strides=((1, 1, 1), *(((2, 2, 2),) * 5)),
            n_encoder=tuple(depth),
            n_decoder=(1 if residual else 2,) * 5,
            norm_kwargs={"eps": 1e-5, "affine": True},
            nonlin_kwargs={"inplace": True},
        )
        with torch.device("meta"):
            net = nets.UNet(plan, channels=1, classes=14).eval()
            image = torch.empty(1, 1, 128, 128, 128)
            skips = net.encoder(image)
        stages = {
            "encoder": lambda net=net, image=image: net.encoder(image),
            "decoder": lambda net=net, skips=skips: net.decoder(skips, deep=False),
        }
        found.append(Published(label=label, net=net, stages=stages, per="patch", input="1×128×128×128, 14 classes"))
    return found


def _files(path: Path, folds: list[str]) -> list[Path]:
    """The checkpoints of a folder, or the file itself."""
    if path.is_file():
        return [path]
    wanted = [path / f"fold_{fold}" for fold in folds] or sorted(path.glob("fold_*"))
    found = [folder / "checkpoint_final.pth" for folder in wanted]
    if not found and (path / "checkpoint.pth").is_file():
        return [path / "checkpoint.pth"]
    there = [file for file in found if file.is_file()]
    if not there or (folds and len(there) < len(found)):
        asked = f" for the folds {', '.join(folds)}" if folds else ""
        raise WeightsError(f"{path} has no fold_X/checkpoint_final.pth{asked}; expected nnU-Net's trained-model folder")
    return there


def _said(file: Checkpoint, configuration: str) -> tuple[Mapping[str, Any], Mapping[str, Any], str]:
    """(plans, dataset.json, configuration): from the checkpoint, else from the folder above its fold."""
    said = file.content.get("init_args")
    if not isinstance(said, Mapping) or "network_weights" not in file.content:
        raise WeightsError(f"{file.path.name} is not a checkpoint of nnU-Net: it has no network_weights and init_args")
    above = file.path.parent.parent
    plans = said.get("plans") or _json(above / "plans.json")
    dataset = said.get("dataset_json") or _json(above / "dataset.json")
    return plans, dataset, configuration or str(said.get("configuration", ""))


def _json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"the checkpoint names no {path.stem}, and {path} cannot be read: {error}") from error
    return found if isinstance(found, dict) else {}


def _fits(net: nets.UNet, found: Recipe) -> None:
    heads = len(found.labels) + (found.paint is None)
    if net.classes != heads or net.channels != len(found.schemes):
        raise WeightsError(
            f"the network has {net.channels} channels and {net.classes} heads, "
            f"its plans say {len(found.schemes)} and {heads}"
        )
