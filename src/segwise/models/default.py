"""The model that ships with Segwise: small, promptable, trained on generated volumes only; offline on a laptop.

Ours. It looks at the region that the marks are about (`lifts/focus.py`) with a small 3D U-Net (`nets/focus_unet.py`)
whose channels say what the marks mean for every voxel (`nets/focus_channels.py`).
"""

from __future__ import annotations

from typing import Literal

import torch

from segwise.card import ModelCard, WeightFile
from segwise.lifts.focus import Focus
from segwise.lifts.focus_frame import FocusFrame
from segwise.nets import focus_channels
from segwise.nets.biases import biased
from segwise.nets.flops import Published
from segwise.nets.focus_unet import SIDE, FocusUNet, focus_unet_of
from segwise.segmenter import Parts
from segwise.weights import fill, opened

CARD = ModelCard(
    title="Segwise default",
    summary="Any organ or lesion from a box, clicks, scribbles or a mask; offline; trained on synthetic shapes only.",
    family="generalist",
    takes=("box", "points", "stroke", "mask"),
    licence_weights="Apache-2.0",
    keys=(r"^judge\.0\.weight 64x\d+$", r"^stem\.weight \d+x11x3x3x3$"),
    weights=(
        WeightFile(
            file="default.safetensors",
            n_bytes=3750228,
            sha256="103d6d94203795020ae882d273a2903b53f84b76effed6c87f9dac4800af9ce5",
            packaged=True,
        ),
    ),
    training_sets=("Segwise synth (generated)",),
    training_listed=True,
    training_note=(
        "research use; trained on generated volumes only (worlds of shapes and phantoms of body regions, generator 3): "
        "no patient's data. Made again by segwise train default (seed 0, 3,000 steps)"
    ),
    parameters_m=1.87,
    memory="200 MB beside the program and the scan, whatever the scan's size",
    input=(
        "axes to S, P, L; the region of 1.5 times the box on each axis (no side under .4 of the longest in mm) on 40 x "
        "40 x 40 voxels, averaged or interpolated, clipped to its 1-99 % range; points without a box: 25 mm around "
        "them, then 50, 100 and 200 mm, until the answer ends within. Quality is the predicted DSC"
    ),
    remarks={"": "trained on synthetic shapes only"},
    deviations=("text is not taken: no box is proposed from nothing",),
    seconds_hint=0.3,
)
NAME = "default"


def load(
    *,
    checkpoint: str | None = None,
    precision: Literal["auto", "bf16", "fp32"] = "auto",
    untrained: int | None = None,
) -> Focus:
    """The model.

    Args:
        checkpoint: a file that `segwise train default` wrote, or a folder of `segwise distill default`, whatever its
            widths; None for the shipped weights.
        precision: of the net; "auto" is bf16 where the processor has it, else fp32.
        untrained: a seed: a net without training, for training from nothing.

    Raises:
        WeightsError: the checkpoint is missing, damaged, or of another model.
    """
    if untrained is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(untrained)
            net = FocusUNet()
        return Focus(Parts(net, FocusFrame(SIDE), None, f"random {untrained}"), precision=precision)
    found = opened(NAME, CARD, checkpoint=checkpoint)
    net = focus_unet_of(found.shapes)
    biased(net, found.config.get("biases", ()))
    fill(net, found.tensors, what=CARD.title)
    return Focus(Parts(net, FocusFrame(SIDE), None, found.digest), precision=precision)


def published() -> list[Published]:
    """The shipped size on the meta device: one look at a region. Nothing is convolved before a mark is made."""
    with torch.device("meta"):
        net = FocusUNet()
        shown = torch.empty(1, len(focus_channels.NAMES), SIDE, SIDE, SIDE)
    stages = {"decoder": lambda: net(shown)}
    return [Published(label="", net=net, stages=stages, per="look", input=f"11×{SIDE}×{SIDE}×{SIDE}")]
