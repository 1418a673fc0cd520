"""SAM's image encoder: a vision transformer with windowed attention and decomposed relative positions.

Source: Kirillov et al., Segment Anything, ICCV 2023 (arXiv 2304.02643), section 3 and appendix A; the backbone is
that of ViTDet (Li et al., arXiv 2203.16527). Written anew with the parameter names of the published checkpoints.
SAM-Med2D, SAMed, MA-SAM and Med-SA wrap modules of a block (`attn`, `attn.qkv`, `mlp`, `before_attn`, `before_mlp`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segwise.errors import WeightsError
from segwise.nets.sam import Candidates, Feedforward, MaskDecoder, PromptEncoder, SamNet, TwoWayTransformer
from segwise.nets.tiny_vit import ChannelNorm

WINDOW = 14  # of the published models
MASK_VALUES = 2**24  # of relative positions at a time: 64 MiB, one head of a map of 64 x 64
Shapes = Mapping[str, Sequence[int]]


class Gelu(Feedforward):
    """Two linear layers with a GELU between."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> the same shape."""
        return self.lin2(F.gelu(self.lin1(x)))  # type: ignore[no-any-return]


class PatchEmbed(nn.Module):
    """Square patches as tokens."""

    def __init__(self, patch: int, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, h, w, width]."""
        return self.proj(x).permute(0, 2, 3, 1)  # type: ignore[no-any-return]


class SpatialAttention(nn.Module):
    """Self-attention on a map, with a learned term for the distance in rows and one for that in columns.

    The two terms are added as a mask, for as many heads at a time as keep that mask below 64 MiB.
    """

    def __init__(self, width: int, *, heads: int, size: tuple[int, int], bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.proj = nn.Linear(width, width)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * size[0] - 1, width // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * size[1] - 1, width // heads))

    def forward(self, x: Tensor) -> Tensor:
        """[B, h, w, width] -> the same shape."""
        b, h, w, width = x.shape
        q, k, v = self.qkv(x).view(b, h, w, 3, self.heads, -1).permute(3, 0, 4, 1, 2, 5)  # 3 of [B, heads, h, w, c]
        rows = torch.einsum("bnhwc,hkc->bnhwk", q, relative(self.rel_pos_h, h))
        columns = torch.einsum("bnhwc,wkc->bnhwk", q, relative(self.rel_pos_w, w))
        step = max(1, MASK_VALUES // (b * (h * w) ** 2))
        all_heads = (q.flatten(2, 3), k.flatten(2, 3), v.flatten(2, 3), rows, columns)
        some = zip(*(x.split(step, dim=1) for x in all_heads), strict=True)
        mixed = torch.cat([attended(*heads) for heads in some], dim=1)  # [B, heads, h*w, c]
        return self.proj(mixed.transpose(1, 2).reshape(b, h, w, width))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention, in windows or over the whole map, and an MLP.

    Attributes:
        before_attn, before_mlp: modules of adapters on the map [B, h, w, width]; nothing in SAM itself.
    """

    def __init__(
        self, width: int, *, heads: int, hidden: int, window: int, grid: tuple[int, int], bias: bool = True
    ) -> None:
        super().__init__()
        self.window = window  # 0: the whole map
        size = (window, window) if window else grid
        self.before_attn: nn.Module = nn.Identity()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn: nn.Module = SpatialAttention(width, heads=heads, size=size, bias=bias)
        self.before_mlp: nn.Module = nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp: nn.Module = Gelu(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """[B, h, w, width] -> the same shape."""
        x = self.before_attn(x)
        inner = self.norm1(x)
        if self.window:
            size = (int(x.shape[1]), int(x.shape[2]))
            inner = unwindowed(self.attn(windowed(inner, self.window)), self.window, size)
        else:
            inner = self.attn(inner)
        x = self.before_mlp(x + inner)
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class ImageEncoderViT(nn.Module):
    """Patches, blocks and a neck.

    Args:
        size: (H, W) of the image.
        patch: side of a patch.
        width, heads, hidden: of a block.
        windows: by block the side of its windows, 0 for attention over the whole map.
        out: channels of the embedding.
        bias: of the attention's queries, keys and values.
    """

    def __init__(
        self,
        *,
        size: tuple[int, int],
        patch: int,
        width: int,
        heads: int,
        hidden: int,
        windows: Sequence[int],
        out: int,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.size, self.patch = size, patch
        grid = (size[0] // patch, size[1] // patch)
        self.patch_embed = PatchEmbed(patch, 3, width)
        self.pos_embed = nn.Parameter(torch.zeros(1, *grid, width))
        self.blocks = nn.ModuleList(
            Block(width, heads=heads, hidden=hidden, window=window, grid=grid, bias=bias) for window in windows
        )
        self.neck = nn.Sequential(
            nn.Conv2d(width, out, 1, bias=False),
            ChannelNorm(out),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
            ChannelNorm(out),
        )

    def forward(self, image: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, out, h, w]."""
        x = self.patch_embed(image) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.neck(x.permute(0, 3, 1, 2))  # type: ignore[no-any-return]


def attended(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Attention of [B, n, h*w, c] with terms [B, n, h, w, h] for rows and [B, n, h, w, w] for columns added."""
    terms = (rows[..., None] + columns[..., None, :]).flatten(2, 3).flatten(3)  # [B, n, h*w, h*w]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=terms)


def relative(table: Tensor, n: int) -> Tensor:
    """[2n - 1, c] by distance -> [n, n, c] by query and key; a table of another length is interpolated linearly."""
    if len(table) != 2 * n - 1:
        table = F.interpolate(table.T[None], 2 * n - 1, mode="linear")[0].T
    place = torch.arange(n, device=table.device)
    return table[place[:, None] - place[None, :] + n - 1]


def windowed(x: Tensor, window: int) -> Tensor:
    """[B, h, w, c] -> [B * windows, window, window, c], zeros right and below where it does not divide."""
    b, h, w, c = x.shape
    x = F.pad(x, (0, 0, 0, -w % window, 0, -h % window))
    x = x.view(b, x.shape[1] // window, window, x.shape[2] // window, window, c)
    return x.transpose(2, 3).reshape(-1, window, window, c)


def unwindowed(x: Tensor, window: int, size: tuple[int, int]) -> Tensor:
    """The reverse of `windowed`, for a map of `size` (h, w)."""
    h, w = size
    rows, columns = -(-h // window), -(-w // window)
    x = x.view(-1, rows, columns, window, window, x.shape[-1]).transpose(2, 3)
    return x.reshape(x.shape[0], rows * window, columns * window, x.shape[-1])[:, :h, :w]


def encoder_of(shapes: Shapes, config: Mapping[str, Any], *, prefix: str = "image_encoder.") -> ImageEncoderViT:
    """An image encoder with the sizes that a checkpoint's keys have.

    A block is windowed if its table of relative positions is not as long as the map. Where that cannot be told (a map
    as large as a window) both are the same.

    Args:
        shapes: key -> shape.
        config: of the file beside the checkpoint; only read for "window_size" where no table tells it.
        prefix: of the encoder's keys.

    Raises:
        WeightsError: keys are missing.
    """
    try:
        grid, width = tuple(shapes[f"{prefix}pos_embed"][1:3]), int(shapes[f"{prefix}pos_embed"][3])
        patch = int(shapes[f"{prefix}patch_embed.proj.weight"][-1])
        tables = [
            int(shapes[f"{prefix}blocks.{i}.attn.rel_pos_h"][0]) for i in range(count(shapes, f"{prefix}blocks."))
        ]
        head = int(shapes[f"{prefix}blocks.0.attn.rel_pos_h"][1])
        hidden = int(shapes[f"{prefix}blocks.0.mlp.lin1.weight"][0])
        out = int(shapes[f"{prefix}neck.0.weight"][0])
    except (KeyError, IndexError) as error:
        raise WeightsError(
            f"these weights are not SAM's: {error} is missing or of another shape; expected the keys of "
            f"{prefix}pos_embed, patch_embed, blocks and neck"
        ) from error
    return ImageEncoderViT(
        size=(grid[0] * patch, grid[1] * patch),
        patch=patch,
        width=width,
        heads=width // head,
        hidden=hidden,
        windows=[0 if n == 2 * grid[0] - 1 else (n + 1) // 2 for n in tables],
        out=out,
        bias=f"{prefix}blocks.0.attn.qkv.bias" in shapes,
    )


def prompting_of(
    shapes: Shapes, config: Mapping[str, Any], *, grid: tuple[int, int], size: tuple[int, int], hidden: int = 2048
) -> tuple[PromptEncoder, MaskDecoder]:
    """SAM's prompt encoder and mask decoder with the sizes that a checkpoint's keys have.

    Args:
        shapes: key -> shape, with `prompt_encoder.*` and `mask_decoder.*`.
        config: "decoder_num_heads" (8 without it), which no shape tells.
        grid: (h, w) of the image embedding.
        size: (H, W) of the net's input.
        hidden: of the decoder's MLP where it has no layer.

    Raises:
        WeightsError: keys are missing.
    """
    try:
        masks, width = shapes["mask_decoder.mask_tokens.weight"]
        mask_width = shapes["prompt_encoder.mask_downscaling.3.weight"][0]
        depth = count(shapes, "mask_decoder.transformer.layers.")
        if depth:
            hidden = shapes["mask_decoder.transformer.layers.0.mlp.lin1.weight"][0]
        head_depth = count(shapes, "mask_decoder.iou_prediction_head.layers.")
        head_hidden = shapes["mask_decoder.iou_prediction_head.layers.0.weight"][0]
    except (KeyError, IndexError) as error:
        raise WeightsError(f"these weights are not SAM's: {error} is missing or of another shape") from error
    heads = int(config.get("decoder_num_heads", 8))
    prompt_encoder = PromptEncoder(width=width, grid=grid, size=size, mask_width=mask_width)
    transformer = TwoWayTransformer(depth=depth, width=width, heads=heads, hidden=hidden)
    decoder = MaskDecoder(
        width=width, masks=masks, transformer=transformer, head_depth=head_depth, head_hidden=head_hidden
    )
    return prompt_encoder, decoder


def sam_of(
    shapes: Shapes, config: Mapping[str, Any], *, candidates: Candidates = "auto", enlarge: bool = True
) -> SamNet:
    """SAM, untrained, with the sizes that a checkpoint's keys have. Arguments and errors as its parts and `SamNet`."""
    encoder = encoder_of(shapes, config)
    grid = (encoder.size[0] // encoder.patch, encoder.size[1] // encoder.patch)
    prompts, decoder = prompting_of(shapes, config, grid=grid, size=encoder.size)
    return SamNet(encoder, prompts, decoder, candidates=candidates, enlarge=enlarge)


def count(shapes: Shapes, prefix: str) -> int:
    """How many numbered children a prefix has, e.g. "image_encoder.blocks."."""
    numbers = {key[len(prefix) :].split(".")[0] for key in shapes if key.startswith(prefix)}
    return len([n for n in numbers if n.isdigit()])
