"""Smaller nets of the make of larger ones: what learns from a teacher.

A student has the views, prompts and answers of its teacher; widths are divided, and some blocks left out. Its weights
begin as a part of the teacher's.

Source: weight selection, Xu et al., Initializing Models with Larger Ones, arXiv 2311.18823, section 3: the first
layers, and evenly spaced elements of every tensor. A small encoder in the place of a large one as in MobileSAM (Zhang
et al., arXiv 2306.14289); there prompt encoder and decoder stay, here they shrink too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from segwise.nets.contract import PromptNet
from segwise.nets.focus_unet import GROUPS, FocusUNet
from segwise.nets.sam import MaskDecoder, PromptEncoder, SamNet, TwoWayTransformer
from segwise.nets.sam_vit import ImageEncoderViT
from segwise.nets.tiny_vit import Block, InvertedBottleneck, Stem, TinyViT

Size = Literal["small", "tiny"]


class Cut(NamedTuple):
    """How much smaller.

    Attributes:
        narrower: widths are divided by it.
        deep: share of the blocks that stay.
    """

    narrower: int
    deep: float


CUTS: dict[Size, Cut] = {"small": Cut(2, 0.75), "tiny": Cut(4, 0.5)}


def student_of(teacher: nn.Module, size: Size) -> PromptNet | None:
    """An untrained student with a part of its teacher's weights, or None for a teacher of another make.

    Args:
        teacher: a net with SAM's prompts behind a ViT or TinyViT, or the net that looks at regions; adapted or not.
        size: "small" has under a quarter of its parameters, "tiny" about a sixteenth or less.
    """
    cut = CUTS[size]
    made: PromptNet | None = None
    if isinstance(teacher, FocusUNet):
        made = _focus(teacher, cut)
    elif type(teacher) is SamNet:
        encoder = _encoder(teacher.image_encoder, cut)
        made = None if encoder is None else _sam(teacher, encoder, cut)
    if made is not None:
        inherit(made, teacher)
    return made


def config_of(student: nn.Module) -> dict[str, int]:
    """What no shape of a student's tensors tells, by the names that `config.json` beside a checkpoint has."""
    if not isinstance(student, SamNet):
        return {}
    transformer: Any = student.mask_decoder.transformer
    return {
        "decoder_num_heads": int(transformer.final_attn_token_to_image.heads),
        "image_size": student.prompt_encoder.size[0],
    }


@torch.no_grad()
def inherit(student: nn.Module, teacher: nn.Module) -> int:
    """Give a student a part of its teacher's tensors (in place): evenly spaced elements along every axis.

    Returns:
        How many tensors have one of the same name and number of axes in the teacher; others stay as they are.
    """
    own, theirs, n = student.state_dict(), teacher.state_dict(), 0
    for key, value in own.items():
        source = theirs.get(key)
        if source is None or source.ndim != value.ndim or not source.is_floating_point():
            continue
        if any(a > b for a, b in zip(value.shape, source.shape, strict=True)):
            continue
        value.copy_(spaced(source, value.shape))
        n += 1
    return n


def spaced(source: Tensor, shape: Sequence[int]) -> Tensor:
    """Evenly spaced elements of a tensor along every axis: index i * n // m of n for m."""
    for axis, m in enumerate(shape):
        n = source.shape[axis]
        if n != m:
            source = source.index_select(axis, torch.arange(m, device=source.device) * n // m)
    return source


def _kept(n: int, cut: Cut) -> int:
    return max(1, math.ceil(n * cut.deep))


def _encoder(teacher: nn.Module, cut: Cut) -> nn.Module | None:
    if isinstance(teacher, ImageEncoderViT):
        return _vit(teacher, cut)
    return _tiny_vit(teacher, cut) if isinstance(teacher, TinyViT) else None


def _vit(teacher: ImageEncoderViT, cut: Cut) -> ImageEncoderViT:
    """As many heads; of the blocks the first ones, and as large a share of them with windows."""
    blocks = list(teacher.blocks)
    windows = [int(block.window) for block in blocks]  # type: ignore[arg-type]
    n = _kept(len(blocks), cut)
    width, table = int(teacher.pos_embed.shape[-1]), _named(blocks[0].attn, "rel_pos_h")  # type: ignore[arg-type]
    return ImageEncoderViT(
        size=teacher.size,
        patch=teacher.patch,
        width=width // cut.narrower,
        heads=width // int(table.shape[1]),
        hidden=_hidden(blocks[0]) // cut.narrower,
        windows=windows[:n],
        out=_out(teacher.neck) // cut.narrower,
    )


def _tiny_vit(teacher: TinyViT, cut: Cut) -> TinyViT:
    """Stages, windows, strides and heads as they are; narrower ones, and of the blocks of each the first."""
    stem: Any = teacher.patch_embed
    stages: list[Any] = list(teacher.layers)
    assert isinstance(stem, Stem)
    first: list[Any] = [stage.blocks[0] for stage in stages]
    assert isinstance(first[0], InvertedBottleneck)
    widths = [int(first[0].conv3.bn.num_features)]
    widths += [int(block.local_conv.bn.num_features) for block in first[1:]]
    blocks = [block for block in first[1:] if isinstance(block, Block)]
    downs = [stage.downsample for stage in stages[:-1]]
    return TinyViT(
        widths=[width // cut.narrower for width in widths],
        depths=[_kept(len(stage.blocks), cut) for stage in stages],
        heads=[1, *(int(_named(block.attn, "attention_biases").shape[0]) for block in blocks)],
        windows=[1, *(block.window for block in blocks)],
        stem_stride=int(stem.seq[0].c.stride[0]),  # type: ignore[index]
        merge_strides=[int(down.conv2.c.stride[0]) for down in downs],
        embedding=_out(teacher.neck) // cut.narrower,
        expansion=first[0].conv1.bn.num_features / widths[0],
        kernel=int(blocks[0].local_conv.c.kernel_size[0]),
    )


def _named(module: nn.Module, name: str) -> Tensor:
    """A parameter by the end of its name: an adapter may have wrapped what holds it."""
    return next(value for key, value in module.named_parameters() if key.endswith(name))


def _hidden(block: nn.Module) -> int:
    """The hidden width of a block's MLP, which an adapter may have wrapped: no tensor of it is longer."""
    found = block.named_parameters()
    return max(int(value.shape[0]) for key, value in found if value.ndim == 2 and "mlp" in key)


def _out(neck: nn.Module) -> int:
    return int(neck[1].weight.shape[0])  # type: ignore[index]


def _sam(teacher: SamNet, encoder: nn.Module, cut: Cut) -> SamNet:
    """Prompts and decoder of a narrower token behind an encoder."""
    prompts, decoder = teacher.prompt_encoder, teacher.mask_decoder
    masks, width = decoder.mask_tokens.weight.shape
    own = width // cut.narrower
    layers = list(decoder.transformer.layers)  # type: ignore[arg-type]
    hidden = _hidden(layers[0])
    head = decoder.iou_prediction_head.layers
    heads = int(decoder.transformer.final_attn_token_to_image.heads)  # type: ignore[union-attr, arg-type]
    transformer = TwoWayTransformer(depth=len(layers), width=own, heads=heads, hidden=hidden // cut.narrower)
    return SamNet(
        encoder,
        PromptEncoder(width=own, grid=prompts.grid, size=prompts.size),
        MaskDecoder(
            width=own,
            masks=masks,
            transformer=transformer,
            head_depth=len(head),
            head_hidden=own,
        ),
        candidates=teacher.candidates,
        enlarge=teacher.enlarge,
    )


def _focus(teacher: FocusUNet, cut: Cut) -> FocusUNet:
    """Levels as they are; narrower in whole groups, and fewer blocks."""
    first = [int(teacher.stem.out_channels), *(int(down.out_channels) for down in teacher.down)]  # type: ignore[arg-type]
    depths = [0, *(max(1, int(len(blocks) * cut.deep)) for blocks in teacher.blocks)]  # type: ignore[arg-type]
    widths = [max(GROUPS, width // cut.narrower // GROUPS * GROUPS) for width in first]
    return FocusUNet(widths=widths, depths=depths)
