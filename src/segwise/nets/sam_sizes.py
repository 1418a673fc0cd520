"""The three published sizes of SAM, for images of any side, and the small one that Segwise trains itself.

Source: Kirillov et al., Segment Anything, ICCV 2023 (arXiv 2304.02643), appendix A, and its released checkpoints.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from segwise.nets.sam import Candidates, MaskDecoder, PromptEncoder, SamNet, TwoWayBlock, TwoWayTransformer
from segwise.nets.sam_vit import WINDOW, ImageEncoderViT

PATCH, WIDTH = 16, 256
NANO_HEADS = 8  # of the decoder
HARMONICS = 8  # of the small net's places: odd ones, whose sum is the sign of a distance
SIGNED = 4  # heads that begin by comparing a pixel's place with a token's: right of it, below, left, above
SHARP = 8.0  # gain of these comparisons at the start
PLACED = 0.5  # size of the learned positions of the small net at the start
NEAR = 2.2  # gain of its queries and keys at the start


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


def nano(*, candidates: Candidates = "auto", enlarge: bool = True) -> SamNet:
    """An untrained SAM small enough for a test: images of 128 x 128, masks of 64 x 64, 1 M parameters."""
    side, patch, width, out = 128, 8, 64, 128
    grid = (side // patch, side // patch)
    encoder = ImageEncoderViT(
        size=(side, side), patch=patch, width=width, heads=2, hidden=4 * width, windows=[8, 0, 8, 0], out=out
    )
    prompts = PromptEncoder(width=out, grid=grid, size=(side, side))
    straight(prompts)
    sines, cosines = prompts.places().chunk(2, dim=1)
    places = torch.cat([sines[:, : width // 2], cosines[:, : width // 2]], dim=1)
    with torch.no_grad():
        encoder.pos_embed.add_(PLACED * places.permute(0, 2, 3, 1))
    transformer = TwoWayTransformer(width=out, heads=NANO_HEADS, hidden=2 * out)
    start_near(transformer)
    start_signed(transformer)
    decoder = MaskDecoder(width=out, transformer=transformer, head_hidden=out)
    return SamNet(encoder, prompts, decoder, candidates=candidates, enlarge=enlarge)


@torch.no_grad()
def start_near(transformer: TwoWayTransformer) -> None:
    """Let tokens and image begin by attending to what lies near: queries and keys alike, so that equal places meet.

    A decoder drawn at random takes thousands of steps more to learn where a prompt is.
    """
    across = [transformer.final_attn_token_to_image]
    for layer in transformer.layers:
        assert isinstance(layer, TwoWayBlock)
        across += [layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]
    for attention in across:
        attention.q_proj.weight *= NEAR
        attention.k_proj.weight.copy_(attention.q_proj.weight)


@torch.no_grad()
def straight(prompts: PromptEncoder) -> None:
    """Places of one axis each, at odd harmonics of a wave longer than the image, in place of random directions.

    The difference of two such places has a sign, so that one attention can tell on which side of a box's face a pixel
    lies; from random directions a small net learns that very slowly.
    """
    matrix = prompts.pe_layer.positional_encoding_gaussian_matrix
    matrix.zero_()
    for j in range(matrix.shape[1]):
        matrix[j % 2, j] = (2 * ((j // 2) % HARMONICS) + 1) / 8


@torch.no_grad()
def start_signed(transformer: TwoWayTransformer) -> None:
    """Let the first heads from image to tokens begin as SHARP * sum of sin(k (pixel - token)) / k, on one axis."""
    for layer in transformer.layers:
        assert isinstance(layer, TwoWayBlock)
        attention = layer.cross_attn_image_to_token
        query, key = attention.q_proj, attention.k_proj
        size, half = query.out_features // attention.heads, query.in_features // 2
        for head in range(SIGNED):
            axis, sign = head % 2, 1.0 if head < 2 else -1.0
            for k in range(size // 2):
                row, column = head * size + 2 * k, axis + 2 * k
                gain = (SHARP / (2 * k + 1)) ** 0.5
                for linear in (query, key):
                    linear.weight[row : row + 2] = 0
                    linear.bias[row : row + 2] = 0
                query.weight[row, column], query.weight[row + 1, half + column] = sign * gain, -sign * gain
                key.weight[row, half + column], key.weight[row + 1, column] = gain, gain
