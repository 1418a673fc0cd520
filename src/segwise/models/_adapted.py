"""What the closed-label models over a frozen SAM share: their two files, their names, what a text means."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from segwise import anatomy, weights
from segwise.card import ModelCard
from segwise.errors import GridError, PromptError, SpecError, WeightsError
from segwise.geometry import Grid
from segwise.nets.closed_sam import resized
from segwise.prompt import Prompt, Text
from segwise.weights import Checkpoint

BASE = "base_sam.pth"  # of a frozen SAM beside an adapted file
RELEASED_SIDE = 64  # patches of SAM's released positions


def two_files(name: str, card: ModelCard, *, checkpoint: str | None, base: str | None) -> tuple[Checkpoint, Checkpoint]:
    """The adapted file and the frozen SAM under it.

    Args:
        name, card: of the model; the card names its own file first, then SAM's.
        checkpoint: a file, or a folder with checkpoint.pth; None for the released one.
        base: a file of SAM; None for base_sam.pth beside the checkpoint, else the released one.

    Raises:
        WeightsError: one is missing or damaged.
    """
    own = weights.opened(name, card, checkpoint=checkpoint, file=card.weights[0].file)
    if base is not None:
        return own, weights.read(Path(base))
    beside = own.path.with_name(BASE)
    released = weights.folder() / card.weights[1].file
    for path in (beside, released):
        if path.is_file():
            return own, weights.read(path)
    raise WeightsError(
        f"{name} changes a frozen SAM, and its file is missing: expected {BASE} beside {own.path.name}, or "
        f"{released}; or say where it is: {name}(base=FILE)"
    )


def fitted(base: Mapping[str, Any], config: Mapping[str, Any], *, size: int) -> dict[str, Any]:
    """SAM's image encoder at the size that the adapted weights were trained at.

    Args:
        base: SAM's tensors.
        config: beside the checkpoint; "img_size".
        size: of the published model, which a released SAM is brought to.

    Raises:
        WeightsError: there is no image encoder.
    """
    encoder = {key: value for key, value in base.items() if key.startswith("image_encoder.")}
    if not {"image_encoder.pos_embed", "image_encoder.patch_embed.proj.weight"} <= set(encoder):
        raise WeightsError("the base file is not SAM's: image_encoder.pos_embed is missing; expected a file of SAM")
    patch = int(encoder["image_encoder.patch_embed.proj.weight"].shape[-1])
    old = int(encoder["image_encoder.pos_embed"].shape[1])
    side = int(config["img_size"]) // patch if "img_size" in config else size // patch if old == RELEASED_SIDE else old
    return resized(encoder, (side, side))


def names(model: str, given: str, published: tuple[str, ...], n: int) -> tuple[str, ...]:
    """The labels of a file with n classes besides background.

    Args:
        model: as in specs.
        given: names by ";", in channel order; "" for the published ones.
        published: of the card.
        n: classes of the file.

    Raises:
        SpecError: their number is not n, or a name comes twice; says how to give them.
    """
    listed = tuple(anatomy.resolve(word.strip()).name for word in given.split(";")) if given else published
    if len(listed) != n:
        whose = "labels= gives" if given else f"{model} was published with"
        raise SpecError(
            f"these weights answer {n} classes, {whose} {len(listed)} ({'; '.join(listed)}); say what the {n} are, in "
            f'their order: {model}(labels="{"; ".join(f"name {i + 1}" for i in range(min(n, 3)))}{"; …" * (n > 3)}")'
        )
    if len(set(listed)) != n or "" in listed:
        raise SpecError(f"labels= names a class twice or leaves one empty: {'; '.join(listed)}")
    return listed


def turned(axes: str) -> str:
    """Axes of slices, rows and columns as they came.

    Raises:
        SpecError: they are not three letters, one each of L/R, P/A and I/S.
    """
    try:
        Grid((1, 1, 1), np.eye(4)).toward(axes)
    except GridError as error:
        raise SpecError(str(error)) from error
    return axes


def asked(prompt: Prompt, labels: tuple[str, ...]) -> tuple[str, ...]:
    """The labels that a prompt's last text means: one, or both sides of a pair.

    Raises:
        NoSuchStructure: none of them.
        PromptError: there is no text.
    """
    words = [mark.words for mark in prompt.marks if isinstance(mark, Text)]
    if not words:
        raise PromptError("a model with a closed list of labels takes a structure's name as text")
    return anatomy.among(words[-1], labels)
