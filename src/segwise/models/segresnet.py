"""SegResNet: trained on the user's own cases, asked by the names of its labels.

Source: Myronenko, MICCAI BrainLes 2018 (arXiv 1810.11654); MONAI's class, wrapped in `nets/monai_nets.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from segwise.card import ModelCard
from segwise.errors import SpecError
from segwise.lifts.windows import Windows
from segwise.models import _specialist
from segwise.nets import monai_nets
from segwise.nets.flops import Published
from segwise.nets.planned import PlannedNet, numbers

CARD = ModelCard(
    title="SegResNet",
    summary="Residual blocks with group normalisation and a light decoder, trained on your cases.",
    family="specialist",
    takes=("text",),
    modalities=("CT", "MR"),
    dims=3,
    licence_code="Apache-2.0",
    paper="https://arxiv.org/abs/1810.11654",
    code="https://github.com/Project-MONAI/MONAI",
    training_listed=True,
    training_note=(
        "No weights of its own: it is trained on the user's cases, whose subjects the folder's model.json names; "
        "whoever gives a folder knows them"
    ),
    parameters_m=4.7,
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
        "without the autoencoder that the paper adds while training (MONAI's class has none)",
        "16 channels at first by default, the paper's is features=32",
    ),
    seconds_hint=60.0,
)


def load(
    *,
    checkpoint: str | None = None,
    plan: str | None = None,
    untrained: int | None = None,
    features: int | None = None,
    down: str | None = None,
    up: str | None = None,
) -> Windows:
    """A trained SegResNet, or a fresh one.

    Args:
        checkpoint: the folder of a trained one, or the weights file in it.
        plan: a plan.json, for a net with fresh weights drawn from `untrained`, a seed.
        untrained: see `plan`.
        features: channels of the first stage, a multiple of 8; each further one has twice as many. Default 16.
        down: residual blocks of each stage on the way down. Default 1-2-2-4.
        up: on the way up, one fewer. Default 1-1-1.

    Raises:
        SpecError: the arguments contradict plan.json, or make no net for its patch.
        WeightsError: nothing to load, or the folder's files are damaged or of another model.
    """
    given = {"features": features, "down": down, "up": up}
    return _specialist.opened(
        "segresnet", CARD, net, checkpoint=checkpoint, plan=plan, untrained=untrained, arguments=given
    )


def net(
    *, channels: int, classes: int, patch: Sequence[int], features: int = 16, down: str = "1-2-2-4", up: str = "1-1-1"
) -> PlannedNet:
    """The net; arguments as of `load`."""
    falling, rising = numbers(down, "down", least=2), numbers(up, "up")
    if len(rising) != len(falling) - 1 or features % 8 or features < 1:
        raise SpecError(
            f"features={features}, down={down}, up={up}: expected a multiple of 8, and in up one number fewer than in "
            "down"
        )
    return monai_nets.segresnet(channels=channels, classes=classes, features=features, down=falling, up=rising)


def published() -> list[Published]:
    """The default size, and that of the paper."""
    return _specialist.sizes(
        net,
        ("features=16", 64, {}),
        ("features=32", 128, {"features": 32}),
    )
