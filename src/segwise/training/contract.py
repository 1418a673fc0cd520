"""What the loop asks of what it trains.

Everything drawn is a function of (seed, index of the batch): a run that was killed goes on from its last checkpoint
with the very batches, prompts and losses of a run that was not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from torch import Tensor, nn

Measures = Mapping[str, float]
Schedule = Literal["cosine", "poly"]


class Stream(Protocol):
    """Samples without end. Made in a process beside the training; must pickle."""

    def batch(self, index: int) -> Any:
        """The batch of an index: a pure function of it, whatever was asked before. Holds arrays, not tensors.

        Draws come from `np.random.default_rng([seed, index])`; the loop draws for `losses` from others.
        """


class Objective(Protocol):
    """A net and what it is to become. Keeps nothing between batches but the net: a checkpoint holds nothing else."""

    @property
    def net(self) -> nn.Module:
        """The net, whole."""

    def losses(self, batch: Any, rng: np.random.Generator) -> Iterator[tuple[Tensor, Measures]]:
        """A loss for every optimiser step that a batch stays, and what to log beside it.

        The loop takes the gradient of each loss and steps the optimiser before it asks for the next one, so a next
        prompt can answer what the net just said. The weights have changed then: every loss needs a forward pass of
        its own; nothing computed with gradients outlives a yield. It is asked in training mode, under autocast
        (float32 logits are the objective's own care), with torch's global generator seeded for this batch.

        Args:
            batch: of the stream, in arrays; moving them to the device of the net is done here.
            rng: of this batch alone.
        """

    def validate(self) -> Measures:
        """Scores on samples that are never trained on; the net holds the averaged weights meanwhile.

        Asked in evaluation mode, without gradients, under autocast. {} for none. Columns of the log begin `valid_`.
        """


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to train.

    Attributes:
        steps: optimiser steps of the whole schedule.
        rate: greatest learning rate, after `warmup` steps; it falls to `rate * floor`.
        schedule: along half a "cosine" (Loshchilov and Hutter, arXiv 1608.03983), or "poly": (1 - t)^0.9, as nnU-Net's.
        decay: of weights (AdamW); tensors of one axis are left out.
        average: of the exponential moving average of the weights, at the end; it begins lower.
        clip: greatest norm of the gradient.
        precision: of the forward pass: "bf16" or "fp32", or "auto": bf16 where the processor has it.
        seed: of everything drawn.
        keep_every: batches between checkpoints.
        validate_every: batches between validations, the last batch has one too; 0 for none.
        ahead: batches made ahead of need by `makers` processes.
        makers: processes that make batches; 0 makes them in this one.
        threads: of the training process; 1 repeats exactly.
        gather: batches whose gradients are averaged for one optimiser step, one after the other: the memory of one.
    """

    steps: int
    rate: float = 1e-3
    warmup: int = 100
    floor: float = 0.01
    decay: float = 1e-2
    average: float = 0.998
    clip: float = 1.0
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    seed: int = 0
    keep_every: int = 50
    validate_every: int = 0
    ahead: int = 4
    makers: int = 1
    threads: int = 1
    gather: int = 1
    schedule: Schedule = "cosine"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All of a training: what `segwise train NAME` runs.

    Attributes:
        name: what is trained.
        objective, stream, settings: see there.
        save: writes the averaged weights into a folder in the format that the model loads, and returns the files;
            gets the folder, the net on the CPU and what is known of the run (seed, steps, versions, command). Called
            at the end of every piece.
        version: of all else that decides the weights (net, samples); a folder of another one is refused.
        note: one sentence for the user: on what it is trained.
    """

    name: str
    objective: Objective
    stream: Stream
    settings: Settings
    save: Callable[[Path, nn.Module, Mapping[str, Any]], list[Path]] = field(repr=False)
    version: str = "1"
    note: str = ""
