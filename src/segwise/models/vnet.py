"""V-Net: trained on the user's own cases, asked by the names of its labels.

Source: Milletari et al., V-Net, 3DV 2016 (arXiv 1606.04797). The net is in `nets/vnet.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from segwise.card import ModelCard
from segwise.errors import SpecError
from segwise.lifts.windows import Windows
from segwise.models import _specialist
from segwise.nets.flops import Published
from segwise.nets.planned import PlannedNet, numbers
from segwise.nets.vnet import VNet

CARD = ModelCard(
    title="V-Net",
    summary="A residual encoder and decoder with large kernels, trained on your cases.",
    family="specialist",
    takes=("text",),
    modalities=("CT", "MR"),
    dims=3,
    licence_code="Apache-2.0",
    paper="https://arxiv.org/abs/1606.04797",
    training_listed=True,
    training_note=(
        "No weights of its own: it is trained on the user's cases, whose subjects the folder's model.json names; "
        "whoever gives a folder knows them"
    ),
    parameters_m=3.9,
    memory=(
        "default size, float32: 0.2 GB for a window of 64^3, 0.4 GB to train on one; and a window's depth of planes "
        "for all classes in half precision"
    ),
    input=(
        "all channels that the plan names; as nnU-Net: axes ordered to slices, rows, columns, cut to what is not 0, "
        "normalised, resampled to the plan's spacing; windows of the plan's patch size, half a window apart"
    ),
    deviations=(
        "preprocessing and windows are nnU-Net's for all specialists, so that only the nets differ",
        "instance normalisation after each convolution; the paper has none",
        "the first shortcut is a 1x1x1 convolution; the paper repeats the image",
        "trained with the same loss as every specialist; the paper has its Dice loss alone",
    ),
    seconds_hint=60.0,
)


def load(
    *,
    checkpoint: str | None = None,
    plan: str | None = None,
    untrained: int | None = None,
    features: str | None = None,
    kernel: int | None = None,
) -> Windows:
    """A trained V-Net, or a fresh one.

    Args:
        checkpoint: the folder of a trained one, or the weights file in it.
        plan: a plan.json, for a net with fresh weights drawn from `untrained`, a seed.
        untrained: see `plan`.
        features: channels of each stage; each but the first halves the sides. Default 8-16-32-64.
        kernel: side of the convolutions, odd. Default 5.

    Raises:
        SpecError: the arguments contradict plan.json, or make no net for its patch.
        WeightsError: nothing to load, or the folder's files are damaged or of another model.
    """
    given = {"features": features, "kernel": kernel}
    return _specialist.opened("vnet", CARD, net, checkpoint=checkpoint, plan=plan, untrained=untrained, arguments=given)


def net(
    *, channels: int, classes: int, patch: Sequence[int], features: str = "8-16-32-64", kernel: int = 5
) -> PlannedNet:
    """The net; arguments as of `load`."""
    if kernel < 1 or kernel % 2 == 0:
        raise SpecError(f"kernel is {kernel}, expected an odd number, as 3 or 5")
    widths = numbers(features, "features", least=2)
    return VNet(channels=channels, classes=classes, features=widths, kernel=kernel)


def published() -> list[Published]:
    """The default size, and that of the paper."""
    return _specialist.sizes(
        net,
        ("features=8-16-32-64", 64, {}),
        ("features=16-32-64-128-256", 128, {"features": "16-32-64-128-256"}),
    )
