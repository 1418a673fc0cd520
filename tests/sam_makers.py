"""What the tests of models over SAM share: small encoders, fixtures, and tensors that move nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from parity.harness import Fixture
from segwise.nets.sam_vit import ImageEncoderViT


def fixture_of(parity_dir: Path, name: str) -> Fixture:
    """A fixture, or the test is skipped."""
    if not (parity_dir / name / "io.npz").exists():
        pytest.skip(f"no parity fixture of {name}")
    return Fixture(parity_dir / name)


def small_encoder() -> ImageEncoderViT:
    """Windows that divide the map: Med-SA normalises their padding too, which is a change of its own."""
    encoder = ImageEncoderViT(size=(64, 64), patch=16, width=24, heads=2, hidden=32, windows=[2, 0], out=8, bias=True)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return encoder.eval()


def still(net: torch.nn.Module) -> list[str]:
    """Parameters without a gradient, under all their names."""
    return [
        key
        for key, value in net.named_parameters(remove_duplicate=False)
        if value.grad is None or not (value.grad.abs() > 1e-7 * value.abs().max()).any()
    ]


def unexplained(keys: Iterable[str], listed: dict[str, str]) -> list[str]:
    """Keys that no pattern of a list matches."""
    return [key for key in keys if not any(re.search(pattern, key) for pattern in listed)]
