"""What lifts and training expect of a net."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

Tree = Any  # nested tuples, lists and dicts of tensors


@dataclass(frozen=True)
class Marks:
    """Prompts of Q queries in view voxels, float32.

    Attributes:
        image: int64 [Q], which of the B views a query asks about, so that slices of many targets share a call.
        points: [Q, N, 3] (d, h, w) or None.
        signs: [Q, N]: 1 positive, 0 negative, -1 padding; None without points.
        boxes: [Q, 2, 3] low and high corner in the net's own convention, or None.
        low_res: [Q, 1, ...] logits of the round before, or None.
        tokens: embedded or tokenised text, or None.
        masks: [Q, 1, H, W] of 0 and 1 at the size of the view: the target itself as a mask, or None.
    """

    image: Tensor
    points: Tensor | None = None
    signs: Tensor | None = None
    boxes: Tensor | None = None
    low_res: Tensor | None = None
    tokens: Tree = None
    masks: Tensor | None = None


@dataclass(frozen=True)
class Decoded:
    """Answers to Q queries.

    Attributes:
        logits: [Q, M, ...] on the view, M candidates.
        quality: [Q, M] predicted DSC or IoU (the card says which), or None.
        presence: [Q] logit of "the target is there", or None.
        low_res: what the next round may take back, or None.
        pointer: [Q, width] what the net knows of the target besides its mask, for `MemoryNet.remember`, or None.
    """

    logits: Tensor
    quality: Tensor | None = None
    presence: Tensor | None = None
    low_res: Tensor | None = None
    pointer: Tensor | None = None


class PromptNet(nn.Module):
    """A promptable net: the image once, prompts often."""

    @property
    def encoding(self) -> nn.Module:
        """The part that `encode` depends on: what is adapted elsewhere leaves stored features good. Here all of it."""
        return self

    @property
    def answering(self) -> nn.Module:
        """The part behind the encoder, which adapters of the decoder change: the children outside `encoding`.

        A net that encodes nothing beforehand may name a part of `encoding`.
        """
        taken = {id(parameter) for parameter in self.encoding.parameters()}
        free = [child for child in self.children() if not any(id(p) in taken for p in child.parameters())]
        return nn.ModuleList(free)

    @abstractmethod
    def encode(self, image: Tensor) -> Tree:
        """[B, C, D, H, W] -> features, first axis B in every tensor."""

    @abstractmethod
    def decode(self, features: Tree, marks: Marks) -> Decoded:
        """Features of B views and marks of Q queries -> Q answers."""


class MemoryNet(PromptNet):
    """A promptable net that remembers slices.

    What it remembers is a tree of tensors, first axis Q, that the lift keeps and hands back; nothing stays in the net.
    """

    @property
    @abstractmethod
    def reach(self) -> int:
        """How many slices back a slice without marks is recalled at most: the lift forgets those further away."""

    @abstractmethod
    def remember(self, features: Tree, decoded: Decoded, *, prompted: bool) -> Tree:
        """What of slices the next ones may recall.

        Args:
            features: as `encode` made them, first axis 1 (all about one slice) or Q; not those that were recalled.
            decoded: Q answers of one candidate.
            prompted: the marks of a person made them; else what was recalled did.
        """

    @abstractmethod
    def recall(
        self, features: Tree, memories: list[Tree], offsets: list[int], *, prompted: list[bool], n_slices: int
    ) -> Tree:
        """Features of one slice conditioned on memories of others, first axis Q; unchanged without memories.

        Args:
            features: as `encode` made them, first axis 1 or Q.
            memories: any number of slices; the net takes those that it uses.
            offsets: by memory, how many slices it lies behind in the direction of travel; negative: ahead.
            prompted: by memory, as in `remember`.
            n_slices: of the whole volume.
        """


class SortableNet(MemoryNet):
    """A net whose memories can be compared, so that a bank can choose which to keep and which to recall."""

    @abstractmethod
    def likeness(self, features: Tree, memories: list[Tree]) -> Tensor:
        """[N] in [-1, 1]: how like the image of one slice is to those of N remembered ones, of one target each."""

    @abstractmethod
    def closeness(self, memories: list[Tree]) -> Tensor:
        """[N, N] in [-1, 1]: how alike the memories of N slices are, of one target each."""


class ClosedNet(nn.Module):
    """A net that answers a closed list of labels."""

    @abstractmethod
    def forward(self, image: Tensor) -> list[Tensor]:
        """[B, C, D, H, W] -> logits [B, K, D, H, W], the finest first (others for deep supervision)."""


class StreamedNet(ClosedNet):
    """A closed-label net that can answer a large image slab by slab, in bounded memory and without gradients."""

    @abstractmethod
    def slabs(self, image: Tensor) -> Iterator[Tensor]:
        """[B, C, D, H, W] -> the finest logits of `forward` in pieces [B, K, d, H, W] along D, in order."""
