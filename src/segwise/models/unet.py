"""U-Net: trained on the user's own cases, asked by the names of its labels.

Source: Çiçek et al., 3D U-Net, MICCAI 2016 (arXiv 1606.06650). The nets are in `nets/unet.py` and `nets/fused_unet.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from segwise.card import ModelCard
from segwise.errors import SpecError
from segwise.lifts.windows import Windows
from segwise.models import _specialist
from segwise.nets.flops import Published
from segwise.nets.fused_unet import FUSIONS, FusedUNet
from segwise.nets.planned import PlannedNet, numbers
from segwise.nets.unet import UNet

CARD = ModelCard(
    title="U-Net",
    summary="A 3D U-Net trained on your cases; its skip connections can be taken away, its channels fused late.",
    family="specialist",
    takes=("text",),
    modalities=("CT", "MR"),
    dims=3,
    licence_code="Apache-2.0",
    paper="https://arxiv.org/abs/1606.06650",
    training_listed=True,
    training_note=(
        "No weights of its own: it is trained on the user's cases, whose subjects the folder's model.json names; "
        "whoever gives a folder knows them"
    ),
    parameters_m=1.4,
    memory=(
        "default size, float32: 0.2 GB for a window of 64^3, 0.5 GB to train on one; and a window's depth of planes "
        "for all classes in half precision"
    ),
    input=(
        "all channels that the plan names; as nnU-Net: axes ordered to slices, rows, columns, cut to what is not 0, "
        "normalised, resampled to the plan's spacing; windows of the plan's patch size, half a window apart"
    ),
    deviations=(
        "preprocessing and windows are nnU-Net's for all specialists, so that only the nets differ",
        "strided convolutions, instance norm and leaky ReLU as nnU-Net has them; the paper pools and has batch norm",
    ),
    seconds_hint=60.0,
)


def load(
    *,
    checkpoint: str | None = None,
    plan: str | None = None,
    untrained: int | None = None,
    features: str | None = None,
    skips: bool | None = None,
    residual: bool | None = None,
    deep: bool | None = None,
    fusion: Literal["early", "features", "late"] | None = None,
) -> Windows:
    """A trained U-Net, or a fresh one.

    Args:
        checkpoint: the folder of a trained one, or the weights file in it.
        plan: a plan.json, for a net with fresh weights drawn from `untrained`, a seed.
        untrained: see `plan`.
        features: channels of each stage; each but the first halves the sides. Default 16-32-64-128.
        skips: the decoder sees the encoder's features of its own size. Default true.
        residual: shortcuts around the two convolutions of a stage. Default false.
        deep: while training, coarser stages answer too (deep supervision). Default true.
        fusion: of several channels: "early", one net sees all; "features", an encoder for each, one decoder; "late", a
            net for each, whose logits are averaged. Default early.

    Raises:
        SpecError: the arguments contradict plan.json, or make no net for its patch.
        WeightsError: nothing to load, or the folder's files are damaged or of another model.
    """
    given = {"features": features, "skips": skips, "residual": residual, "deep": deep, "fusion": fusion}
    return _specialist.opened("unet", CARD, net, checkpoint=checkpoint, plan=plan, untrained=untrained, arguments=given)


def net(
    *,
    channels: int,
    classes: int,
    patch: Sequence[int],
    features: str = "16-32-64-128",
    skips: bool = True,
    residual: bool = False,
    deep: bool = True,
    fusion: Literal["early", "features", "late"] = "early",
) -> PlannedNet:
    """The net; arguments as of `load`."""
    widths = numbers(features, "features", least=2)
    if fusion not in FUSIONS:
        raise SpecError(f'fusion is "{fusion}", expected one of {", ".join(FUSIONS)}')
    settings = {"skips": skips, "residual": residual, "deep": deep}
    if fusion == "early":
        return UNet(channels=channels, classes=classes, features=widths, **settings)
    return FusedUNet(channels=channels, classes=classes, features=widths, fusion=fusion, **settings)


def published() -> list[Published]:
    """The default size, and nnU-Net's widths."""
    return _specialist.sizes(
        net,
        ("features=16-32-64-128", 64, {}),
        ("features=16-32-64-128, skips=false", 64, {"skips": False}),
        ("features=32-64-128-256-320-320", 128, {"features": "32-64-128-256-320-320"}),
    )
