"""U-Nets that fuse channels late: each channel has its own net, and what they say is averaged where they meet."""

from __future__ import annotations

import pytest
import torch

from segwise.errors import SpecError
from segwise.models import unet
from segwise.nets.unet import UNet


def made(fusion: str, channels: int = 2, **settings):
    torch.manual_seed(0)
    size = {"channels": channels, "classes": 3, "patch": (16, 16, 32), "features": "4-6-8-8"}
    return unet.net(**size, fusion=fusion, **settings)


def image(channels: int = 2):
    return torch.randn(1, channels, 16, 16, 32, generator=torch.Generator().manual_seed(1))


def test_late_is_the_mean_of_one_net_a_channel():
    net = made("late").eval()
    x = image()
    with torch.no_grad():
        own = [each(x[:, i : i + 1])[0] for i, each in enumerate(net.each)]
        torch.testing.assert_close(net(x)[0], (own[0] + own[1]) / 2)


def test_features_are_averaged_at_every_stage_and_decoded_once():
    net = made("features").eval()
    x = image()
    with torch.no_grad():
        levels = [each.encode(x[:, i : i + 1]) for i, each in enumerate(net.each)]
        mean = [(a + b) / 2 for a, b in zip(*levels, strict=True)]
        torch.testing.assert_close(net(x)[0], net.each[0].decode(mean)[0])
    assert not any(name.startswith(("each.1.up", "each.1.joined", "each.1.heads")) for name in net.state_dict())


@pytest.mark.parametrize("fusion", ["early", "features", "late"])
def test_every_weight_learns_and_coarse_heads_answer_while_training(fusion):
    net = made(fusion).train()
    answers = net(image())
    assert [tuple(a.shape[2:]) for a in answers] == [(16, 16, 32), (8, 8, 16)]
    sum(a.square().sum() for a in answers).backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in net.parameters())


def test_early_is_the_plain_net():
    assert isinstance(made("early"), UNet)


@pytest.mark.parametrize(
    ("fusion", "channels", "words"),
    [
        ("late", 1, "fusion=late needs images of two channels or more"),
        ("never", 2, 'fusion is "never", expected one of'),
    ],
)
def test_errors(fusion, channels, words):
    with pytest.raises(SpecError, match=words):
        made(fusion, channels)
