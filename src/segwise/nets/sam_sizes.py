"""The three published sizes of SAM, for images of any side.

Source: Kirillov et al., Segment Anything, ICCV 2023 (arXiv 2304.02643), appendix A, and its released checkpoints.
"""

from __future__ import annotations

from typing import NamedTuple

from segwise.nets.sam import Candidates, MaskDecoder, PromptEncoder, SamNet, TwoWayTransformer
from segwise.nets.sam_vit import WINDOW, ImageEncoderViT

PATCH, WIDTH = 16, 256


class Size(NamedTuple):
    """Of an image encoder: width, blocks, heads, and the blocks that see the whole map."""

    width: int
    blocks: int
    heads: int
    whole: tuple[int, ...]


SIZES = {
    "b": Size(768, 12, 12, (2, 5, 8, 11)),
    "l": Size(1024, 24, 16, (5, 11, 17, 23)),
    "h": Size(1280, 32, 16, (7, 15, 23, 31)),
}


def encoder(name: str, side: int) -> ImageEncoderViT:
    """An untrained image encoder of a published size for images of side x side pixels."""
    size = SIZES[name]
    return ImageEncoderViT(
        size=(side, side),
        patch=PATCH,
        width=size.width,
        heads=size.heads,
        hidden=4 * size.width,
        windows=[0 if i in size.whole else WINDOW for i in range(size.blocks)],
        out=WIDTH,
    )


def sam(name: str, side: int, *, masks: int = 4, candidates: Candidates = "auto", enlarge: bool = True) -> SamNet:
    """An untrained SAM of a published size with a decoder of so many masks."""
    grid = (side // PATCH, side // PATCH)
    prompts = PromptEncoder(width=WIDTH, grid=grid, size=(side, side))
    decoder = MaskDecoder(masks=masks, transformer=TwoWayTransformer())
    return SamNet(encoder(name, side), prompts, decoder, candidates=candidates, enlarge=enlarge)
