"""What the nets of our own specialists share: sides that must divide, numbers as text, tensors as a file keeps them.

A file holds each tensor once, though a net may hold it under several names (nnU-Net's does): `stored` takes the first
name, `spread` gives it back to all.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from segwise.errors import SpecError
from segwise.nets.contract import ClosedNet


@dataclass(frozen=True)
class Maskable:
    """How a net's encoder sees an image of which parts are hidden.

    Attributes:
        prefixes: of the encoder's tensors among the net's.
        words: module that answers [B, size, d, h, w], a word for each cube of `stride` voxels that knows nothing of the
            others; what is hidden is replaced there. None where the net begins with convolutions that overlap: voxels
            are replaced then.
        size: channels of what is replaced: of the words, or of the image.
        stride: sides of a word in voxels; 1 for voxels.
        unit: sides of a hidden cube where nothing else is said, a multiple of stride.
        deep: [B, C, D, H, W] -> the encoder's last features [B, width, D / coarse, …].
        width, coarse: see there.
    """

    prefixes: tuple[str, ...]
    words: nn.Module | None
    size: int
    stride: int
    unit: int
    deep: Callable[[Tensor], Tensor]
    width: int
    coarse: int


class PlannedNet(ClosedNet):
    """A closed-label net for images of a planned size.

    Attributes:
        multiple: what each side of an image must be divisible by; one side must be at least twice that, because the
            coarsest features are normalised and one voxel alone has no spread.
        patch: the only size it can see, or None for any.
        origin: the model's name and the arguments it was made with, as a plan.json holds them.
    """

    multiple: int = 1
    patch: tuple[int, ...] | None = None
    origin: Mapping[str, Any] = MappingProxyType({})

    def forward(self, image: Tensor) -> list[Tensor]:
        """[B, C, D, H, W] -> logits [B, K, D, H, W], the finest first; while training coarser ones may follow.

        Raises:
            SpecError: the sides do not divide, or the net was made for another size.
        """
        fitting(image.shape[2:], self.multiple)
        if self.patch is not None and tuple(image.shape[2:]) != self.patch:
            raise SpecError(f"this net sees patches of {_sides(self.patch)}, came {_sides(image.shape[2:])}")
        return self.answers(image)

    @abstractmethod
    def answers(self, image: Tensor) -> list[Tensor]:
        """As `forward`, for sides that divide."""

    def maskable(self) -> Maskable | None:
        """How its encoder can be trained without labels; None if it cannot."""
        return None


def fitting(sides: Sequence[int], multiple: int) -> None:
    """Refuse an image that the net cannot halve as often as it must.

    Raises:
        SpecError: a side is not divisible by `multiple`, or none is twice as large.
    """
    if any(side % multiple or side < multiple for side in sides):
        raise SpecError(f"the patch is {_sides(sides)}; this net needs sides divisible by {multiple}")
    if multiple > 1 and prod(sides) == multiple ** len(sides):
        raise SpecError(f"the patch is {_sides(sides)}; this net needs at least one side of {2 * multiple} or more")


def numbers(text: str, name: str, *, least: int = 1) -> tuple[int, ...]:
    """Whole numbers written as "16-32-64".

    Raises:
        SpecError: not that, or fewer than `least`; names the argument.
    """
    parts = text.split("-")
    found = tuple(int(part) for part in parts if part.isdecimal())
    if len(found) != len(parts) or len(found) < least or min(found) < 1:
        raise SpecError(f'{name} is "{text}", expected {least} or more numbers with "-" between, as 16-32-64')
    return found


def stored(net: nn.Module) -> dict[str, Tensor]:
    """A net's tensors by their first name, on the CPU, contiguous: what a file keeps."""
    state = net.state_dict()
    return {name: state[name].detach().cpu().contiguous().clone() for name in _first(state)}


def spread(net: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a file under every name that the net has for them; others as they came."""
    state = net.state_dict()
    first = {(value.data_ptr(), value.shape): name for name, value in _named(state, _first(state))}
    more = {
        name: tensors[source]
        for name, value in state.items()
        if name not in tensors
        and value.numel()
        and (source := first.get((value.data_ptr(), value.shape), "")) in tensors
    }
    return {**tensors, **more}


def _first(state: Mapping[str, Tensor]) -> list[str]:
    seen: set[tuple[int, object]] = set()
    found = []
    for name, value in state.items():
        place = (value.data_ptr(), value.shape)
        if place not in seen or not value.numel():
            seen.add(place)
            found.append(name)
    return found


def _named(state: Mapping[str, Tensor], names: Sequence[str]) -> list[tuple[str, Tensor]]:
    return [(name, state[name]) for name in names]


def _sides(sides: Sequence[int]) -> str:
    return "×".join(map(str, sides))
