"""ResEnc U-Net: trained on the user's own cases, asked by the names of its labels.

Source: Isensee et al., nnU-Net Revisited, MICCAI 2024 (arXiv 2404.09556). The net is that of `nets/nnunet.py`, with its
keys; a checkpoint that nnU-Net itself trained is for the model nnunet.
"""

from __future__ import annotations

from collections.abc import Sequence

from segwise.card import ModelCard
from segwise.lifts.windows import Windows
from segwise.models import _specialist
from segwise.nets.flops import Published
from segwise.nets.planned import PlannedNet, numbers
from segwise.nets.resenc import ResEnc

CARD = ModelCard(
    title="ResEnc U-Net",
    summary="nnU-Net's U-Net with a residual encoder, trained on your cases by Segwise's own loop.",
    family="specialist",
    takes=("text",),
    modalities=("CT", "MR"),
    dims=3,
    licence_code="Apache-2.0",
    paper="https://arxiv.org/abs/2404.09556",
    code="https://github.com/MIC-DKFZ/nnUNet",
    training_listed=True,
    training_note=(
        "No weights of its own: it is trained on the user's cases, whose subjects the folder's model.json names; "
        "whoever gives a folder knows them"
    ),
    parameters_m=2.4,
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
        "every kernel is 3x3x3 and every stage halves all sides; nnU-Net follows the spacing",
        "trained by Segwise's loop in its budget, not in nnU-Net's 1,000 epochs with its augmentations",
    ),
    seconds_hint=60.0,
)


def load(
    *,
    checkpoint: str | None = None,
    plan: str | None = None,
    untrained: int | None = None,
    features: str | None = None,
    blocks: str | None = None,
) -> Windows:
    """A trained ResEnc U-Net, or a fresh one.

    Args:
        checkpoint: the folder of a trained one, or the weights file in it.
        plan: a plan.json, for a net with fresh weights drawn from `untrained`, a seed.
        untrained: see `plan`.
        features: channels of each stage; each but the first halves the sides. Default 16-32-64-128.
        blocks: residual blocks of each stage. Default 1-2-2-2.

    Raises:
        SpecError: the arguments contradict plan.json, or make no net for its patch.
        WeightsError: nothing to load, or the folder's files are damaged or of another model.
    """
    given = {"features": features, "blocks": blocks}
    return _specialist.opened(
        "resenc", CARD, net, checkpoint=checkpoint, plan=plan, untrained=untrained, arguments=given
    )


def net(
    *, channels: int, classes: int, patch: Sequence[int], features: str = "16-32-64-128", blocks: str = "1-2-2-2"
) -> PlannedNet:
    """The net; arguments as of `load`."""
    widths = numbers(features, "features", least=2)
    return ResEnc(channels=channels, classes=classes, features=widths, blocks=numbers(blocks, "blocks"))


def published() -> list[Published]:
    """The default size, and nnU-Net's ResEnc L."""
    return _specialist.sizes(
        net,
        ("features=16-32-64-128", 64, {}),
        ("ResEnc L", 128, {"features": "32-64-128-256-320-320", "blocks": "1-3-4-6-6-6"}),
    )
