"""Models with checkpoints that tests can have: those of the parity fixtures, reduced and random, as specs.

A fixture's folder has the name of the model's file. What a fixture lacks and a model cannot be asked without (names of
classes, a tokenizer, a text encoder) is made here and laid beside a copy.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import small_specialists
from conftest import SHARED
from segwise import catalog, weights
from segwise.spec import Spec, Value

PARITY = Path(os.environ.get("SEGWISE_PARITY_DIR", SHARED / "parity"))
NAMES = ("liver", "spleen", "pancreas", "aorta", "stomach", "left kidney", "right kidney", "gallbladder", "duodenum")
# What is given beside the checkpoint, so that a run stays small and every kind of mark on the card is taken.
SMALL: dict[str, dict[str, Value]] = {
    "vista3d": {"patch": 32, "overlap": 0.0},
    "nninteractive": {"box3d": "middle-slice"},
}


def folder_of(name: str) -> Path | None:
    """Where the fixture of a model lies; None without one, or without a checkpoint in it."""
    folder = PARITY / name.replace("-", "_")
    return folder if (folder / "checkpoint.pth").is_file() else None


@functools.cache
def spec_of(name: str, **arguments: Value) -> str | None:
    """A model with its fixture's checkpoint, as specs say it; None if there is no fixture. Specialists and
    universeg need none.

    Args:
        name: of the model.
        arguments: further ones, as `lift`.
    """
    if name in small_specialists.SMALL:
        return str(
            Spec(name, {"checkpoint": str(small_specialists.trained(Path(_place()), name, vouched=False)), **arguments})
        )
    if name == "universeg":
        return str(Spec(name, {"checkpoint": str(_support_set()), **arguments}))
    folder = folder_of(name)
    if folder is None:
        return None
    member = catalog.member("models", name)
    given: dict[str, Value] = {"checkpoint": str(folder)}
    if "accept_non_commercial" in member.parameters:
        given["accept_non_commercial"] = True
    given |= _MADE[name](folder) if name in _MADE else {}
    return str(Spec(name, {**given, **arguments}))


@functools.cache
def _support_set() -> Path:
    """A tiny UniverSeg with random weights and a support set of noise."""
    from segwise.nets.universeg import UniverSegNet

    folder = Path(_place())
    torch.manual_seed(5)
    net = UniverSegNet((4, 6), size=16, structures=2, pool=6)
    for buffer, most in ((net.images, 256), (net.masks, 2)):
        buffer.copy_(torch.randint(0, most, buffer.shape, dtype=torch.uint8))
    torch.save(net.state_dict(), folder / "checkpoint.pth")
    config = {"size": 16, "names": list(NAMES[:2]), "support": 3, "choose": "like"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def why_not(name: str) -> str:
    """The reason of a skip."""
    return f"no fixture of {name} with a checkpoint in the folder of parity fixtures"


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def _classes(folder: Path) -> dict[str, Value]:
    """Names for as many classes as the head of a closed SAM has besides background."""
    return {"labels": "; ".join(_named(_tokens(folder) - 1))}


def _tokens(folder: Path) -> int:
    """How many mask tokens a decoder has."""
    shapes = weights.read(folder).shapes
    return next(shape[0] for key, shape in shapes.items() if key.endswith("mask_decoder.mask_tokens.weight"))


def _named(n: int) -> list[str]:
    return [*NAMES, *(f"structure {i}" for i in range(n))][:n]


def _planned(folder: Path) -> dict[str, Value]:
    """A copy whose classes have names of organs."""
    content = torch.load(folder / "checkpoint.pth", weights_only=False)  # our own fixture: its plans hold numpy scalars
    labels = content["init_args"]["dataset_json"]["labels"]
    plain = [name for name in labels if name not in ("background", "ignore")]
    names = dict(zip(plain, _named(len(plain)), strict=True))
    content["init_args"]["dataset_json"]["labels"] = {names.get(k, k): value for k, value in labels.items()}
    return {"checkpoint": _saved(folder, content)}


def _spoken(folder: Path) -> dict[str, Value]:
    """A tokenizer with as many words as the text encoder's table."""
    shapes = weights.read(folder).shapes
    (n,) = (shape[0] for key, shape in shapes.items() if key.endswith("lang_encoder.token_embedding.weight"))
    return {"tokenizer": str(vocabulary(Path(_place()), n))}


def _worded(folder: Path) -> dict[str, Value]:
    """A copy with a tiny text encoder under CLIP's official names, if the fixture has none, and its tokenizer."""
    from segwise.nets import segvol

    content = dict(torch.load(folder / "checkpoint.pth", weights_only=True))
    own = dict(content["model"])
    inside, n = "module.text_encoder.clip_text_model.text_model.", 300
    if f"{inside}embeddings.token_embedding.weight" not in own:
        width = own["module.mask_decoder.mask_tokens.weight"].shape[1]
        shapes = {
            "text_encoder.clip_text_model.embeddings.token_embedding.weight": (n, 16),
            "text_encoder.clip_text_model.embeddings.position_embedding.weight": (77, 16),
            "text_encoder.clip_text_model.encoder.layers.0.mlp.fc1.weight": (32, 16),
            "text_encoder.dim_align.weight": (width, 16),
        }
        generator = torch.Generator().manual_seed(3)
        for key, value in segvol.TextEncoder(shapes, heads=8).state_dict().items():
            name = key.replace("clip_text_model.", "clip_text_model.text_model.")
            own[f"module.text_encoder.{name}"] = torch.randn(value.shape, generator=generator) / 4
    else:
        n = len(own[f"{inside}embeddings.token_embedding.weight"])
    place = _saved(folder, {**content, "model": own})
    vocabulary(Path(place), n)
    return {"checkpoint": place}


def vocabulary(folder: Path, n: int) -> Path:
    """A table of CLIP's make with n words: letters, words that never come, and the two special ones."""
    from segwise.nets import clip_text

    letters = [x + end for x in clip_text._letters()[:94] for end in ("", "</w>")]
    words = [*letters, *(f"~{i}" for i in range(n - 2 - len(letters))), clip_text.START, clip_text.END]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return folder


def _saved(folder: Path, content: Any) -> str:
    place = _place()
    torch.save(content, Path(place) / "checkpoint.pth")
    if (folder / "config.json").is_file():
        shutil.copy(folder / "config.json", place)
    return place


@functools.cache
def _root() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="segwise-small-")  # goes when the interpreter does


def _place() -> str:
    return tempfile.mkdtemp(dir=_root().name)


_MADE: dict[str, Callable[[Path], dict[str, Value]]] = {
    "samed": _classes,
    "ma-sam": _classes,
    "nnunet": _planned,
    "biomedparse": _spoken,
    "segvol": _worded,
}
