"""The decoders of BiomedParse: pixels after the backbone, and queries with words that see each other.

Source: X-Decoder (Zou et al., CVPR 2023, arXiv 2212.11270) and SEEM (Zou et al., NeurIPS 2023, arXiv 2304.06718), on
Mask2Former's masked attention (Cheng et al., CVPR 2022, arXiv 2112.01527). Official key names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segwise.nets.clip_text import CausalText

LEVELS = 3  # maps that the decoder looks at
GROUPS = 32  # of the GroupNorms


class PixelDecoder(nn.Module):
    """A DETR encoder on the coarsest map, then a feature pyramid.

    Args:
        channels: of the maps, the finest first.
        width: of the pyramid.
        mask_width: of the mask features.
        hidden: of the encoder's MLP.
        layers, heads: of the encoder.
    """

    def __init__(
        self, channels: Sequence[int], *, width: int, mask_width: int, hidden: int, layers: int, heads: int
    ) -> None:
        super().__init__()
        self.n_maps = len(channels)
        for i, n in enumerate(channels[:-1], start=1):
            self.add_module(f"adapter_{i}", _Normed(n, width, 1))
            self.add_module(f"layer_{i}", _Normed(width, width, 3))
        self.add_module(f"layer_{self.n_maps}", _Normed(width, width, 3))
        self.mask_features = nn.Conv2d(width, mask_width, 3, padding=1)
        self.input_proj = nn.Conv2d(channels[-1], width, 1)
        encoder = nn.ModuleDict({"layers": nn.ModuleList(_Encoder(width, heads, hidden) for _ in range(layers))})
        self.transformer = nn.ModuleDict({"encoder": encoder})

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Maps [B, C_i, h_i, w_i], the finest first -> (mask features [B, M, h_0, w_0], the three coarsest levels)."""
        y = self._encoded(self.input_proj(maps[-1]))
        y = F.relu(self.get_submodule(f"layer_{self.n_maps}")(y))
        levels = [y]
        for i in range(self.n_maps - 1, 0, -1):
            lateral = self.get_submodule(f"adapter_{i}")(maps[i - 1])
            y = lateral + F.interpolate(y, size=lateral.shape[-2:], mode="nearest")
            y = F.relu(self.get_submodule(f"layer_{i}")(y))
            levels.append(y)
        return self.mask_features(y), levels[:LEVELS]

    def _encoded(self, x: Tensor) -> Tensor:
        places = sine(x).flatten(2).transpose(1, 2)  # [1, hw, C]
        y = x.flatten(2).transpose(1, 2)
        for layer in self.transformer["encoder"]["layers"]:  # type: ignore[index]
            y = layer(y, places)
        return y.transpose(1, 2).reshape(x.shape)


class Predictor(nn.Module):
    """Object queries and words: cross-attention to one level, self-attention among all, an MLP; layer by layer.

    Args:
        text: the text tower.
        queries: number of object queries.
        width: of queries, and of words after their projection.
        mask_width: of the mask features.
        hidden: of the MLP.
        layers, heads: of the decoder.
        incoming: width of the levels.
    """

    def __init__(
        self,
        text: Language,
        *,
        queries: int,
        width: int,
        mask_width: int,
        hidden: int,
        layers: int,
        heads: int,
        incoming: int,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.lang_encoder = text
        self.transformer_cross_attention_layers = nn.ModuleList(_Cross(width, heads) for _ in range(layers))
        self.transformer_self_attention_layers = nn.ModuleList(_Self(width, heads) for _ in range(layers))
        self.transformer_ffn_layers = nn.ModuleList(_Mlp(width, hidden) for _ in range(layers))
        self.decoder_norm = nn.LayerNorm(width)
        self.query_feat, self.query_embed = nn.Embedding(queries, width), nn.Embedding(queries, width)
        self.level_embed = nn.Embedding(LEVELS, width)
        same = incoming == width
        self.input_proj = nn.ModuleList(nn.Identity() if same else nn.Conv2d(incoming, width, 1) for _ in range(LEVELS))
        self.mask_embed = _Head(width, mask_width)
        self.class_embed = nn.Parameter(torch.empty(width, text.lang_proj.shape[1]).normal_(std=0.02))

    def forward(self, levels: Sequence[Tensor], pixels: Tensor, tokens: Tensor) -> tuple[_Said, _Said]:
        """Levels [1, C, h, w], mask features [1, M, H, W], words [T, C] -> what is said before the first layer, at end.

        Each is (mask logits [Q, H, W], captions [Q, C], mask embeddings [Q, M]).
        """
        flat = [project(level).flatten(2)[0].T for project, level in zip(self.input_proj, levels, strict=True)]
        seen = [x + self.level_embed.weight[i] for i, x in enumerate(flat)]  # [hw, C]
        places = [sine(level, width=x.shape[-1]).flatten(2)[0].T for level, x in zip(levels, seen, strict=True)]
        queries, n = self.query_feat.weight, len(self.query_feat.weight)
        words, spots = tokens, torch.cat([self.query_embed.weight, tokens])
        first = said = self._said(queries, pixels)
        for i in range(len(self.transformer_ffn_layers)):
            level = i % LEVELS
            closed = self._closed(said[0], levels[level].shape[-2:])
            cross = self.transformer_cross_attention_layers[i]
            queries = cross(queries, seen[level], spots[:n], places[level], closed)
            both = self.transformer_self_attention_layers[i](torch.cat([queries, words]), spots)
            both = self.transformer_ffn_layers[i](both)
            queries, words = both[:n], both[n:]
            said = self._said(queries, pixels)
        return first, said

    def _said(self, queries: Tensor, pixels: Tensor) -> _Said:
        normed = self.decoder_norm(queries)
        embeddings = self.mask_embed(normed)
        masks = torch.einsum("qc,chw->qhw", embeddings, pixels[0])
        return masks, normed @ self.class_embed, embeddings

    def _closed(self, masks: Tensor, size: Sequence[int]) -> Tensor:
        """bool [Q, hw]: where a query may not look; one that could look nowhere looks everywhere."""
        small = F.interpolate(masks[None], size=tuple(size), mode="bilinear", align_corners=False)[0]
        closed = small.sigmoid().flatten(1) < 0.5
        return closed & ~closed.all(dim=1, keepdim=True)


_Said = tuple[Tensor, Tensor, Tensor]


class Language(nn.Module):
    """The text tower with its projection and temperature.

    Args:
        encoder: over tokens.
        width: after the projection.
    """

    def __init__(self, encoder: CausalText, *, width: int) -> None:
        super().__init__()
        self.lang_encoder = encoder
        self.lang_proj = nn.Parameter(torch.empty(encoder.positional_embedding.shape[1], width).normal_(std=0.02))
        self.logit_scale = nn.Parameter(torch.ones([]))

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """int64 [P, L] -> (tokens of all texts but padding [T, C], one feature a text [P, C], at its first end)."""
        x = self.lang_encoder(ids, mask)
        classes = x[torch.arange(len(x), device=x.device), ids.argmax(dim=-1)] @ self.lang_proj
        return (x @ self.lang_proj)[mask.bool()], classes

    def similarity(self, captions: Tensor, classes: Tensor) -> Tensor:
        """[Q, C], [P, C] -> [Q, P]: cosine, times the temperature, which is at most 100."""
        return self.logit_scale.exp().clamp(max=100) * (unit(captions) @ unit(classes).T)

    def logits(self, captions: Tensor, classes: Tensor) -> Tensor:
        """[Q, C] and unit [K, C] -> [Q, K]: scores of a fixed list of classes; here the temperature is not limited."""
        return self.logit_scale.exp() * (unit(captions) @ classes.T)


class _Normed(nn.Conv2d):
    """A convolution of odd kernel, then GroupNorm; `norm` is a child of it in the official files."""

    def __init__(self, incoming: int, width: int, kernel: int) -> None:
        super().__init__(incoming, width, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.GroupNorm(GROUPS, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(super().forward(x))
        return out


class _Encoder(nn.Module):
    """A layer of DETR's encoder, post-norm."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        key = x + places
        x = self.norm1(x + self.self_attn(key, key, x, need_weights=False)[0])
        out: Tensor = self.norm2(x + self.linear2(F.relu(self.linear1(x))))
        return out


class _Cross(nn.Module):
    """Queries look at a level."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.multihead_attn = nn.MultiheadAttention(width, heads)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, seen: Tensor, spots: Tensor, places: Tensor, closed: Tensor) -> Tensor:
        y = self.multihead_attn(x + spots, seen + places, seen, attn_mask=closed, need_weights=False)[0]
        out: Tensor = self.norm(x + y)
        return out


class _Self(nn.Module):
    """Queries and words look at each other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, heads)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, spots: Tensor) -> Tensor:
        key = x + spots
        out: Tensor = self.norm(x + self.self_attn(key, key, x, need_weights=False)[0])
        return out


class _Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(x + self.linear2(F.relu(self.linear1(x))))
        return out


class _Head(nn.Module):
    """Three linear layers with ReLU between."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, out)])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers[2](F.relu(self.layers[1](F.relu(self.layers[0](x)))))
        return out


def sine(x: Tensor, *, width: int | None = None) -> Tensor:
    """[1, C, h, w]: where the pixels of [B, C, h, w] are: DETR's sines, row first, scaled to 2 pi, count from one."""
    half = (width or x.shape[1]) // 2
    i = torch.arange(half, dtype=x.dtype, device=x.device)
    steps = 10000 ** (2 * (i // 2) / half)

    def along(n: int) -> Tensor:
        at = torch.arange(1, n + 1, dtype=x.dtype, device=x.device)
        turns = (at / (n + 1e-6) * (2 * math.pi))[:, None] / steps
        return torch.stack((turns[:, 0::2].sin(), turns[:, 1::2].cos()), dim=2).flatten(1)  # [n, half]

    rows, columns = along(x.shape[-2]), along(x.shape[-1])
    shape = (*x.shape[-2:], half)
    both = torch.cat([rows[:, None].expand(shape), columns[None].expand(shape)], dim=2)
    return both.permute(2, 0, 1)[None]


def unit(x: Tensor) -> Tensor:
    """Vectors of length one, as the official code makes them."""
    out: Tensor = x / (x.norm(dim=-1, keepdim=True) + 1e-7)
    return out
