"""Words for text models that grew from CLIP: its tokenizer, read from files, and its text tower.

Source: Radford et al., Learning transferable visual models from natural language supervision, ICML 2021 (arXiv
2103.00020), section 2.4: byte pairs of lower-case text, 49,152 of them, between a start and an end token. The table of
words comes from files that a model's card names; none is part of Segwise.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel
from transformers.models.clip.tokenization_clip import CLIPTokenizer

from segwise.errors import WeightsError

START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 77  # tokens of CLIP's context
PAIRS = "bpe_simple_vocab_16e6.txt.gz"  # CLIP's own file
_MERGES = 49152 - 256 - 2  # of CLIP's own file the first so many are used
_EPS = 1e-12
_LIMIT = 64_000_000  # bytes of a table, unpacked; CLIP's has 3 million


class Tokens(NamedTuple):
    """Texts as numbers.

    Attributes:
        ids: int64 [N, L]: start, words, end, then padding by the end token.
        mask: int64 [N, L]: 1 up to the first end token, 0 for padding.
    """

    ids: Tensor
    mask: Tensor


class ClipTokenizer:
    """CLIP's tokenizer from its published files.

    Args:
        path: a folder that holds vocab.json and merges.txt, or tokenizer.json, or bpe_simple_vocab_16e6.txt.gz (CLIP's
            own); or the path of the last two. Smaller tables of the same make do as well.

    Attributes:
        size: how many tokens there are; ids are below it.
        digest: of the table.

    Raises:
        WeightsError: none of these files is there, or it is not such a table.
    """

    def __init__(self, path: Path | str) -> None:
        vocabulary, merges = _table(Path(path).expanduser())
        if not {START, END} <= set(vocabulary):
            raise WeightsError(f'{path}: the table has no "{START}" and "{END}"; expected CLIP\'s tokenizer')
        self._tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges)
        self.size = max(vocabulary.values()) + 1
        content = json.dumps([sorted(vocabulary.items()), merges])
        self.digest = f"{zlib.crc32(content.encode()):08x}-{self.size}"

    def __repr__(self) -> str:
        return f"ClipTokenizer({self.digest})"

    def ids(self, texts: Sequence[str], *, length: int | None = LENGTH) -> Tokens:
        """Texts -> tokens.

        Args:
            texts: N texts; case and runs of spaces do not matter.
            length: tokens of each; longer texts are cut so that the end token stays. None: of the longest text.
        """
        padding = "longest" if length is None else "max_length"
        made = self._tokenizer(
            list(texts),
            padding=padding,
            truncation=length is not None,
            max_length=length,
            return_tensors="pt",
        )
        return Tokens(made["input_ids"], made["attention_mask"])


def clip_text(shapes: Mapping[str, Sequence[int]], *, heads: int = 8) -> CLIPTextModel:
    """CLIP's text tower, untrained, of the sizes that a state dict shows.

    Args:
        shapes: key -> shape in transformers' naming, "embeddings.token_embedding.weight" ..., with or without
            "text_model." in front (`without_prefix` takes it off).
        heads: of attention; no shape tells.

    Returns:
        A module whose keys begin with "embeddings.", "encoder." and "final_layer_norm."; `pooler_output` of its answer
        is the feature of the first end token.
    """
    own = without_prefix(shapes)
    vocabulary, width = own["embeddings.token_embedding.weight"]
    layers = {key.split(".")[2] for key in own if key.startswith("encoder.layers.")}
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=own["encoder.layers.0.mlp.fc1.weight"][0],
        num_hidden_layers=len(layers),
        num_attention_heads=heads,
        max_position_embeddings=own["embeddings.position_embedding.weight"][0],
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    return CLIPTextModel(config)


def without_prefix(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """CLIP text tensors (or shapes) as transformers 5 names them: no "text_model." in front, no position_ids."""
    own = {key.removeprefix("text_model."): value for key, value in tensors.items()}
    return {key: value for key, value in own.items() if not key.endswith("position_ids")}


class CausalText(nn.Module):
    """A transformer over tokens in CLIP's first naming (resblocks.N.attn, ln_1, mlp.c_fc): pre-norm, QuickGELU.

    It is CLIP's text tower as X-Decoder, SEEM and BiomedParse keep it: LayerNorm with eps 1e-12, and the features of
    every token come out.

    Args:
        vocabulary: number of tokens.
        length: of the context, which every sequence fills.
        width: of a token.
        layers: how many blocks.
        heads: of attention.
        causal: a token sees those before it only; False: all but padding.
    """

    def __init__(
        self, *, vocabulary: int, length: int, width: int, layers: int, heads: int, causal: bool = True
    ) -> None:
        super().__init__()
        self.causal = causal
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.empty(length, width).normal_(std=0.02))
        self.resblocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))
        self.ln_final = nn.LayerNorm(width, eps=_EPS)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """int64 [N, L], int64 [N, L] (0 is padding) -> features of every token, float32 [N, L, width]."""
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        later = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device).triu(1)
        for block in self.resblocks:
            x = block(x, later if self.causal else None, None if self.causal else mask == 0)
        y: Tensor = self.ln_final(x)
        return y


class _Block(nn.Module):
    """Attention, then an MLP of four times the width."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1 = nn.LayerNorm(width, eps=_EPS)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(width, 4 * width),
                gelu=_QuickGELU(),
                c_proj=nn.Linear(4 * width, width),
            )
        )
        self.ln_2 = nn.LayerNorm(width, eps=_EPS)

    def forward(self, x: Tensor, later: Tensor | None, padding: Tensor | None) -> Tensor:
        """[N, L, C] -> the same; `later` bool [L, L] and `padding` bool [N, L]: True is not seen."""
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, attn_mask=later, key_padding_mask=padding, need_weights=False)[0]
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class _QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def _table(path: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """(token -> id, byte pairs in order) of whichever file is there."""
    places = [path] if not path.is_dir() else [path / "tokenizer.json", path / PAIRS]
    if path.is_dir() and (path / "vocab.json").is_file() and (path / "merges.txt").is_file():
        return _words(_json(path / "vocab.json")), _pairs(_text(path / "merges.txt"))
    for place in places:
        if place.is_file():
            return _from_json(place) if place.suffix == ".json" else _from_pairs(_text(place))
    raise WeightsError(
        f"no CLIP tokenizer in {path}; expected vocab.json and merges.txt, or tokenizer.json, or {PAIRS}"
    )


def _from_json(path: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    found = _json(path)
    model = found.get("model") if isinstance(found, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("merges"), list):
        raise WeightsError(f"{path} holds no byte pairs; expected CLIP's tokenizer.json")
    lines = [pair if isinstance(pair, str) else " ".join(map(str, pair)) for pair in model["merges"]]
    added = {token.get("content"): token.get("id") for token in found.get("added_tokens", [])}
    return _words({**_words(model.get("vocab")), **added}), _pairs("\n".join(lines))


def _from_pairs(text: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's own rule: bytes, bytes that end a word, the pairs in order, start, end."""
    pairs = _pairs(text)[:_MERGES]
    letters = _letters()
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in pairs), START, END]
    return {word: i for i, word in enumerate(words)}, pairs


def _letters() -> list[str]:
    """One printable character a byte: those that are printable first, in CLIP's order; the others from 256 on."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(code) for code in plain] + [chr(256 + i) for i in range(256 - len(plain))]


def _pairs(text: str) -> list[tuple[str, str]]:
    """Byte pairs, one a line; a first line that states the version is left out."""
    lines = text.splitlines()
    lines = lines[1:] if lines and "#version" in lines[0] else lines
    found = [tuple(line.split()) for line in lines if line.strip()]
    if any(len(pair) != 2 for pair in found):
        raise WeightsError("the table of byte pairs has a line without exactly two parts; expected CLIP's tokenizer")
    return [(str(a), str(b)) for a, b in found]


def _words(found: Any) -> dict[str, int]:
    good = isinstance(found, dict) and all(isinstance(k, str) and isinstance(v, int) for k, v in found.items())
    if not good:
        raise WeightsError("the vocabulary is not a table of token -> number; expected CLIP's tokenizer")
    return dict(found)


def _json(path: Path) -> Any:
    try:
        return json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is not JSON: {error}") from error


def _text(path: Path) -> str:
    """A text file, unpacked if it ends in .gz, at most 64 MB of it."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            raw = stream.read(_LIMIT + 1)
        if len(raw) > _LIMIT:
            raise WeightsError(f"{path} holds more than {_LIMIT:,} bytes; expected CLIP's tokenizer")
        return raw.decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise WeightsError(f"{path} cannot be read as a tokenizer's table: {error}") from error
