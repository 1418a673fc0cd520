"""CLIP's tokenizer from each of its published files, and from tables as small as a test needs; its text tower."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest
import torch

from segwise.errors import WeightsError
from segwise.nets import clip_text
from segwise.nets.clip_text import CausalText, ClipTokenizer

PAIRS = [("c", "a"), ("ca", "t</w>"), ("l", "i"), ("li", "v"), ("e", "r</w>"), ("liv", "er</w>")]


def table(folder: Path) -> Path:
    """CLIP's own file, with six pairs."""
    lines = ['"bpe_simple_vocab#version: 0.2', *(" ".join(pair) for pair in PAIRS)]
    path = folder / clip_text.PAIRS
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


def test_a_tiny_table_gives_start_pairs_end_and_padding(tmp_path):
    words = ClipTokenizer(table(tmp_path))
    assert words.size == 512 + len(PAIRS) + 2
    start, end = words.size - 2, words.size - 1
    tokens = words.ids(["A  Cat", "liver"], length=6)
    cat, liver, a = 512 + 1, 512 + 5, 256 + ord("a") - ord("!")
    assert tokens.ids.tolist() == [[start, a, cat, end, end, end], [start, liver, end, end, end, end]]
    assert tokens.mask.tolist() == [[1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0]]


def test_long_texts_are_cut_and_keep_their_end(tmp_path):
    words = ClipTokenizer(table(tmp_path))
    assert words.ids(["cat " * 20], length=5).ids[0, [0, -1]].tolist() == [words.size - 2, words.size - 1]
    assert words.ids(["cat", "cat cat"], length=None).ids.shape == (2, 4)


def test_every_published_file_says_the_same(tmp_path):
    own = ClipTokenizer(table(tmp_path))
    letters = clip_text._letters()
    everything = [*letters, *(x + "</w>" for x in letters), *("".join(p) for p in PAIRS)]
    vocabulary = {word: i for i, word in enumerate([*everything, clip_text.START, clip_text.END])}
    two, one = tmp_path / "two", tmp_path / "one"
    two.mkdir()
    one.mkdir()
    (two / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (two / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(p) for p in PAIRS), encoding="utf-8")
    model = {"vocab": {w: i for w, i in vocabulary.items() if not w.startswith("<|")}, "merges": PAIRS}
    added = [{"content": word, "id": vocabulary[word]} for word in (clip_text.START, clip_text.END)]
    (one / "tokenizer.json").write_text(json.dumps({"model": model, "added_tokens": added}), encoding="utf-8")
    expected = own.ids(["liver, cat's é"], length=None).ids.tolist()
    for folder in (two, one, one / "tokenizer.json"):
        other = ClipTokenizer(folder)
        assert other.digest == own.digest
        assert other.ids(["liver, cat's é"], length=None).ids.tolist() == expected


def test_what_is_not_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"merges\.txt"):
        ClipTokenizer(tmp_path)
    bad = tmp_path / "tokenizer.json"
    for content, message in (("{", "not JSON"), ("[]", "byte pairs"), ('{"model": {"merges": ["a"]}}', "token")):
        bad.write_text(content)
        with pytest.raises(WeightsError, match=message):
            ClipTokenizer(bad)
    cut = table(tmp_path)
    cut.write_bytes(cut.read_bytes()[:40])
    with pytest.raises(WeightsError, match="cannot be read"):
        ClipTokenizer(cut)


def test_ids_of_clip_itself():
    folder = Path(os.environ.get("SEGWISE_WEIGHTS_DIR", "weights")) / "clip"
    if not (folder / clip_text.PAIRS).is_file():
        pytest.skip("no CLIP tokenizer in the weights folder: segwise weights pull biomedparse")
    words = ClipTokenizer(folder)
    assert words.size == 49408
    tokens = words.ids(["a photo of a cat"])
    assert tokens.ids.shape == (1, clip_text.LENGTH)
    assert tokens.ids[0, :8].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407, 49407]
    assert int(tokens.mask.sum()) == 7


def test_the_tower_has_the_sizes_of_its_keys():
    config = {"vocab": 40, "width": 16, "length": 9, "layers": 3}
    net = clip_text.clip_text(
        {
            "text_model.embeddings.token_embedding.weight": (config["vocab"], config["width"]),
            "text_model.embeddings.position_embedding.weight": (config["length"], config["width"]),
            "text_model.embeddings.position_ids": (1, config["length"]),
            "text_model.encoder.layers.0.mlp.fc1.weight": (24, config["width"]),
            **{f"text_model.encoder.layers.{i}.layer_norm1.weight": (16,) for i in range(config["layers"])},
        },
        heads=4,
    )
    shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    assert shapes["embeddings.token_embedding.weight"] == (40, 16)
    assert shapes["encoder.layers.2.mlp.fc1.weight"] == (24, 16)
    ids = torch.tensor([[38, 3, 4, 39, 39]])
    torch.manual_seed(0)
    out = net.eval()(input_ids=ids, attention_mask=torch.tensor([[1, 1, 1, 1, 0]]))
    torch.testing.assert_close(out.pooler_output, out.last_hidden_state[:, 3])


def test_a_causal_token_does_not_see_later_ones():
    torch.manual_seed(0)
    net = CausalText(vocabulary=20, length=6, width=8, layers=2, heads=2).eval()
    mask = torch.ones(1, 6, dtype=torch.int64)
    a, b = torch.tensor([[1, 2, 3, 4, 5, 6]]), torch.tensor([[1, 2, 3, 9, 9, 9]])
    with torch.no_grad():
        one, other = net(a, mask), net(b, mask)
    torch.testing.assert_close(one[:, :3], other[:, :3])
    assert (one[:, 3:] - other[:, 3:]).abs().max() > 0.01
