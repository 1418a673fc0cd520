"""SAM's prompt encoder, two-way transformer and mask decoder, and a net of them around any image encoder.

Source: Kirillov et al., Segment Anything, arXiv 2304.02643, appendix A. Parameters carry the names of the published
checkpoints (`image_encoder.*`, `prompt_encoder.*`, `mask_decoder.*`), so SAM, MobileSAM, MedSAM and what is built on
them load strictly. Inside this file places are (x, y) in pixels of the net's input, as the checkpoints learned them;
`SamNet` takes the (d, h, w) of `nets.contract`.
"""

from __future__ import annotations

import itertools
import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segwise.nets.contract import Decoded, Marks, PromptNet
from segwise.nets.tiny_vit import ChannelNorm

NO_POINT = -1  # sign of a padding point


class Attention(nn.Module):
    """Attention whose inner width may be smaller than its outer one."""

    def __init__(self, width: int, *, heads: int, inner: int | None = None) -> None:
        super().__init__()
        inner = inner or width
        self.heads = heads
        self.q_proj = nn.Linear(width, inner)
        self.k_proj = nn.Linear(width, inner)
        self.v_proj = nn.Linear(width, inner)
        self.out_proj = nn.Linear(inner, width)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[B, Tq, width], [B, Tk, width], [B, Tk, width] -> [B, Tq, width]."""
        q, k, v = self._heads(self.q_proj(q)), self._heads(self.k_proj(k)), self._heads(self.v_proj(v))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.out_proj(mixed.flatten(2))  # type: ignore[no-any-return]

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)  # [B, heads, T, inner / heads]


class Feedforward(nn.Module):
    """Two linear layers with a rectifier between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(width, hidden)
        self.lin2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> the same shape."""
        return self.lin2(F.relu(self.lin1(x)))  # type: ignore[no-any-return]


class TwoWayBlock(nn.Module):
    """Tokens among themselves, tokens to image, MLP, image to tokens."""

    def __init__(self, width: int, *, heads: int, hidden: int, first: bool) -> None:
        super().__init__()
        self.first = first  # the first block's self-attention adds no position and no skip
        self.self_attn = Attention(width, heads=heads)
        self.norm1 = nn.LayerNorm(width)
        self.cross_attn_token_to_image = Attention(width, heads=heads, inner=width // 2)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Feedforward(width, hidden)
        self.norm3 = nn.LayerNorm(width)
        self.norm4 = nn.LayerNorm(width)
        self.cross_attn_image_to_token = Attention(width, heads=heads, inner=width // 2)

    def forward(self, tokens: Tensor, image: Tensor, token_place: Tensor, image_place: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B, T, width] and image [B, h*w, width], each with its places, -> both, updated."""
        tokens = self.norm1(self.among(tokens, token_place))
        image_key = image + image_place
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + token_place, image_key, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(image + self.cross_attn_image_to_token(image_key, tokens + token_place, tokens))
        return tokens, image

    def among(self, tokens: Tensor, token_place: Tensor) -> Tensor:
        """The tokens' attention to each other, before the first norm."""
        if self.first:
            return self.self_attn(tokens, tokens, tokens)  # type: ignore[no-any-return]
        placed = tokens + token_place
        return tokens + self.self_attn(placed, placed, tokens)  # type: ignore[no-any-return]


class TwoWayTransformer(nn.Module):
    """The decoder's transformer."""

    def __init__(self, *, depth: int = 2, width: int = 256, heads: int = 8, hidden: int = 2048) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(width, heads=heads, hidden=hidden, first=i == 0) for i in range(depth))
        self.final_attn_token_to_image = Attention(width, heads=heads, inner=width // 2)
        self.norm_final_attn = nn.LayerNorm(width)

    def forward(self, image: Tensor, image_place: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Image [B, h*w, width], its places [1, h*w, width], tokens [B, T, width] -> (tokens, image)."""
        place = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, image, place, image_place)
        tokens = tokens + self.final_attn_token_to_image(tokens + place, image + image_place, image)
        return self.norm_final_attn(tokens), image


class RandomPlaces(nn.Module):
    """Random Fourier features of a place."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, features))

    def forward(self, xy: Tensor) -> Tensor:
        """[..., 2] in 0..1 (x, y) -> [..., 2 * features]."""
        angle = 2 * math.pi * ((2 * xy - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([angle.sin(), angle.cos()], dim=-1)

    def grid(self, height: int, width: int) -> Tensor:
        """[2 * features, height, width]: the places of a map's cell centres."""
        like = self.positional_encoding_gaussian_matrix
        y = (torch.arange(height, device=like.device, dtype=like.dtype) + 0.5) / height
        x = (torch.arange(width, device=like.device, dtype=like.dtype) + 0.5) / width
        codes = self(torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1))
        return codes.permute(2, 0, 1)  # type: ignore[no-any-return]


class PromptEncoder(nn.Module):
    """Points, boxes and low-resolution logits as tokens.

    Args:
        width: of a token.
        grid: (h, w) of the image embedding.
        size: (H, W) of the net's input.
        mask_width: hidden channels of the mask branch.
    """

    def __init__(self, *, width: int, grid: tuple[int, int], size: tuple[int, int], mask_width: int = 16) -> None:
        super().__init__()
        self.grid, self.size = grid, size
        self.pe_layer = RandomPlaces(width // 2)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, width) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, width)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_width // 4, 2, 2),
            ChannelNorm(mask_width // 4),
            nn.GELU(),
            nn.Conv2d(mask_width // 4, mask_width, 2, 2),
            ChannelNorm(mask_width),
            nn.GELU(),
            nn.Conv2d(mask_width, width, 1),
        )
        self.no_mask_embed = nn.Embedding(1, width)

    def places(self) -> Tensor:
        """[1, width, h, w]: positional code of the image embedding."""
        return self.pe_layer.grid(*self.grid)[None]

    def sparse(self, points: Tensor | None, signs: Tensor | None, boxes: Tensor | None, n: int) -> Tensor:
        """Tokens of points and boxes.

        Args:
            points: [n, N, 2] (x, y) in input pixels, centres at integers, or None.
            signs: [n, N]: 1 positive, 0 negative, -1 padding.
            boxes: [n, 2, 2] corners (x, y), or None.
            n: number of queries.

        Returns:
            [n, T, width]: the points, a padding token where points come without a box, the box's two corners.
        """
        tokens = [self.no_mask_embed.weight.new_zeros(n, 0, self.no_mask_embed.embedding_dim)]
        if points is not None and signs is not None:
            if boxes is None:
                points = F.pad(points, (0, 0, 0, 1))
                signs = F.pad(signs, (0, 1), value=NO_POINT)
            tokens.append(self._points(points, signs))
        if boxes is not None:
            tokens.append(self._placed(boxes) + self._kinds()[2:])
        return torch.cat(tokens, dim=1)

    def dense(self, low_res: Tensor | None, n: int) -> Tensor:
        """[n, width, h, w] of logits [n, 1, 4h, 4w], or of none."""
        if low_res is not None:
            return self.mask_downscaling(low_res)  # type: ignore[no-any-return]
        return self.no_mask_embed.weight.view(1, -1, 1, 1).expand(n, -1, *self.grid)

    def _kinds(self) -> Tensor:
        """[4, width]: of a negative point, a positive one, and the two corners of a box."""
        return torch.cat(list(self.point_embeddings.parameters()))

    def _points(self, points: Tensor, signs: Tensor) -> Tensor:
        sign = signs.round().long()[..., None]
        placed = self._placed(points)
        negative, positive = self._kinds()[:2]
        kind = torch.where(sign == 1, positive, negative)
        return torch.where(sign == NO_POINT, self.not_a_point_embed.weight, placed + kind)

    def _placed(self, xy: Tensor) -> Tensor:
        height, width = self.size
        return self.pe_layer((xy + 0.5) / xy.new_tensor([width, height]))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Linear layers with rectifiers between."""

    def __init__(self, width_in: int, hidden: int, width: int, *, depth: int) -> None:
        super().__init__()
        widths = [width_in, *[hidden] * (depth - 1), width]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """[..., width_in] -> [..., width]."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)  # type: ignore[no-any-return]


class MaskDecoder(nn.Module):
    """Image embedding and tokens -> masks at four times its resolution, and their predicted IoU.

    Args:
        width: of a token.
        masks: how many candidates, the first of them for unambiguous prompts.
        transformer: a `TwoWayTransformer`.
        head_depth, head_hidden: of the IoU head.
    """

    def __init__(
        self,
        *,
        width: int = 256,
        masks: int = 4,
        transformer: nn.Module,
        head_depth: int = 3,
        head_hidden: int = 256,
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.iou_token = nn.Embedding(1, width)
        self.mask_tokens = nn.Embedding(masks, width)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(width, width // 4, 2, 2),
            ChannelNorm(width // 4),
            nn.GELU(),
            nn.ConvTranspose2d(width // 4, width // 8, 2, 2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(Mlp(width, width, width // 8, depth=3) for _ in range(masks))
        self.iou_prediction_head = Mlp(width, head_hidden, masks, depth=head_depth)

    def forward(
        self, image: Tensor, places: Tensor, sparse: Tensor, dense: Tensor, *, candidates: slice
    ) -> tuple[Tensor, Tensor]:
        """Masks of some candidates.

        Args:
            image: [Q, width, h, w], a query's own image embedding.
            places: [1, width, h, w].
            sparse: [Q, T, width].
            dense: [Q, width, h, w].
            candidates: which of the masks, e.g. slice(0, 1).

        Returns:
            (logits [Q, M, 4h, 4w], IoU [Q, M]).
        """
        q, _, h, w = image.shape
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])  # [1 + masks, width]
        tokens = torch.cat([own.expand(q, -1, -1), sparse], dim=1)
        seen = (image + dense).flatten(2).transpose(1, 2).contiguous()  # [Q, h*w, width]
        tokens, seen = self.transformer(seen, places.flatten(2).transpose(1, 2).contiguous(), tokens)
        upscaled = self.output_upscaling(seen.transpose(1, 2).reshape(q, -1, h, w))
        chosen = range(len(self.output_hypernetworks_mlps))[candidates]
        weights = torch.stack([self.output_hypernetworks_mlps[i](tokens[:, 1 + i]) for i in chosen], dim=1)
        logits = (weights @ upscaled.flatten(2)).view(q, len(chosen), *upscaled.shape[2:])
        return logits, self.iou_prediction_head(tokens[:, 0])[:, candidates]


Candidates = Literal["one", "three", "auto", "best"]
_CANDIDATES = {"one": slice(0, 1), "three": slice(1, None), "auto": slice(0, None), "best": slice(0, None)}


def _unfit(marks: Marks, n: int, masks: int) -> Tensor:
    """bool [n, masks]: candidates that SAM would not hand out for a query."""
    lone = torch.zeros(n, dtype=torch.bool)
    if marks.signs is not None and marks.boxes is None and marks.low_res is None:
        lone = ((marks.signs != NO_POINT).sum(dim=1) == 1).cpu()
    return torch.stack([lone, *[~lone] * (masks - 1)], dim=1)


class SamNet(PromptNet):
    """An image encoder with SAM's prompt encoder and mask decoder.

    Args:
        image_encoder: [B, C, H, W] -> [B, width, h, w].
        prompt_encoder: its places and size.
        mask_decoder: its tokens.
        candidates: "one" mask (MedSAM and what follows it), the "three" of an ambiguous prompt, or "auto", as SAM's
            authors advise: all four, where those that do not fit (the first for a lone point, the others for more)
            have quality -inf, so that a query's answer does not depend on its company. "best": of "auto" the one with
            the greatest quality.
        enlarge: hand out logits at the size of the net's input, else as the decoder makes them (a quarter of it).
    """

    def __init__(
        self,
        image_encoder: nn.Module,
        prompt_encoder: PromptEncoder,
        mask_decoder: MaskDecoder,
        *,
        candidates: Candidates = "one",
        enlarge: bool = True,
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        self.candidates: Candidates = candidates
        self.enlarge = enlarge

    @property
    def encoding(self) -> nn.Module:
        """The image encoder."""
        return self.image_encoder

    def encode(self, image: Tensor) -> Tensor:
        """[B, C, 1, H, W] -> [B, width, h, w]."""
        return self.image_encoder(image[:, :, 0]).contiguous()  # type: ignore[no-any-return]

    def decode(self, features: Tensor, marks: Marks) -> Decoded:
        """Features [B, width, h, w] and Q queries -> logits [Q, M, 1, H, W], predicted IoU, low-resolution logits.

        `low_res` [Q, M, 4h, 4w] are the decoder's own logits; without `enlarge` they are `logits` too.
        """
        n = len(marks.image)
        points = None if marks.points is None else marks.points[..., 1:].flip(-1)  # (d, h, w) -> (x, y)
        boxes = None if marks.boxes is None else marks.boxes[..., 1:].flip(-1)
        low_res = None if marks.low_res is None else marks.low_res.view(n, 1, *marks.low_res.shape[-2:])
        logits, quality = self.mask_decoder(
            features[marks.image],
            self.prompt_encoder.places(),
            self.prompt_encoder.sparse(points, marks.signs, boxes, n),
            self.prompt_encoder.dense(low_res, n),
            candidates=_CANDIDATES[self.candidates],
        )
        if self.candidates in ("auto", "best"):
            quality = quality.masked_fill(_unfit(marks, n, quality.shape[1]).to(quality.device), -torch.inf)
        if self.candidates == "best":
            best = quality.argmax(dim=1)[:, None]
            logits, quality = logits[torch.arange(n, device=logits.device)[:, None], best], quality.gather(1, best)
        size = self.prompt_encoder.size
        fits = not self.enlarge or tuple(logits.shape[-2:]) == tuple(size)
        full = logits if fits else F.interpolate(logits, size, mode="bilinear", align_corners=False)
        return Decoded(full[:, :, None], quality, low_res=logits)
