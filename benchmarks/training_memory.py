"""What fits a clinical card: memory of training and of asking the public models at their full size, by adapter.

    python benchmarks/training_memory.py [--card-gb 24] [--model NAME] [--adapter NAME]

No weight and no GPU is needed: nets are built on the meta device, which has shapes and no values. Counted is what
Segwise's own loop keeps: the weights and their running average, gradients and the two moments of AdamW of what is
trained, and what autograd keeps for the way back through one view with one box (its hooks, every storage once,
parameters not). Attention is counted as plain torch writes it out; fused kernels keep less. With checkpointing
(`--recompute`) a block keeps its input alone, and the costliest block is computed again. bf16 is autocast: weights stay
in 4 bytes, activations take half, and the copies of weights that the way back needs take 2 bytes until it is done.
Asking: the weights and the most that lives at once during encoding and one answer, without gradients, in float32; for
models with a memory, recalling seven slices too. Not counted: the program's own 0.5 to 1 GB on a card, workspaces,
fragmentation. `training_memory_held.py` holds the forecast against trainings that ran.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import itertools
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from segwise.catalog import load
from segwise.nets.contract import Marks
from segwise.nets.recomputed import blocks
from segwise.nets.tuned import share
from segwise.segmenter import Parts
from segwise.spec import parse

MODELS = ("sam", "litemedsam", "medsam", "sam2", "medsam2", "sam-med2d", "sam-med3d")
ADAPTERS = ("full", "decoder", "lora", "qlora", "med-sa", "ma-sam", "samed", "ssf", "bias", "norm")
VIEWS = {  # shape of a view, by a click instead of a box
    "": ((3, 1, 1024, 1024), False),
    "litemedsam": ((3, 1, 256, 256), False),
    "sam-med2d": ((3, 1, 256, 256), False),
    "medsam2": ((3, 1, 512, 512), False),
    "sam-med3d": ((1, 128, 128, 128), True),
}
GB = 1e9


class Kept(NamedTuple):
    """Bytes that autograd keeps: in all, with every block checkpointed, and of the weights themselves."""

    all: int
    checkpointed: int
    weights: int


class Shown(NamedTuple):
    """What a frame tells an adapter: one slice, or a volume, at once."""

    shape: tuple[int, ...]


@contextlib.contextmanager
def counting(own: set[int]) -> Iterator[tuple[dict[int, int], dict[int, int]]]:
    """Bytes of what autograd saves meanwhile, by storage: of anything else, and of `own` storages (parameters)."""
    found: dict[int, int] = {}
    owned: dict[int, int] = {}
    alive: list[torch.Tensor] = []  # so that no storage's identity is given away twice

    def pack(x: torch.Tensor) -> torch.Tensor:
        key, into = x.untyped_storage()._cdata, found
        if key in own:
            into = owned
        if key not in into:
            into[key] = x.untyped_storage().nbytes()
            alive.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        yield found, owned


class Living(TorchDispatchMode):
    """The most bytes that lived at once of what was made meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._seen: dict[int, Any] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        before = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        made = func(*args, **(kwargs or {}))
        for x in tree_leaves(made):
            if isinstance(x, torch.Tensor):
                storage = x.untyped_storage()
                if storage._cdata not in before and storage._cdata not in self._seen:
                    self._born(storage)
        return made

    def _born(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()

        def gone(_: Any) -> None:
            self.now -= size
            self._seen.pop(key, None)

        self._seen[key] = weakref.ref(storage, gone)
        self.now += size
        self.most = max(self.most, self.now)


def living(*calls: Callable[[], Any]) -> int:
    """Bytes that the costliest of some calls makes and holds at once, without gradients."""
    most = 0
    for call in calls:
        with torch.no_grad(), Living() as seen:
            call()
        most = max(most, seen.most)
    return most


def storages(net: nn.Module) -> set[int]:
    """Identities of what a net owns."""
    return {value.untyped_storage()._cdata for value in [*net.parameters(), *net.buffers()]}


def kept(net: nn.Module, image: torch.Tensor, marks: Any) -> Kept:
    """What one view with one box leaves for the way back.

    Args:
        net: promptable, on the meta device, some of it trained.
        image: the view. marks: of one query.
    """
    sizes, inputs, before = [], [], []
    with counting(storages(net)) as (found, owned):

        def begin(module: nn.Module, given: Any) -> None:
            before.append(sum(found.values()))
            inputs.append(sum(x.numel() * x.element_size() for x in given if isinstance(x, torch.Tensor)))

        def end(module: nn.Module, given: Any, made: Any) -> None:
            sizes.append(sum(found.values()) - before.pop())

        hooks = [h for b in blocks(net) for h in (b.register_forward_pre_hook(begin), b.register_forward_hook(end))]
        net.decode(net.encode(image), marks)  # type: ignore[operator]
        for hook in hooks:
            hook.remove()
        total = sum(found.values())
        weights = sum(owned.values())
    stay = sum(n for n, size in zip(inputs, sizes, strict=True) if size)
    return Kept(total, min(total, total - sum(sizes) + stay + max(sizes, default=0)), weights)


def held(net: nn.Module) -> int:
    """Bytes of a net: its parameters and buffers."""
    return sum(x.numel() * x.element_size() for x in [*net.parameters(), *net.buffers()])


def needs(net: nn.Module, kept: Kept, *, bf16: bool, checkpointed: bool) -> float:
    """GB of weights, their average, gradients, moments and activations."""
    fixed = 2 * held(net) + 12 * share(net).trained
    activations = kept.checkpointed if checkpointed else kept.all
    if not bf16:
        return (fixed + activations) / GB
    return (fixed + activations / 2 + (0 if checkpointed else kept.weights / 2)) / GB


def asked(shape: Sequence[int], click: bool) -> tuple[torch.Tensor, Marks]:
    """A view and one query about it, on the meta device."""
    with torch.device("meta"):
        which = torch.zeros(1, dtype=torch.int64)
        if click:
            return torch.empty(1, *shape), Marks(which, points=torch.zeros(1, 1, 3), signs=torch.ones(1, 1))
        return torch.empty(1, *shape), Marks(which, boxes=torch.zeros(1, 2, 3))


def once(net: Any, image: torch.Tensor, marks: Marks) -> None:
    """Encode a view and answer one query."""
    net.decode(net.encode(image), marks)


def adapted(net: nn.Module, frame: Any, adapter: str) -> nn.Module:
    """The net with an adapter, on the meta device."""
    module, arguments = load("adapters", parse(adapter))
    with torch.device("meta"):
        return module.apply(Parts(net, frame, None, "meta"), **arguments).net  # type: ignore[no-any-return]


def rows(name: str, adapters: Sequence[str], card_gb: float) -> Iterator[tuple[str, ...]]:
    """A line a published size and adapter; a remark in the place of what cannot be counted."""
    module = importlib.import_module(f"segwise.models.{name.replace('-', '_')}")
    for one in module.published():
        label = f"`{name}{f'({one.label})' if one.label else ''}`"
        shape, click = VIEWS.get(name, VIEWS[""])
        image, marks = asked(shape, click)
        stages = living(*one.stages.values())
        for adapter in adapters:
            try:
                net = adapted(one.net, Shown((shape[0] if click else 1, *shape[-2:])), adapter)
                found = kept(net, image, marks)
                asking = max(stages, living(functools.partial(once, net, image, marks)))
            except Exception as error:
                print(f"{label} {adapter}: {type(error).__name__}: {str(error)[:160]}", file=sys.stderr)
                continue
            trained, every = share(net)
            ways = itertools.product((False, True), repeat=2)
            cells = [needs(net, found, bf16=bf16, checkpointed=less) for bf16, less in ways]
            cells.append((held(net) + asking) / GB)
            yield (
                label,
                f"`{adapter}`",
                f"{every / 1e6:.1f}",
                f"{trained / 1e6:.2f}",
                *(f"{gb:.1f}{'' if gb <= card_gb else ' ✗'}" for gb in cells),
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--card-gb", type=float, default=24.0)
    parser.add_argument("--model", action="append")
    parser.add_argument("--adapter", action="append")
    args = parser.parse_args()
    print("| model | adapter | M parameters | M trained | fp32 | checkpointed | bf16 | checkpointed | asking |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in args.model or MODELS:
        for row in rows(name, args.adapter or ADAPTERS, args.card_gb):
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
