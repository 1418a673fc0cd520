"""Gradient checkpointing: the same answers and gradients, nothing of the blocks' inner values kept."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from segwise import assemble
from segwise.errors import SpecError
from segwise.nets import sam_sizes
from segwise.nets.contract import Marks
from segwise.nets.recomputed import recompute
from segwise.nets.unet import UNet
from segwise.training.prompted import still


def both(make, run):
    """(answers, gradients by name) of a net and of the same net recomputed; how many blocks."""
    torch.manual_seed(0)
    plain = make().train()
    again = copy.deepcopy(plain)
    n = recompute(again)
    again = copy.deepcopy(again)  # as the loop's averaged net is copied
    found = []
    for net in (plain, again):
        answer = run(net)
        answer.square().sum().backward()
        found.append((answer.detach(), {name: p.grad for name, p in net.named_parameters()}))
    return found, n


@pytest.mark.parametrize("kind", ["unet", "sam"])
def test_answers_and_gradients_are_the_same(kind):
    x = torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    pixels = torch.randn(1, 3, 1, 128, 128, generator=torch.Generator().manual_seed(1))
    marks = Marks(torch.zeros(1, dtype=torch.int64), boxes=torch.tensor([[[0.0, 10, 12], [0.0, 60, 90]]]))
    makes = {
        "unet": (lambda: UNet(channels=1, classes=2, features=(4, 6, 8)), lambda net: net(x)[0]),
        "sam": (sam_sizes.nano, lambda net: net.decode(net.encode(pixels), marks).logits),
    }
    ((one, grads), (two, others)), n = both(*makes[kind])
    assert n > 2
    torch.testing.assert_close(one, two)
    for name, value in grads.items():
        if value is not None:
            torch.testing.assert_close(value, others[name])


def kept(ask):
    """Numbers that autograd keeps of a call."""
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t.numel()), t)[1], lambda t: t):
        ask()
    return sum(sizes)


def test_less_is_kept_for_the_gradient():
    net, x = UNet(channels=1, classes=2, features=(4, 6, 8)).train(), torch.randn(1, 1, 32, 32, 32)
    before = kept(lambda: net(x))
    recompute(net)
    assert kept(lambda: net(x)) < before / 2
    with torch.no_grad():
        assert kept(lambda: net(x)) == 0


@pytest.mark.parametrize(("spec", "side"), [("sam(size=nano)+lora", 128), ("sam2(size=nano)+lora", 192)])
def test_frozen_modules_that_keep_to_evaluation_are_recomputed_too(spec, side):
    net = assemble.segmenter(spec).parts.net.train()
    still(net)  # as the loop does; the encoder has frozen parameters of its own, and with it go all its blocks
    pixels = torch.randn(1, 3, 1, side, side)
    before = kept(lambda: net.encode(pixels))
    recompute(net)
    assert kept(lambda: net.encode(pixels)) < before / 2


def test_a_net_without_blocks_is_refused():
    with pytest.raises(SpecError, match="no blocks"):
        recompute(nn.Conv3d(1, 1, 3))
