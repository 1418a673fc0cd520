"""What an adapter trains of a net: by name, as a file, and as a share of the whole; which side of the net is which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from segwise.errors import WeightsError
from segwise.nets.contract import PromptNet
from segwise.nets.tiny_vit import ChannelNorm

Place = Literal["encoder", "decoder", "both"]


class Share(NamedTuple):
    """How many parameters are trained, of how many."""

    trained: int
    all: int


def tuned(net: nn.Module) -> dict[str, Tensor]:
    """Name -> tensor of all that is trained: what is saved of an adapter. Parameters that are shared come once."""
    return {name: value.detach() for name, value in net.named_parameters() if value.requires_grad}


def fill_tuned(net: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put saved tensors into the parameters that are trained, every one of them (in place).

    Raises:
        WeightsError: one is missing, left over, of another shape, or no number; names the first of each.
    """
    own = {name: value for name, value in net.named_parameters() if value.requires_grad}
    missing, strange = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
    both = sorted(set(own) & set(tensors))
    shaped = [name for name in both if own[name].shape != tensors[name].shape]
    wrong = [f"{len(missing)} missing (as {missing[0]})"] if missing else []
    wrong += [f"{len(strange)} not of this adapter (as {strange[0]})"] if strange else []
    wrong += [f"{name} is {tuple(tensors[name].shape)}, expected {tuple(own[name].shape)}" for name in shaped[:1]]
    if wrong:
        raise WeightsError(
            f"these tensors are not of this adapter on this net: {'; '.join(wrong)}; expected the file of the same "
            "adapter with the same arguments on the same base"
        )
    broken = next((name for name in both if not tensors[name].isfinite().all()), "")
    if broken:
        raise WeightsError(f"{broken} of this adapter holds values that are no numbers: a broken training or file")
    for name, value in own.items():
        value.data.copy_(tensors[name])


def share(net: nn.Module) -> Share:
    """How many of a net's parameters are trained, and how many there are (numbers kept in 8 bits are among these)."""
    sizes = [(value.numel(), value.requires_grad) for value in net.parameters()]
    kept = sum(value.numel() for value in net.buffers() if value.dtype == torch.int8)
    return Share(sum(n for n, on in sizes if on), sum(n for n, _ in sizes) + kept)


def train_only(net: nn.Module, parameters: Iterable[nn.Parameter]) -> None:
    """Let exactly these parameters be trained (in place)."""
    net.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)


def side(net: nn.Module, place: Place) -> set[int]:
    """Identities of the parameters of the encoder, of the decoder, or of both.

    The encoder of a net that encodes nothing beforehand is all but its `answering` part. A net of a closed list is all
    encoder.
    """
    if not isinstance(net, PromptNet):
        return set() if place == "decoder" else {id(p) for p in net.parameters()}
    encoder, decoder = ({id(p) for p in part.parameters()} for part in (net.encoding, net.answering))
    if net.encoding is net:
        encoder -= decoder
    decoder -= encoder
    return {"encoder": encoder, "decoder": decoder, "both": encoder | decoder}[place]


def modules_of(net: nn.Module, place: Place) -> dict[str, nn.Module]:
    """Name -> module of those with parameters of their own, all of them on that side."""
    inside = side(net, place)
    found = {}
    for name, module in net.named_modules():
        own = [id(p) for p in module.parameters(recurse=False)]
        if own and set(own) <= inside:
            found[name] = module
    return found


def normalising(net: nn.Module, *, batch: bool) -> set[int]:
    """Identities of the parameters of batch normalisations, or of all normalisations that keep no statistics."""
    kinds: tuple[type[nn.Module], ...] = (nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d, nn.InstanceNorm3d, ChannelNorm)
    if batch:
        kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    return {id(p) for module in net.modules() if isinstance(module, kinds) for p in module.parameters(recurse=False)}
