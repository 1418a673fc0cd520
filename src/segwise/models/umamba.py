"""U-Mamba: trained on the user's own cases, asked by the names of its labels.

Source: Ma et al., U-Mamba, arXiv 2401.04722, the variant with one Mamba block at the bottleneck. The net is in
`nets/umamba.py`, its scan in plain torch.
"""

from __future__ import annotations

from collections.abc import Sequence

from segwise.card import ModelCard
from segwise.errors import SpecError
from segwise.lifts.windows import Windows
from segwise.models import _specialist
from segwise.nets.flops import Published
from segwise.nets.planned import PlannedNet, numbers
from segwise.nets.umamba import UMamba

CARD = ModelCard(
    title="U-Mamba",
    summary="A residual U-Net whose coarsest features pass a state space model (Mamba), trained on your cases.",
    family="specialist",
    takes=("text",),
    modalities=("CT", "MR"),
    dims=3,
    licence_code="Apache-2.0",
    paper="https://arxiv.org/abs/2401.04722",
    code="https://github.com/bowang-lab/U-Mamba",
    training_note=(
        "No weights of its own: it is trained on the user's cases, whose subjects the folder's model.json names; "
        "whoever gives a folder knows them"
    ),
    parameters_m=2.55,
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
        "the scan is a loop in plain torch: no compiled kernel, slower on long sequences",
        "one Mamba block at the bottleneck (the paper's U-Mamba_Bot); that with one in every stage is left out",
        "every kernel is 3x3x3 and every stage halves all sides; the original follows nnU-Net's plans",
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
    states: int | None = None,
) -> Windows:
    """A trained U-Mamba, or a fresh one.

    Args:
        checkpoint: the folder of a trained one, or the weights file in it.
        plan: a plan.json, for a net with fresh weights drawn from `untrained`, a seed.
        untrained: see `plan`.
        features: channels of each stage; each but the first halves the sides. Default 16-32-64-128.
        blocks: residual blocks of each stage. Default 1-2-2-2.
        states: of each channel of the Mamba block. Default 16.

    Raises:
        SpecError: the arguments contradict plan.json, or make no net for its patch.
        WeightsError: nothing to load, or the folder's files are damaged or of another model.
    """
    given = {"features": features, "blocks": blocks, "states": states}
    return _specialist.opened(
        "umamba", CARD, net, checkpoint=checkpoint, plan=plan, untrained=untrained, arguments=given
    )


def net(
    *,
    channels: int,
    classes: int,
    patch: Sequence[int],
    features: str = "16-32-64-128",
    blocks: str = "1-2-2-2",
    states: int = 16,
) -> PlannedNet:
    """The net; arguments as of `load`."""
    widths = numbers(features, "features", least=2)
    if states < 1:
        raise SpecError(f"states is {states}, expected 1 or more")
    n = numbers(blocks, "blocks")
    return UMamba(channels=channels, classes=classes, features=widths, blocks=n, states=states)


def published() -> list[Published]:
    """The default size, and one of six stages."""
    return _specialist.sizes(
        net,
        ("features=16-32-64-128", 64, {}),
        ("features=32-64-128-256-320-320", 128, {"features": "32-64-128-256-320-320", "blocks": "1-3-4-6-6-6"}),
    )
