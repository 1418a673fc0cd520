"""SAM-Med3D's net: a vision transformer on patches of a volume, prompted by points; SAM with three axes everywhere.

Source: Wang et al., SAM-Med3D (arXiv 2310.15161), section 3, and the released checkpoints (uni-medical/SAM-Med3D,
vit_b_ori). Written anew with the parameter names of these checkpoints. What they learned and is kept: a place is coded
[sin, cos, sin] over a third of the width each; the codes of the grid have the first two axes exchanged, those of
points do not; windows of 14 tokens on a grid of 8, filled up with zeros; and what `VolumeAttention` says.

A window's filling has keys and values; what its queries would answer is thrown away by the original and not computed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segwise.errors import WeightsError
from segwise.nets.contract import Decoded, Marks, PromptNet
from segwise.nets.sam import NO_POINT
from segwise.nets.sam_3d import ChannelNorm3d, MaskDecoder3d, RandomPlaces3d, Size, decoder_of, pointed
from segwise.nets.sam_vit import MASK_VALUES, Gelu, Shapes, count, relative

WINDOW = 14  # tokens, of the released model
HEAD = 64  # width of an encoder's head where no table of relative positions tells it
Candidates = Literal["one", "three"]
_CANDIDATES = {"one": slice(0, 1), "three": slice(1, None)}


class VolumeAttention(nn.Module):
    """Self-attention on a cube of tokens, with learned terms for relative positions.

    The terms are the original's, whose broadcasting does not do what its names say: the score of query (d, h, w) and
    key (d', h', w') gets R_d(d, w') from the query itself, but R_h(h, w') from the query at (d, h, d') and R_w(h', w')
    from the query at (d, h, h'). The released weights were trained so. They are added as a mask, for as many heads at
    a time as keep it below 64 MiB.
    """

    def __init__(self, width: int, *, heads: int, side: int | None, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.proj = nn.Linear(width, width)
        self.placed = side is not None
        for axis in "dhw" if side is not None else "":
            self.register_parameter(f"rel_pos_{axis}", nn.Parameter(torch.zeros(2 * (side or 1) - 1, width // heads)))

    def forward(self, x: Tensor, asked: Size) -> Tensor:
        """[B, n, n, n, width] and how many tokens of each axis ask, from the first -> [B, *asked, width]."""
        b, n, width = x.shape[0], x.shape[1], x.shape[-1]
        q, k, v = self.qkv(x).view(b, n, n, n, 3, self.heads, -1).permute(4, 0, 5, 1, 2, 3, 6)  # [B, heads, n, n, n, c]
        q = q[:, :, : asked[0], : asked[1]]
        step = max(1, MASK_VALUES // (b * math.prod(asked) * n**3))
        some = zip(*(t.split(step, dim=1) for t in (q, k, v)), strict=True)
        mixed = torch.cat([self._mixed(*heads, columns=asked[2]) for heads in some], dim=1)  # [B, heads, queries, c]
        return self.proj(mixed.transpose(1, 2).reshape(b, *asked, width))  # type: ignore[no-any-return]

    def _mixed(self, q: Tensor, k: Tensor, v: Tensor, *, columns: int) -> Tensor:
        terms = self._terms(q, columns) if self.placed else None
        q = q[:, :, :, :, :columns]
        return F.scaled_dot_product_attention(q.flatten(2, 4), k.flatten(2, 4), v.flatten(2, 4), attn_mask=terms)

    def _terms(self, q: Tensor, columns: int) -> Tensor:
        """Queries [B, heads, d, h, n, c], of whose last axis the first `columns` ask -> [B, heads, queries, n^3]."""
        tables = {axis: relative(self.get_parameter(f"rel_pos_{axis}"), q.shape[4]) for axis in "dhw"}
        own = torch.einsum("bndhwc,dkc->bndhwk", q[:, :, :, :, :columns], tables["d"][: q.shape[2]])
        rows = torch.einsum("bndhwc,hkc->bndhwk", q, tables["h"][: q.shape[3]])
        along = torch.einsum("bndhwc,wkc->bndhwk", q, tables["w"])
        shared = rows[..., None, :] + along[:, :, :, :, None]  # [B, heads, d, h, n as d', n as h', n as w']
        terms = own[..., None, None, :] + shared[:, :, :, :, None]  # [B, heads, d, h, w, d', h', w']
        return terms.flatten(5).flatten(2, 4)


class Block3d(nn.Module):
    """Attention, in windows or over the whole volume, and an MLP."""

    def __init__(
        self, width: int, *, heads: int, hidden: int, window: int, grid: Size, bias: bool, placed: bool, eps: float
    ) -> None:
        super().__init__()
        self.window = window  # 0: the whole volume
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = VolumeAttention(width, heads=heads, side=(window or grid[0]) if placed else None, bias=bias)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Gelu(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """[B, D, H, W, width] -> the same shape."""
        x = x + self._attended(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]

    def _attended(self, x: Tensor) -> Tensor:
        d, h, w = (int(n) for n in x.shape[1:4])
        if not self.window:
            return self.attn(x, (d, h, w))  # type: ignore[no-any-return]
        n = self.window
        filled = F.pad(x, (0, 0, 0, -w % n, 0, -h % n, 0, -d % n))
        out = torch.empty_like(x)
        for a, b, c in itertools.product(range(0, d, n), range(0, h, n), range(0, w, n)):
            asked = (min(n, d - a), min(n, h - b), min(n, w - c))
            answer = self.attn(filled[:, a : a + n, b : b + n, c : c + n], asked)
            out[:, a : a + n, b : b + n, c : c + n] = answer
        return out


class PatchEmbed3d(nn.Module):
    """Cubes of voxels as tokens."""

    def __init__(self, patch: Size, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(channels, width, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, D, H, W] -> [B, d, h, w, width]."""
        return self.proj(x).movedim(1, -1)  # type: ignore[no-any-return]


class ImageEncoder3d(nn.Module):
    """Patches, blocks and a neck.

    Args:
        grid: tokens along each axis.
        patch: voxels of a token along each axis.
        channels: of the image.
        width, heads, hidden: of a block.
        windows: by block the side of its windows, 0 for attention over the whole volume.
        out: channels of the embedding.
        bias: of the attention's queries, keys and values.
        placed: with tables of relative positions.
        eps: of the blocks' norms.
    """

    def __init__(
        self,
        *,
        grid: Size,
        patch: Size,
        channels: int = 1,
        width: int,
        heads: int,
        hidden: int,
        windows: Sequence[int],
        out: int,
        bias: bool = True,
        placed: bool = True,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.size: Size = (grid[0] * patch[0], grid[1] * patch[1], grid[2] * patch[2])
        self.patch_embed = PatchEmbed3d(patch, channels, width)
        self.pos_embed = nn.Parameter(torch.zeros(1, *grid, width))
        self.blocks = nn.ModuleList(
            Block3d(width, heads=heads, hidden=hidden, window=n, grid=grid, bias=bias, placed=placed, eps=eps)
            for n in windows
        )
        self.neck = nn.Sequential(
            nn.Conv3d(width, out, 1, bias=False),
            ChannelNorm3d(out),
            nn.Conv3d(out, out, 3, padding=1, bias=False),
            ChannelNorm3d(out),
        )

    def forward(self, image: Tensor) -> Tensor:
        """[B, C, D, H, W] -> [B, out, d, h, w]."""
        x = self.patch_embed(image) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.neck(x.movedim(-1, 1))  # type: ignore[no-any-return]


class PromptEncoder3d(nn.Module):
    """Points and low-resolution logits as tokens.

    Args:
        width: of a token.
        grid: of the image embedding.
        size: of the net's input.
        mask_width: hidden channels of the mask branch.
    """

    def __init__(self, *, width: int, grid: Size, size: Size, mask_width: int = 16) -> None:
        super().__init__()
        self.grid, self.size = grid, size
        self.pe_layer = RandomPlaces3d(width // 3, waves="scs")
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, width) for _ in range(2))
        self.not_a_point_embed = nn.Embedding(1, width)
        self.mask_downscaling = nn.Sequential(
            nn.Conv3d(1, mask_width // 4, 2, 2),
            ChannelNorm3d(mask_width // 4),
            nn.GELU(),
            nn.Conv3d(mask_width // 4, mask_width, 2, 2),
            ChannelNorm3d(mask_width),
            nn.GELU(),
            nn.Conv3d(mask_width, width, 1),
        )
        self.no_mask_embed = nn.Embedding(1, width)

    def places(self) -> Tensor:
        """[1, width, *grid]: positional code of the image embedding. The original knows cubes only."""
        d, h, w = self.grid
        return self.pe_layer.grid(self.grid, (h, d, w))[None]

    def sparse(self, points: Tensor, signs: Tensor) -> Tensor:
        """Points [Q, N, 3] in voxels and signs [Q, N] -> [Q, N + 1, width]: the points, then a padding token."""
        points, signs = F.pad(points, (0, 0, 0, 1)), F.pad(signs, (0, 1), value=NO_POINT)
        return pointed(self, self.pe_layer((points + 0.5) / points.new_tensor(self.size)), signs)

    def dense(self, low_res: Tensor | None, n: int) -> Tensor:
        """[n, width, *grid] of logits [n, 1, 4d, 4h, 4w], or of none."""
        if low_res is not None:
            return self.mask_downscaling(low_res)  # type: ignore[no-any-return]
        return self.no_mask_embed.weight.view(1, -1, 1, 1, 1).expand(n, -1, *self.grid)


class SamMed3dNet(PromptNet):
    """SAM-Med3D.

    Args:
        image_encoder, prompt_encoder, mask_decoder: its parts.
        candidates: "one" mask, or the "three" of an ambiguous prompt.
    """

    def __init__(
        self,
        image_encoder: ImageEncoder3d,
        prompt_encoder: PromptEncoder3d,
        mask_decoder: MaskDecoder3d,
        *,
        candidates: Candidates = "one",
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        self.candidates: Candidates = candidates

    @property
    def encoding(self) -> nn.Module:
        """The image encoder."""
        return self.image_encoder

    def encode(self, image: Tensor) -> Tensor:
        """[B, C, D, H, W] -> [B, width, d, h, w]."""
        return self.image_encoder(image).contiguous()  # type: ignore[no-any-return]

    def decode(self, features: Tensor, marks: Marks) -> Decoded:
        """Points of Q queries -> logits [Q, M, D, H, W], predicted IoU, low-resolution logits [Q, M, 4d, 4h, 4w].

        Without `low_res` the mask is "none", which the original's own programs never say: they begin with zeros.
        """
        if marks.points is None or marks.signs is None:
            raise ValueError("SAM-Med3D takes points")
        logits, quality = self.mask_decoder(
            features[marks.image],
            self.prompt_encoder.places(),
            self.prompt_encoder.sparse(marks.points, marks.signs),
            self.prompt_encoder.dense(marks.low_res, len(marks.image)),
            candidates=_CANDIDATES[self.candidates],
        )
        full = F.interpolate(logits, self.prompt_encoder.size, mode="trilinear", align_corners=False)
        return Decoded(full, quality, low_res=logits)


def net_of(shapes: Shapes, config: Mapping[str, Any], *, candidates: Candidates = "one") -> SamMed3dNet:
    """SAM-Med3D, untrained, with the sizes that a checkpoint's keys have.

    A block is windowed if its table of relative positions is not as long as the grid; where both are as long, both are
    the same.

    Args:
        shapes: key -> shape.
        config: of the file beside the checkpoint; "norm_eps" always, "encoder_num_heads", "window_size" and
            "encoder_global_attn_indexes" for a net without tables of relative positions.
        candidates: of the net.

    Raises:
        WeightsError: keys are missing.
    """
    try:
        encoder = _encoder(shapes, config)
        width = int(shapes["mask_decoder.mask_tokens.weight"][1])
        mask_width = int(shapes["prompt_encoder.mask_downscaling.3.weight"][0])
        prompts = PromptEncoder3d(width=width, grid=encoder.grid, size=encoder.size, mask_width=mask_width)
        return SamMed3dNet(encoder, prompts, decoder_of(shapes), candidates=candidates)
    except (KeyError, IndexError, ValueError) as error:
        raise WeightsError(f"these weights are not SAM-Med3D's: {error} is missing or of another shape") from error


def _encoder(shapes: Shapes, config: Mapping[str, Any]) -> ImageEncoder3d:
    own = {key.removeprefix("image_encoder."): shape for key, shape in shapes.items()}
    d, h, w, width = (int(n) for n in own["pos_embed"][1:])
    channels, *patch = (int(n) for n in own["patch_embed.proj.weight"][1:])
    depth = count(own, "blocks.")
    placed = "blocks.0.attn.rel_pos_d" in own
    if placed:
        tables = [int(own[f"blocks.{i}.attn.rel_pos_d"][0]) for i in range(depth)]
        windows = [0 if n == 2 * d - 1 else (n + 1) // 2 for n in tables]
        heads = width // int(own["blocks.0.attn.rel_pos_d"][1])
    else:
        whole = set(config.get("encoder_global_attn_indexes", ()))
        windows = [0 if i in whole else int(config.get("window_size", WINDOW)) for i in range(depth)]
        heads = int(config.get("encoder_num_heads", width // HEAD))
    return ImageEncoder3d(
        grid=(d, h, w),
        patch=(patch[0], patch[1], patch[2]),
        channels=channels,
        width=width,
        heads=heads,
        hidden=int(own["blocks.0.mlp.lin1.weight"][0]),
        windows=windows,
        out=int(own["neck.0.weight"][0]),
        bias="blocks.0.attn.qkv.bias" in own,
        placed=placed,
        eps=float(config.get("norm_eps", 1e-6)),
    )
