"""Which model a checkpoint is of: by the names and shapes of its tensors, whatever its size.

A card's `keys` say what names a model cannot do without and what names it never has; they are searched in lines like
"image_encoder.patch_embed.proj.weight 768x3x16x16". A checkpoint that no model loads as it is may still be one inside:
under another entry, or with a prefix that its training put before all names. Then it is taken out of there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from segwise import catalog
from segwise.card import ModelCard
from segwise.errors import WeightsError
from segwise.weights.tensors import flat


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """What a checkpoint is.

    Attributes:
        models: name -> card of all models whose keys it has; several if they share one net (SAM and MedSAM).
        state: name -> tensor, as those models load it.
        change: what had to be done to it, "" if they load it as it is.
    """

    models: Mapping[str, ModelCard]
    state: Mapping[str, Any]
    change: str


def recognise(content: Mapping[str, Any], name: str, *, only: str = "") -> Recognised | None:
    """The models whose keys a checkpoint has.

    Args:
        content: all that the file holds.
        name: of the file, for messages.
        only: look for this model alone; one whose card has no keys is then believed.

    Raises:
        WeightsError: there is no state dict in it.
    """
    cards = {n: catalog.card("models", n) for n in ([only] if only else catalog.names("models"))}
    for change, state in _candidates(content, name):
        lines = [f"{key} {'x'.join(map(str, tensor.shape))}" for key, tensor in state.items()]
        found = {n: card for n, card in cards.items() if (card.keys or only) and fits(card.keys, lines)}
        if found:
            return Recognised(models=found, state=state, change=change)
    return None


def fits(keys: tuple[str, ...], lines: list[str]) -> bool:
    """Whether each pattern is found in some line, and those that begin with "!" in none."""
    text = "\n".join(lines)
    return all(
        not re.search(key[1:], text, re.MULTILINE) if key.startswith("!") else re.search(key, text, re.MULTILINE)
        for key in keys
    )


def _candidates(content: Mapping[str, Any], name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(what was done, state dict): as it is, then what lies under other entries, each also without its prefix."""
    states: list[tuple[str, Mapping[str, Any]]] = []
    trouble: WeightsError | None = None
    try:
        states.append(("", flat(content, name)))
    except WeightsError as error:
        trouble = error
    for key, inner in content.items():
        if isinstance(inner, Mapping) and _is_state(inner):
            states.append((f'taken out of "{key}"', inner))
        elif isinstance(inner, Mapping):
            deeper = ((k, v) for k, v in inner.items() if isinstance(v, Mapping) and _is_state(v))
            states += [(f'taken out of "{key}"."{k}"', v) for k, v in deeper]
    if not states and trouble:
        raise trouble
    yield from states
    for change, state in states:
        inner, prefix = dict(state), ""
        while (first := next(iter(inner)).partition(".")[0] + ".") and all(k.startswith(first) for k in inner):
            prefix += first
            inner = {k.removeprefix(first): v for k, v in inner.items()}
            yield "; ".join(filter(None, [change, f'without "{prefix}" before all names'])), inner


def _is_state(value: Mapping[Any, Any]) -> bool:
    import torch

    return bool(value) and all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in value.items())
