"""BiomedParse: FocalNet, a pixel decoder, and a decoder whose queries and words see each other; one 2D image at a time.

Source: Zhao et al., A foundation model for joint segmentation, detection and recognition of biomedical objects across
nine modalities, Nat Methods 2024 (10.1038/s41592-024-02499-w), built on SEEM (Zou et al., NeurIPS 2023, arXiv
2304.06718) and X-Decoder (Zou et al., CVPR 2023, arXiv 2212.11270). Only what answers words is here: clicks, strokes
and reference images are other inputs of SEEM, which BiomedParse does not release.

Official key names, except inside `backbone` (see `nets.focal`); `ours` and `official` translate both ways.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import FocalNetConfig

from segwise.nets import focal
from segwise.nets.biomedparse_decoder import Language, PixelDecoder, Predictor
from segwise.nets.clip_text import CausalText
from segwise.nets.contract import Decoded, Marks, PromptNet

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
