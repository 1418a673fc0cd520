"""Nets in place of the ones that are asked in words on windows: they answer with their image, and count their runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from segwise.geometry import Volume
from segwise.lifts.spoken import Spoken
from segwise.nets.contract import Decoded, PromptNet
from segwise.prompt import Prompt, Text
from segwise.segmenter import Ask
from segwise.store import FeatureStore


class Shows(PromptNet):
    """Answers every query with its image minus a level, times a slope."""

    def __init__(self, level: float, slope: float = 20.0) -> None:
        super().__init__()
        self.level, self.slope, self.windows, self.said = level, slope, 0, 0
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def words(self, tokens):
        self.said += 1
        return next(iter(tokens.values()))

    def encode(self, image):
        self.windows += 1
        return image

    def decode(self, features, marks):
        return Decoded((features[marks.image, :1] - self.level) * self.slope)


def probed(model: Spoken, level: float) -> Spoken:
    """The model with such a net in place of its own."""
    return model.rebuilt(replace(model.parts, net=Shows(level)))


def named(words: str) -> Prompt:
    """A prompt of a name."""
    return Prompt((Text(words),))


def say(model: Spoken, volume: Volume, *names: str, store: FeatureStore | None = None):
    """Answers to some names."""
    state = model.encode(volume, store=FeatureStore() if store is None else store)
    return model.segment(state, [Ask(named(name)) for name in names])


def noise(volume: Volume, seed: int = 0) -> Volume:
    """The volume with noise on it."""
    noisy = volume.array + np.random.default_rng(seed).normal(0, 60, volume.array.shape)
    return Volume.of(noisy.astype(np.float32), volume.grid, volume.channels)


def randomised(net: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every float tensor of a net's state overwritten, about as large as freshly made ones."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for key, value in net.state_dict().items():
            if value.is_floating_point():
                norm = value.ndim == 1 and key.endswith("weight")
                spread = 0.2 if value.ndim == 1 else max(value[0].numel(), 1) ** -0.5
                value.copy_(torch.randn_like(value) * spread + float(norm))
    return net.eval()
