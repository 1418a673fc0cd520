"""BiomedParse: FocalNet, a pixel decoder, and a decoder whose queries and words see each other; one 2D image at a time.

Source: Zhao et al., A foundation model for joint segmentation, detection and recognition of biomedical objects across
nine modalities, Nat Methods 2024 (10.1038/s41592-024-02499-w), built on SEEM (Zou et al., NeurIPS 2023, arXiv
2304.06718) and X-Decoder (Zou et al., CVPR 2023, arXiv 2212.11270). Only what answers words is here: clicks, strokes
and reference images are other inputs of SEEM, which BiomedParse does not release.

Official key names, except inside `backbone` (see `nets.focal`); `ours` and `official` translate both ways.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import FocalNetConfig

from segwise.nets import focal
from segwise.nets.clip_text import CausalText
from segwise.nets.contract import Decoded, Marks, PromptNet

LEVELS = 3  # maps that the decoder looks at
GROUPS = 32  # of the GroupNorms
STRIDE = 32
WIDTH, LENGTH = 512, 77  # of the released model
_PIXELS, _PREDICTOR = "sem_seg_head.pixel_decoder.", "sem_seg_head.predictor."
_TEXT = f"{_PREDICTOR}lang_encoder.lang_encoder."
UNUSED = {  # prefix of official keys -> why no word reaches them
    "dilation_kernel": "widens strokes in training",
    f"{_PREDICTOR}pn_indicator.": "tells positive from negative strokes",
    f"{_PREDICTOR}mask_sptial_embed.": "embeds strokes",
    f"{_PREDICTOR}spatial_embed.": "memory of strokes",
    f"{_PREDICTOR}spatial_featured.": "memory of strokes",
    f"{_PREDICTOR}lang_encoder.biomed_encoder.": "a BERT for the setting TOKENIZER=biomed-clip, which is not released",
}


@dataclass(frozen=True)
class Grounded:
    """What the decoder says of P prompts given together about one view, Q queries.

    Attributes:
        masks: logits [Q, h, w] at a quarter of the view's size.
        captions: [Q, C] in the space of the texts.
        mask_embeddings: [Q, C].
        tokens: [T, C] the words' tokens as they entered, all prompts in a row.
        classes: [P, C] one a prompt.
        scores: [Q, P] similarity of captions and classes.
        first: masks and captions before the first layer.
    """

    masks: Tensor
    captions: Tensor
    mask_embeddings: Tensor
    tokens: Tensor
    classes: Tensor
    scores: Tensor
    first: tuple[Tensor, Tensor]

    @property
    def matched(self) -> Tensor:
        """int64 [P]: the query with the greatest score."""
        return self.scores.argmax(dim=0)


class BiomedParseNet(PromptNet):
    """The network; `marks.tokens` are `{"ids", "mask": int64 [Q, L], "company": int64 [Q]}`.

    Queries of one view and one company are prompts given together: their words share one sequence, and each may change
    the others' answers. Equal texts of a company are one prompt.

    Args:
        backbone: four maps.
        pixel_decoder: maps -> mask features and three levels.
        predictor: the decoder with the text tower.
    """

    def __init__(self, backbone: focal.FocalBackbone, pixel_decoder: PixelDecoder, predictor: Predictor) -> None:
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = nn.ModuleDict({"pixel_decoder": pixel_decoder, "predictor": predictor})

    @property
    def encoding(self) -> nn.Module:
        """Backbone and pixel decoder."""
        return nn.ModuleList([self.backbone, self.pixels])

    @property
    def pixels(self) -> PixelDecoder:
        """The pixel decoder."""
        return self.sem_seg_head["pixel_decoder"]  # type: ignore[return-value]

    @property
    def predictor(self) -> Predictor:
        """The decoder."""
        return self.sem_seg_head["predictor"]  # type: ignore[return-value]

    def encode(self, image: Tensor) -> dict[str, Any]:
        """[B, 3, 1, H, W], normalised -> {"mask": [B, C, H/4, W/4], "levels": 3 maps at strides 32, 16, 8}."""
        image = image[:, :, 0]
        over = [-n % STRIDE for n in image.shape[2:]]
        image = F.pad(image, (0, over[1], 0, over[0]))
        mask, levels = self.pixels(self.backbone(image))
        return {"mask": mask, "levels": levels}

    def decode(self, features: dict[str, Any], marks: Marks) -> Decoded:
        """Logits [Q, 1, 1, H/4, W/4] of the best matching query of each prompt."""
        tokens = marks.tokens
        out: dict[int, Tensor] = {}
        rows = list(zip(marks.image.tolist(), tokens["company"].tolist(), strict=True))
        for image, company in dict.fromkeys(rows):
            members = [i for i, row in enumerate(rows) if row == (image, company)]
            texts = [tuple(tokens["ids"][i].tolist()) for i in members]
            firsts = [members[texts.index(text)] for text in dict.fromkeys(texts)]
            said = self.grounded(features, tokens["ids"][firsts], tokens["mask"][firsts], image=image)
            chosen = said.masks[said.matched]  # [P, h, w]
            order = {text: p for p, text in enumerate(dict.fromkeys(texts))}
            out.update({i: chosen[order[text]] for i, text in zip(members, texts, strict=True)})
        return Decoded(torch.stack([out[i] for i in range(len(rows))])[:, None, None])

    def grounded(self, features: dict[str, Any], ids: Tensor, mask: Tensor, *, image: int = 0) -> Grounded:
        """All that the decoder says of prompts given together: ids and mask int64 [P, L], about one of the views."""
        tokens, classes = self.predictor.lang_encoder(ids, mask)
        own = slice(image, image + 1)
        levels = [level[own] for level in features["levels"]]
        first, last = self.predictor(levels, features["mask"][own], tokens)
        masks, captions, embeddings = last
        scores = self.predictor.lang_encoder.similarity(captions, classes)
        return Grounded(masks, captions, embeddings, tokens, classes, scores, first[:2])


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


def biomedparse_of(shapes: Mapping[str, Sequence[int]], config: Mapping[str, Any] | None = None) -> BiomedParseNet:
    """The network, untrained, of the sizes that a checkpoint shows.

    Args:
        shapes: official key -> shape.
        config: the official configuration (its MODEL section is read), or {}; for the numbers of heads, which no shape
            tells; 8 everywhere as published.
    """
    model = (config or {}).get("MODEL", {})
    decoder, words = model.get("DECODER", {}), model.get("TEXT", {})
    pixels = _below(shapes, _PIXELS)
    predictor = _below(shapes, _PREDICTOR)
    heads = decoder.get("NHEADS", 8)
    backbone = _below(shapes, "backbone.")
    maps = sum(key.startswith("norm") and key.endswith("weight") for key in backbone)
    channels = [backbone[f"norm{i}.weight"][0] for i in range(maps)]
    mask_width, width = pixels["mask_features.weight"][:2]
    pixel_decoder = PixelDecoder(
        channels,
        width=width,
        mask_width=mask_width,
        hidden=pixels["transformer.encoder.layers.0.linear1.weight"][0],
        layers=_count(pixels, "transformer.encoder.layers."),
        heads=heads,
    )
    own = _below(shapes, _TEXT)
    vocabulary, text_width = own["token_embedding.weight"]
    text = CausalText(
        vocabulary=vocabulary,
        length=own["positional_embedding"][0],
        width=text_width,
        layers=_count(own, "resblocks."),
        heads=words.get("HEADS", 8),
        causal=words.get("AUTOGRESSIVE", True),
    )
    queries, query_width = predictor["query_feat.weight"]
    return BiomedParseNet(
        focal.focal_of(backbone, model.get("BACKBONE", {}).get("FOCAL")),
        pixel_decoder,
        Predictor(
            Language(text, width=predictor["lang_encoder.lang_proj"][1]),
            queries=queries,
            width=query_width,
            mask_width=mask_width,
            hidden=predictor["transformer_ffn_layers.0.linear1.weight"][0],
            layers=_count(predictor, "transformer_ffn_layers."),
            heads=heads,
            incoming=width,
        ),
    )


def released() -> BiomedParseNet:
    """The network of biomedparse_v1.pt, untrained (configs/biomedparse_inference.yaml)."""
    backbone = focal.FocalBackbone(
        FocalNetConfig(
            embed_dim=192,
            depths=[2, 2, 18, 2],
            hidden_sizes=[192, 384, 768, 1536],
            focal_levels=[4] * 4,
            focal_windows=[3] * 4,
            drop_path_rate=0.0,
            use_conv_embed=True,
            use_post_layernorm=True,
            normalize_modulator=True,
            use_layerscale=True,
        )
    )
    size = {"mask_width": WIDTH, "hidden": 2048, "heads": 8, "width": WIDTH}
    text = CausalText(vocabulary=49408, length=LENGTH, width=WIDTH, layers=12, heads=8)
    predictor = Predictor(Language(text, width=WIDTH), queries=101, layers=9, incoming=WIDTH, **size)
    return BiomedParseNet(backbone, PixelDecoder([192, 384, 768, 1536], layers=6, **size), predictor)


def ours(key: str) -> str:
    """Our name of an official key."""
    head, dot, rest = key.partition(".")
    return f"{head}{dot}{focal.ours(rest)}" if head == "backbone" else key


def official(key: str) -> str:
    """The official name of one of our keys."""
    head, dot, rest = key.partition(".")
    return f"{head}{dot}{focal.official(rest)}" if head == "backbone" else key


def _below(shapes: Mapping[str, Sequence[int]], prefix: str) -> dict[str, Sequence[int]]:
    return {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}


def _count(shapes: Mapping[str, Sequence[int]], prefix: str) -> int:
    return len({key.removeprefix(prefix).split(".")[0] for key in shapes if key.startswith(prefix)})
