"""UNETR: trained on the user's own cases, asked by the names of its labels.

Source: Hatamizadeh et al., UNETR, WACV 2022 (arXiv 2103.10504); MONAI's class, wrapped in `nets/monai_nets.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from segwise.card import ModelCard
from segwise.lifts.windows import Windows
from segwise.models import _specialist
from segwise.nets import monai_nets
from segwise.nets.flops import Published
from segwise.nets.planned import PlannedNet

CARD = ModelCard(
    title="UNETR",
    summary="A vision transformer as encoder, a convolutional decoder, trained on your cases.",
    family="specialist",
    takes=("text",),
    modalities=("CT", "MR"),
    dims=3,
    licence_code="Apache-2.0",
    paper="https://arxiv.org/abs/2103.10504",
    code="https://github.com/Project-MONAI/MONAI",
    training_listed=True,
    training_note=(
        "No weights of its own: it is trained on the user's cases, whose subjects the folder's model.json names; "
        "whoever gives a folder knows them"
    ),
    parameters_m=9.0,
    memory=(
        "default size, float32: 0.2 GB for a window of 64^3, 0.6 GB to train on one; and a window's depth of planes "
        "for all classes in half precision"
    ),
    input=(
        "all channels that the plan names; as nnU-Net: axes ordered to slices, rows, columns, cut to what is not 0, "
        "normalised, resampled to the plan's spacing; windows of the plan's patch size, half a window apart"
    ),
    deviations=(
        "preprocessing and windows are nnU-Net's for all specialists, so that only the nets differ",
        "a smaller transformer by default (192 wide); the paper's is width=768, mlp=3072, heads=12",
        "norms that MONAI makes in its transformer and never calls are left out: its saved files have more keys",
    ),
    seconds_hint=60.0,
)


def load(
    *,
    checkpoint: str | None = None,
    plan: str | None = None,
    untrained: int | None = None,
    features: int | None = None,
    width: int | None = None,
    mlp: int | None = None,
    heads: int | None = None,
) -> Windows:
    """A trained UNETR, or a fresh one.

    Args:
        checkpoint: the folder of a trained one, or the weights file in it.
        plan: a plan.json, for a net with fresh weights drawn from `untrained`, a seed.
        untrained: see `plan`.
        features: channels of the decoder at full size. Default 16.
        width: of the words, a multiple of heads. Default 192.
        mlp: width inside the transformer's layers. Default 768.
        heads: of attention. Default 6.

    Raises:
        SpecError: the arguments contradict plan.json, or make no net for its patch.
        WeightsError: nothing to load, or the folder's files are damaged or of another model.
    """
    given = {"features": features, "width": width, "mlp": mlp, "heads": heads}
    return _specialist.opened(
        "unetr", CARD, net, checkpoint=checkpoint, plan=plan, untrained=untrained, arguments=given
    )


def net(
    *,
    channels: int,
    classes: int,
    patch: Sequence[int],
    features: int = 16,
    width: int = 192,
    mlp: int = 768,
    heads: int = 6,
) -> PlannedNet:
    """The net; arguments as of `load`."""
    return monai_nets.unetr(
        channels=channels, classes=classes, patch=patch, features=features, width=width, mlp=mlp, heads=heads
    )


def published() -> list[Published]:
    """The default size, and that of the paper."""
    return _specialist.sizes(
        net,
        ("width=192", 64, {}),
        ("width=768, mlp=3072, heads=12", 96, {"width": 768, "mlp": 3072, "heads": 12}),
    )
