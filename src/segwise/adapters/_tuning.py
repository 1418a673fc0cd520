"""What every adapter does: a copy of the net, what of it is trained, a file of that, and the digest of the whole."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from segwise import weights
from segwise.errors import SpecError
from segwise.nets.tuned import fill_tuned, train_only
from segwise.segmenter import Parts

DOUBTS = ("random", "unknown")  # in front of digests; the graver one first


def copied(parts: Parts) -> Any:
    """A copy of the net that an adapter may change, nothing of it trained."""
    net: nn.Module = copy.deepcopy(parts.net)
    return net.requires_grad_(False)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """What is drawn inside depends on the seed alone, and nothing outside on it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def finished(
    parts: Parts,
    net: nn.Module,
    trained: Iterable[nn.Parameter],
    *,
    name: str,
    arguments: Mapping[str, object],
    seed: int,
    checkpoint: str | None,
) -> Parts:
    """The adapted parts.

    Args:
        parts: as they came.
        net: the adapted copy.
        trained: its parameters that are trained, all others are frozen.
        name, arguments: of the adapter; all that decides what it is, in its digest.
        seed: that fresh tensors were drawn with.
        checkpoint: where trained ones are, or None.

    Raises:
        WeightsError: the file is missing, damaged, or of another adapter or net.
    """
    device = next((p.device for p in parts.net.parameters()), torch.device("cpu"))
    net = net.to(device)
    train_only(net, trained)
    said = f"fresh {seed}"
    if checkpoint is not None:
        found = weights.adapter(checkpoint)
        fill_tuned(net, found.tensors)
        said = found.digest
    words = " ".join(f"{key}={value}" for key, value in sorted(arguments.items()))
    return dataclasses.replace(parts, net=net.eval(), weights=named(parts.weights, said, f"{name} {words}"))


def named(base: str, *said: str) -> str:
    """A digest of a base and what was made of it; "random" and "unknown" of any of them stay in front."""
    sha = hashlib.sha256("\x1f".join((base, *said)).encode()).hexdigest()
    doubt = next((word for word in DOUBTS if any(one.startswith(word) for one in (base, *said))), "")
    return f"{doubt}:{sha}" if doubt else sha


def at_least(name: str, **values: float) -> None:
    """Numbers that must be positive.

    Raises:
        SpecError: one is not.
    """
    for key, value in values.items():
        if value <= 0:
            raise SpecError(f"{name}: {key} is {value}, expected more than 0")


def refused(name: str, parts: Parts, what: str, instead: str) -> SpecError:
    """An adapter found nothing to adapt: what it needs, what this net is, what to take instead."""
    made = type(parts.net).__name__
    return SpecError(f"{name} {what}; this net ({made}) has none, or an adapter has wrapped it already: {instead}")
