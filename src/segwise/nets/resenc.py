"""nnU-Net's U-Net with a residual encoder, sized by a few numbers instead of by plans; keys as in `nets/nnunet.py`.

Source: Isensee et al., nnU-Net Revisited, MICCAI 2024 (arXiv 2404.09556).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from segwise.errors import SpecError
from segwise.nets.nnunet import Architecture, Decoder, Encoder
from segwise.nets.planned import PlannedNet


class ResEnc(PlannedNet):
    """The net.

    Args:
        channels: of the image.
        classes: heads.
        features: channels of each stage; each but the first halves the sides.
        blocks: residual blocks of each stage.
    """

    def __init__(self, *, channels: int, classes: int, features: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        if len(blocks) != len(features):
            raise SpecError(f"blocks has {len(blocks)} numbers, expected {len(features)}, one for each of features")
        self.multiple = 2 ** (len(features) - 1)
        self.plan = layout(features, blocks)
        self.encoder = Encoder(self.plan, channels)
        self.decoder = Decoder(self.plan, self.encoder, classes)

    def answers(self, image: Tensor) -> list[Tensor]:
        """[B, C, D, H, W] -> logits, the finest first."""
        return list(self.decoder(self.encoder(image), deep=self.training))


def layout(features: Sequence[int], blocks: Sequence[int]) -> Architecture:
    """The network as plans of nnU-Net would say it: 3x3x3 kernels, one convolution a decoder stage."""
    n = len(features)
    return Architecture(
        residual=True,
        dims=3,
        features=tuple(features),
        kernels=((3, 3, 3),) * n,
        strides=((1, 1, 1), *(((2, 2, 2),) * (n - 1))),
        n_encoder=tuple(blocks),
        n_decoder=(1,) * (n - 1),
        norm_kwargs={"eps": 1e-5, "affine": True},
        nonlin_kwargs={"inplace": True},
    )
