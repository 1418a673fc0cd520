"""MobileSAM: SAM's prompt encoder and mask decoder behind TinyViT, with the sizes that a checkpoint's keys have.

Source: Zhang et al., Faster Segment Anything, arXiv 2306.14289: the encoder of SAM's ViT-H distilled into TinyViT-5M;
the last two stages keep one resolution, so that the embedding is a sixteenth of the input, as SAM's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from segwise.errors import WeightsError
from segwise.nets.sam import Candidates, MaskDecoder, PromptEncoder, SamNet, TwoWayTransformer
from segwise.nets.sam_vit import Shapes, count, prompting_of
from segwise.nets.tiny_vit import TinyViT

MARK = "image_encoder.patch_embed.seq.0.c.weight"  # a key that tells TinyViT from SAM's own encoder
UNUSED = ("image_encoder.norm_head.", "image_encoder.head.")  # of the image classifier it was trained as first
IMAGE_SIZE = 1024
STEM_STRIDE, MERGE_STRIDES = 2, (2, 2, 1)


def mobile_sam_of(
    shapes: Shapes,
    config: Mapping[str, Any],
    *,
    candidates: Candidates = "auto",
    enlarge: bool = True,
    image_size: int = IMAGE_SIZE,
    stem_stride: int = STEM_STRIDE,
) -> SamNet:
    """MobileSAM, untrained, with the sizes that a checkpoint's keys have.

    Args:
        shapes: key -> shape.
        config: "image_size" and "decoder_num_heads", which no shape tells.
        candidates, enlarge: as in `SamNet`.
        image_size: without one in `config`.
        stem_stride: of both stem convolutions; 1 for LiteMedSAM.

    Raises:
        WeightsError: keys are missing.
    """
    size = int(config.get("image_size", image_size))
    encoder = tiny_vit_of(shapes, stem_stride=stem_stride)
    side = size // (stem_stride**2 * math.prod(MERGE_STRIDES))
    prompts, decoder = prompting_of(shapes, config, grid=(side, side), size=(size, size))
    return SamNet(encoder, prompts, decoder, candidates=candidates, enlarge=enlarge)


def mobile_sam(*, candidates: Candidates = "auto", enlarge: bool = True) -> SamNet:
    """MobileSAM as published, untrained."""
    prompts = PromptEncoder(width=256, grid=(64, 64), size=(IMAGE_SIZE, IMAGE_SIZE))
    decoder = MaskDecoder(transformer=TwoWayTransformer())
    encoder = TinyViT(stem_stride=STEM_STRIDE, merge_strides=MERGE_STRIDES)
    return SamNet(encoder, prompts, decoder, candidates=candidates, enlarge=enlarge)


def tiny_vit_of(shapes: Shapes, *, prefix: str = "image_encoder.", stem_stride: int = STEM_STRIDE) -> TinyViT:
    """MobileSAM's image encoder with the sizes that a checkpoint's keys have.

    Raises:
        WeightsError: keys are missing.
    """
    try:
        stages = range(count(shapes, f"{prefix}layers."))
        depths = [count(shapes, f"{prefix}layers.{i}.blocks.") for i in stages]
        first = f"{prefix}layers.0.blocks.0"
        widths = [shapes[f"{first}.conv3.c.weight"][0]]
        biases = [(1, 1)]  # the first stage has no attention
        for i in stages[1:]:
            block = f"{prefix}layers.{i}.blocks.0"
            widths.append(shapes[f"{block}.mlp.fc2.weight"][0])
            biases.append((shapes[f"{block}.attn.attention_biases"][0], shapes[f"{block}.attn.attention_biases"][1]))
        return TinyViT(
            widths=widths,
            depths=depths,
            heads=[heads for heads, _ in biases],
            windows=[math.isqrt(places) for _, places in biases],
            stem_stride=stem_stride,
            merge_strides=MERGE_STRIDES,
            embedding=shapes[f"{prefix}neck.0.weight"][0],
            mlp_ratio=shapes[f"{prefix}layers.1.blocks.0.mlp.fc1.weight"][0] / widths[1],
            expansion=shapes[f"{first}.conv1.c.weight"][0] / widths[0],
            kernel=shapes[f"{prefix}layers.1.blocks.0.local_conv.c.weight"][-1],
        )
    except (KeyError, IndexError) as error:
        raise WeightsError(f"these weights are not MobileSAM's: {error} is missing or of another shape") from error
