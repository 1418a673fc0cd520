"""SAT's words: a tokenizer read from its official files, and the text tower that makes a query of each name.

Source: Zhao et al., SAT, arXiv 2312.17183, section 4: a language model pre-trained on medical knowledge, its tokens
averaged, a projection, and an embedding of the image's modality added. The language model, BioLORD, is published in the
layout of BERT or of MPNet; both are transformers' classes, and the keys tell which one a file holds.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segwise.errors import WeightsError

LENGTH = 256  # tokens at most
LM = "embeddings.word_embeddings.weight"
UNUSED = {  # pattern of a key -> why nothing is lost with it
    r"(^|\.)atlas_tower\.": "sees images in pre-training only",
    r"(^|\.)temperature$": "of the pre-training's loss",
    r"\.position_ids$": "counts 0, 1, 2, …",
    r"\.pooler\.": "tokens are averaged instead",
}


class Words:
    """A tokenizer.

    Args:
        folder: holds tokenizer.json, or vocab.txt of BERT's word pieces.

    Attributes:
        size: how many tokens there are.
        pad: id of padding.
        digest: of the file.

    Raises:
        WeightsError: neither is there, or it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import BertWordPieceTokenizer, Tokenizer

        files = [folder / name for name in ("tokenizer.json", "vocab.txt")]
        path = next((file for file in files if file.is_file()), None)
        if path is None:
            raise WeightsError(
                f"{folder} has neither tokenizer.json nor vocab.txt; put the tokenizer of the text encoder there, or "
                "say where it is: sat(tokenizer=FOLDER)"
            )
        try:
            if path.suffix == ".json":
                self._tokenizer: Any = Tokenizer.from_file(str(path))
            else:
                self._tokenizer = BertWordPieceTokenizer(str(path), lowercase=True)
        except Exception as error:  # whatever a damaged file makes the library raise
            raise WeightsError(f"{path} is not a tokenizer: {' '.join(str(error).split())[:160]}") from error
        self._tokenizer.enable_truncation(LENGTH)
        self._tokenizer.no_padding()
        self.size = int(self._tokenizer.get_vocab_size())
        known = [self._tokenizer.token_to_id(pad) for pad in ("[PAD]", "<pad>")]
        self.pad = next((int(pad) for pad in known if pad is not None), 0)
        self.digest = hashlib.sha256(path.read_bytes()).hexdigest()

    def __call__(self, text: str) -> tuple[Tensor, Tensor]:
        """Ids int64 [1, 256] of a text, padded, and the mask of what is no padding, int64 [1, 256]."""
        found = self._tokenizer.encode(text).ids[:LENGTH]
        ids, mask = torch.full((1, LENGTH), self.pad), torch.zeros(1, LENGTH, dtype=torch.int64)
        ids[0, : len(found)], mask[0, : len(found)] = torch.tensor(found), 1
        return ids, mask


class TextTower(nn.Module):
    """Names and modalities to queries.

    Args:
        lm: transformers' model, without pooling.
        inner, out: widths of the projection.
        modalities: rows of their table.
    """

    def __init__(self, lm: nn.Module, *, width: int, inner: int, out: int, modalities: int) -> None:
        super().__init__()
        self.lm = lm
        self.projection = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, out))
        self.modality = nn.Embedding(modalities, out)

    def forward(self, ids: Tensor, mask: Tensor | None, modality: Tensor) -> Tensor:
        """int64 [Q, L], [Q, L] (None: no padding) and [Q] -> [Q, out]."""
        hidden = self.lm(input_ids=ids, attention_mask=mask).last_hidden_state
        share = (torch.ones_like(ids) if mask is None else mask)[..., None].to(hidden.dtype)
        pooled = (hidden * share).sum(1) / share.sum(1)
        return torch.as_tensor(self.projection(pooled) + self.modality(modality))


def official(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of a text encoder's file under the names of `TextTower`; what fits nowhere keeps its name.

    The language model's own names are known; the projection and the table of modalities are recognised by what they
    are: two linear maps in one sequence, and a table without a bias.

    Raises:
        KeyError: there is no language model.
    """
    first = next((key for key in tensors if key.endswith(LM) and "atlas_tower." not in key), None)
    if first is None:
        raise KeyError(LM)
    at = first.removesuffix(LM)
    found: dict[str, Any] = {}
    for key, value in tensors.items():
        if any(re.search(pattern, key) for pattern in UNUSED):
            continue
        if key.startswith(at) and re.match(r"embeddings\.|encoder\.", key.removeprefix(at)):
            found[f"lm.{key.removeprefix(at)}"] = value
        elif match := re.search(r"(?:^|\.)[^.]+\.(\d+\.(?:weight|bias))$", key):
            found[f"projection.{match[1]}"] = value
        elif value.ndim == 2 and key.endswith(".weight") and f"{key.removesuffix('weight')}bias" not in tensors:
            found["modality.weight"] = value
        else:
            found[key] = value
    return found


def tower_of(shapes: Mapping[str, tuple[int, ...]], *, heads: int | None = None) -> TextTower:
    """An untrained tower of the sizes that `official` shapes tell.

    Args:
        shapes: key -> shape.
        heads: of the language model; None for one in 64 numbers. MPNet's stand in its shapes.

    Raises:
        KeyError: a tensor is missing.
    """
    inner, width = shapes["projection.0.weight"]
    modalities, out = shapes["modality.weight"]
    lm = _language_model(shapes, heads=heads)
    return TextTower(lm, width=width, inner=inner, out=out, modalities=modalities)


def _language_model(shapes: Mapping[str, tuple[int, ...]], *, heads: int | None) -> Any:
    from transformers import BertConfig, BertModel, MPNetConfig, MPNetModel

    vocabulary, width = shapes[f"lm.{LM}"]
    layers = {match[1] for key in shapes if (match := re.match(r"lm\.encoder\.layer\.(\d+)\.", key))}
    given: dict[str, Any] = {
        "attn_implementation": "eager",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": len(layers),
        "intermediate_size": shapes["lm.encoder.layer.0.intermediate.dense.weight"][0],
        "max_position_embeddings": shapes["lm.embeddings.position_embeddings.weight"][0],
    }
    relative = shapes.get("lm.encoder.relative_attention_bias.weight")
    if relative is not None:
        buckets, own = relative
        mpnet = MPNetConfig(**given, num_attention_heads=own, relative_attention_num_buckets=buckets)
        return MPNetModel(mpnet, add_pooling_layer=False)
    types = shapes["lm.embeddings.token_type_embeddings.weight"][0]
    own = heads or max(1, width // 64)
    return BertModel(BertConfig(**given, num_attention_heads=own, type_vocab_size=types), add_pooling_layer=False)
