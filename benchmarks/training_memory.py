"""What fits a clinical card: memory of training and of asking the public models at their full size, by adapter.

    python benchmarks/training_memory.py [--card-gb 24] [--model NAME]

No weight and no GPU is needed: nets are built on the meta device, which has shapes and no values. Weights, gradients
and the two moments of AdamW are counted; activations are what autograd keeps for the way back through one view with one
box, counted by its hooks, every storage once, parameters not. Attention is counted as plain torch writes it out; fused
kernels keep less. With checkpointing a block keeps its input alone, and the costliest block is computed again. bf16 is
mixed precision: frozen weights in 2 bytes, trained ones in 4 with a copy in 2, activations by half. Not counted: the
program's own 0.5 to 1 GB on a card, workspaces, fragmentation.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from segwise.catalog import load
from segwise.nets.contract import Marks
from segwise.nets.tuned import share
from segwise.segmenter import Parts
from segwise.spec import parse

MODELS = ("sam", "litemedsam", "medsam", "sam2", "medsam2", "sam-med2d", "sam-med3d")
ADAPTERS = ("full", "decoder", "lora", "med-sa", "samed", "ssf", "bias")
VIEWS = {  # shape of a view, by a click instead of a box
    "": ((3, 1, 1024, 1024), False),
    "litemedsam": ((3, 1, 256, 256), False),
    "sam-med2d": ((3, 1, 256, 256), False),
    "medsam2": ((3, 1, 512, 512), False),
    "sam-med3d": ((1, 128, 128, 128), True),
}
GB = 1e9


class Kept(NamedTuple):
    """Bytes that autograd keeps: in all, and with every block of the encoder checkpointed."""

    all: int
    checkpointed: int


@contextlib.contextmanager
def counting(own: set[int]) -> Iterator[dict[int, int]]:
    """Bytes of what autograd saves meanwhile, by storage; tensors of `own` storages (parameters) are left out."""
    found: dict[int, int] = {}
    alive: list[torch.Tensor] = []  # so that no storage's identity is given away twice

    def pack(x: torch.Tensor) -> torch.Tensor:
        key = x.untyped_storage()._cdata
        if key not in own and key not in found:
            found[key] = x.untyped_storage().nbytes()
            alive.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        yield found


def storages(net: nn.Module) -> set[int]:
    """Identities of what a net owns."""
    return {value.untyped_storage()._cdata for value in [*net.parameters(), *net.buffers()]}


def blocks(net: nn.Module) -> list[nn.Module]:
    """The repeated parts of an encoder: members of its longest lists of modules that lie in no other one."""
    encoder = getattr(net, "encoding", net)
    lists = [m for m in encoder.modules() if isinstance(m, nn.ModuleList | nn.Sequential) and len(m) > 1]
    inner = {id(x) for one in lists for member in one for x in member.modules() if x is not member}
    return [member for one in lists if id(one) not in inner for member in one]


def kept(net: nn.Module, image: torch.Tensor, marks: Any) -> Kept:
    """What one view with one box leaves for the way back.

    Args:
        net: promptable, on the meta device, some of it trained.
        image: the view. marks: of one query.
    """
    sizes, inputs, before = [], [], []
    with counting(storages(net)) as found:

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
    stay = sum(n for n, size in zip(inputs, sizes, strict=True) if size)
    return Kept(total, min(total, total - sum(sizes) + stay + max(sizes, default=0)))


def needs(net: nn.Module, activations: int, *, bf16: bool) -> float:
    """GB of weights, gradients, moments and activations."""
    trained, every = share(net)
    frozen = every - trained
    if not bf16:
        return (4 * every + 12 * trained + activations) / GB
    return (2 * frozen + (4 + 2 + 4 + 8) * trained + activations / 2) / GB


def asked(shape: Sequence[int], click: bool) -> tuple[torch.Tensor, Marks]:
    """A view and one query about it, on the meta device."""
    with torch.device("meta"):
        which = torch.zeros(1, dtype=torch.int64)
        if click:
            return torch.empty(1, *shape), Marks(which, points=torch.zeros(1, 1, 3), signs=torch.ones(1, 1))
        return torch.empty(1, *shape), Marks(which, boxes=torch.zeros(1, 2, 3))


def adapted(net: nn.Module, frame: Any, adapter: str) -> nn.Module:
    """The net with an adapter, on the meta device."""
    module, arguments = load("adapters", parse(adapter))
    with torch.device("meta"):
        return module.apply(Parts(net, frame, None, "meta"), **arguments).net  # type: ignore[no-any-return]


def rows(name: str, card_gb: float) -> Iterator[tuple[str, ...]]:
    """A line a published size and adapter; a remark in the place of what cannot be counted."""
    module = importlib.import_module(f"segwise.models.{name.replace('-', '_')}")
    for one in module.published():
        label = f"`{name}{f'({one.label})' if one.label else ''}`"
        image, marks = asked(*VIEWS.get(name, VIEWS[""]))
        for adapter in ADAPTERS:
            try:
                net = adapted(one.net, None, adapter)
                found = kept(net, image, marks)
            except Exception as error:
                print(f"{label} {adapter}: {type(error).__name__}: {str(error)[:160]}", file=sys.stderr)
                continue
            trained, every = share(net)
            cells = [needs(net, n, bf16=bf16) for bf16 in (False, True) for n in found]
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
    args = parser.parse_args()
    print("| model | adapter | M parameters | M trained | fp32 | checkpointed | bf16 | checkpointed |")
    print("|---|---|---|---|---|---|---|---|")
    for name in args.model or MODELS:
        for row in rows(name, args.card_gb):
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
