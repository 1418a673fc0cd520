"""Swin UNETR: trained on the user's own cases, asked by the names of its labels.

Source: Hatamizadeh et al., Swin UNETR, arXiv 2201.01266; MONAI's class, wrapped in `nets/monai_nets.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from segwise.card import ModelCard
from segwise.lifts.windows import Windows
from segwise.models import _specialist
from segwise.nets import monai_nets
from segwise.nets.flops import Published
from segwise.nets.planned import PlannedNet, numbers

CARD = ModelCard(
    title="Swin UNETR",
    summary="Attention in shifted windows as encoder, a convolutional decoder, trained on your cases.",
    family="specialist",
    takes=("text",),
    modalities=("CT", "MR"),
    dims=3,
    licence_code="Apache-2.0",
    paper="https://arxiv.org/abs/2201.01266",
    code="https://github.com/Project-MONAI/MONAI",
    training_listed=True,
    training_note=(
        "No weights of its own: it is trained on the user's cases, whose subjects the folder's model.json names; "
        "whoever gives a folder knows them"
    ),
    parameters_m=4.1,
    memory=(
        "default size, float32: 0.5 GB for a window of 64^3, 1.2 GB to train on one; and a window's depth of planes "
        "for all classes in half precision"
    ),
    input=(
        "all channels that the plan names; as nnU-Net: axes ordered to slices, rows, columns, cut to what is not 0, "
        "normalised, resampled to the plan's spacing; windows of the plan's patch size, half a window apart"
    ),
    deviations=(
        "preprocessing and windows are nnU-Net's for all specialists, so that only the nets differ",
        "narrower by default (12 channels); the paper's is features=48",
        "segwise pretrain teaches the encoder to say what is hidden; not the three tasks of arXiv 2111.14791",
    ),
    seconds_hint=180.0,
)


def load(
    *,
    checkpoint: str | None = None,
    plan: str | None = None,
    untrained: int | None = None,
    features: int | None = None,
    depths: str | None = None,
    heads: str | None = None,
) -> Windows:
    """A trained Swin UNETR, or a fresh one.

    Args:
        checkpoint: the folder of a trained one, or the weights file in it.
        plan: a plan.json, for a net with fresh weights drawn from `untrained`, a seed.
        untrained: see `plan`.
        features: channels at full size; multiples of 12 fit the default heads. Default 12.
        depths: layers of each of the four stages. Default 2-2-2-2.
        heads: of attention in each stage. Default 3-6-12-24.

    Raises:
        SpecError: the arguments contradict plan.json, or make no net for its patch.
        WeightsError: nothing to load, or the folder's files are damaged or of another model.
    """
    given = {"features": features, "depths": depths, "heads": heads}
    return _specialist.opened(
        "swin-unetr", CARD, net, checkpoint=checkpoint, plan=plan, untrained=untrained, arguments=given
    )


def net(
    *,
    channels: int,
    classes: int,
    patch: Sequence[int],
    features: int = 12,
    depths: str = "2-2-2-2",
    heads: str = "3-6-12-24",
) -> PlannedNet:
    """The net; arguments as of `load`."""
    four = numbers(depths, "depths", least=4), numbers(heads, "heads", least=4)
    return monai_nets.swin_unetr(channels=channels, classes=classes, features=features, depths=four[0], heads=four[1])


def published() -> list[Published]:
    """The default size, and that of the paper."""
    return _specialist.sizes(
        net,
        ("features=12", 64, {}),
        ("features=48", 96, {"features": 48}),
    )
