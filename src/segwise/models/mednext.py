"""MedNeXt: trained on the user's own cases, asked by the names of its labels.

Source: Roy et al., MedNeXt, MICCAI 2023 (arXiv 2303.09975). The net is in `nets/mednext.py`, written from the paper.
"""

from __future__ import annotations

from collections.abc import Sequence

from segwise.card import ModelCard
from segwise.errors import SpecError
from segwise.lifts.windows import Windows
from segwise.models import _specialist
from segwise.nets.flops import Published
from segwise.nets.mednext import MedNeXt
from segwise.nets.planned import PlannedNet, numbers

CARD = ModelCard(
    title="MedNeXt",
    summary="A U-Net of ConvNeXt blocks, trained on your cases.",
    family="specialist",
    takes=("text",),
    modalities=("CT", "MR"),
    dims=3,
    licence_code="Apache-2.0",
    paper="https://arxiv.org/abs/2303.09975",
    code="https://github.com/MIC-DKFZ/MedNeXt",
    training_listed=True,
    training_note=(
        "No weights of its own: it is trained on the user's cases, whose subjects the folder's model.json names; "
        "whoever gives a folder knows them"
    ),
    parameters_m=0.25,
    memory=(
        "default size, float32: 0.3 GB for a window of 64^3, 0.9 GB to train on one; and a window's depth of planes "
        "for all classes in half precision"
    ),
    input=(
        "all channels that the plan names; as nnU-Net: axes ordered to slices, rows, columns, cut to what is not 0, "
        "normalised, resampled to the plan's spacing; windows of the plan's patch size, half a window apart"
    ),
    deviations=(
        "preprocessing and windows are nnU-Net's for all specialists, so that only the nets differ",
        "a way up is aligned by torch's output padding; the paper does not say how it pads",
        "kernel=5 begins from fresh weights; the paper also grows it from a trained net of kernel 3 (UpKern)",
        "no gradient checkpointing inside the net",
    ),
    seconds_hint=60.0,
)


def load(
    *,
    checkpoint: str | None = None,
    plan: str | None = None,
    untrained: int | None = None,
    features: int | None = None,
    blocks: str | None = None,
    ratios: str | None = None,
    kernel: int | None = None,
    deep: bool | None = None,
) -> Windows:
    """A trained MedNeXt, or a fresh one.

    Args:
        checkpoint: the folder of a trained one, or the weights file in it.
        plan: a plan.json, for a net with fresh weights drawn from `untrained`, a seed.
        untrained: see `plan`.
        features: channels of the first stage; each further one has twice as many. Default 16.
        blocks: blocks of each stage, the coarsest last; the way up has as many. Default 1-1-1-1.
        ratios: how many times wider the blocks of each stage are inside. Default 2-2-2-2.
        kernel: side of the depthwise convolutions, odd. Default 3.
        deep: while training, coarser stages answer too (deep supervision). Default true.

    Raises:
        SpecError: the arguments contradict plan.json, or make no net for its patch.
        WeightsError: nothing to load, or the folder's files are damaged or of another model.
    """
    given = {"features": features, "blocks": blocks, "ratios": ratios, "kernel": kernel, "deep": deep}
    return _specialist.opened(
        "mednext", CARD, net, checkpoint=checkpoint, plan=plan, untrained=untrained, arguments=given
    )


def net(
    *,
    channels: int,
    classes: int,
    patch: Sequence[int],
    features: int = 16,
    blocks: str = "1-1-1-1",
    ratios: str = "2-2-2-2",
    kernel: int = 3,
    deep: bool = True,
) -> PlannedNet:
    """The net; arguments as of `load`."""
    if kernel < 1 or kernel % 2 == 0:
        raise SpecError(f"kernel is {kernel}, expected an odd number, as 3 or 5")
    depths, wider = numbers(blocks, "blocks", least=2), numbers(ratios, "ratios", least=2)
    if len(depths) != len(wider) or features < 1:
        raise SpecError(f"features={features}, blocks={blocks}, ratios={ratios}: expected as many ratios as blocks")
    return MedNeXt(
        channels=channels, classes=classes, features=features, blocks=depths, ratios=wider, kernel=kernel, deep=deep
    )


def published() -> list[Published]:
    """The default size, and the paper's S and L."""
    return _specialist.sizes(
        net,
        ("features=16, blocks=1-1-1-1", 64, {}),
        ("MedNeXt-S", 128, {"features": 32, "blocks": "2-2-2-2-2", "ratios": "2-2-2-2-2"}),
        ("MedNeXt-L", 128, {"features": 32, "blocks": "3-4-8-8-8", "ratios": "3-4-8-8-8"}),
    )
