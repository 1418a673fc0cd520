"""TransUNet: trained on the user's own cases, asked by the names of its labels.

Sources: Chen et al., TransUNet, arXiv 2102.04306; 3D TransUNet, arXiv 2310.07781. The net is in `nets/transunet.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from segwise.card import ModelCard
from segwise.lifts.windows import Windows
from segwise.models import _specialist
from segwise.nets.flops import Published
from segwise.nets.planned import PlannedNet, numbers
from segwise.nets.transunet import TransUNet

CARD = ModelCard(
    title="TransUNet",
    summary="A U-Net whose coarsest features pass a transformer, trained on your cases.",
    family="specialist",
    takes=("text",),
    modalities=("CT", "MR"),
    dims=3,
    licence_code="Apache-2.0",
    paper="https://arxiv.org/abs/2310.07781",
    code="https://github.com/Beckschen/3D-TransUNet",
    training_listed=True,
    training_note=(
        "No weights of its own: it is trained on the user's cases, whose subjects the folder's model.json names; "
        "whoever gives a folder knows them"
    ),
    parameters_m=2.3,
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
        "the encoder is a plain 3D one from fresh weights; the 2D paper has a ResNet-50 trained on photographs, the 3D "
        "one nnU-Net's",
        "a word is one voxel of the coarsest features, places are learned for the plan's patch",
        "the transformer decoder of the 3D paper is left out",
    ),
    seconds_hint=60.0,
)


def load(
    *,
    checkpoint: str | None = None,
    plan: str | None = None,
    untrained: int | None = None,
    features: str | None = None,
    depth: int | None = None,
    heads: int | None = None,
    width: int | None = None,
    deep: bool | None = None,
) -> Windows:
    """A trained TransUNet, or a fresh one.

    Args:
        checkpoint: the folder of a trained one, or the weights file in it.
        plan: a plan.json, for a net with fresh weights drawn from `untrained`, a seed.
        untrained: see `plan`.
        features: channels of each stage; each but the first halves the sides. Default 16-32-64-128.
        depth: layers of the transformer. Default 4.
        heads: of its attention. Default 4.
        width: of its words, a multiple of heads. Default 128.
        deep: while training, coarser stages answer too (deep supervision). Default true.

    Raises:
        SpecError: the arguments contradict plan.json, or make no net for its patch.
        WeightsError: nothing to load, or the folder's files are damaged or of another model.
    """
    given = {"features": features, "depth": depth, "heads": heads, "width": width, "deep": deep}
    return _specialist.opened(
        "transunet", CARD, net, checkpoint=checkpoint, plan=plan, untrained=untrained, arguments=given
    )


def net(
    *,
    channels: int,
    classes: int,
    patch: Sequence[int],
    features: str = "16-32-64-128",
    depth: int = 4,
    heads: int = 4,
    width: int = 128,
    deep: bool = True,
) -> PlannedNet:
    """The net; arguments as of `load`."""
    widths = numbers(features, "features", least=2)
    return TransUNet(
        channels=channels,
        classes=classes,
        patch=patch,
        features=widths,
        depth=depth,
        heads=heads,
        width=width,
        deep=deep,
    )


def published() -> list[Published]:
    """The default size, and one with a ViT-B."""
    return _specialist.sizes(
        net,
        ("features=16-32-64-128", 64, {}),
        (
            "features=32-64-128-256-320, ViT-B",
            128,
            {"features": "32-64-128-256-320", "depth": 12, "heads": 12, "width": 768},
        ),
    )
