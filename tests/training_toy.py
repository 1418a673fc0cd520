"""A training that takes milliseconds, with all that a resume could forget: dropout, batch norm, draws, validation.

python training_toy.py OUT [STEP ...]    trains; is killed by SIGKILL at each of these steps, taken up again each time
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from segwise.training.contract import Recipe, Settings
from segwise.training.loop import train

STEPS = 60


@dataclass
class Sums:
    """Three numbers and what they come to."""

    seed: int

    def batch(self, index):
        rng = np.random.default_rng([self.seed, index])
        x = rng.normal(size=(8, 3)).astype(np.float32)
        return {"x": x, "y": x.sum(axis=1, keepdims=True)}


class Guess:
    """Guesses the sum, told its own last guess; a batch stays one to three steps."""

    def __init__(self, at_step: Callable[[int], None] = lambda _: None, *, seed: int = 0) -> None:
        torch.manual_seed(seed)
        first, last = nn.Linear(4, 8), nn.Linear(8, 1)
        self.net = nn.Sequential(first, nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), last)
        self.at_step, self.n = at_step, 0

    def losses(self, batch, rng):
        device = next(self.net.parameters()).device
        x, y = (torch.from_numpy(batch[key]).to(device) for key in "xy")
        said = torch.zeros_like(y)
        for k in range(1 + int(rng.integers(3))):
            self.at_step(self.n)
            self.n += 1
            guess = self.net(torch.cat([x, said], dim=1)).float()
            yield (guess - y).square().mean(), {f"error{k}": float((guess.detach() - y).abs().mean())}
            said = guess.detach()

    def validate(self):
        x = torch.tensor([[1.0, 2, 3, 0]], device=next(self.net.parameters()).device)
        return {"error": abs(float(self.net(x)) - 6)}


def save(out, net, known):
    path = out / "weights.pt"
    torch.save({"net": net.state_dict(), "known": dict(known)}, path)
    return [path]


def recipe(*, seed: int = 0, steps: int | None = None, objective=None, stream=None, version="1", **settings) -> Recipe:
    plain = {"warmup": 5, "keep_every": 4, "validate_every": 3, "makers": 0, "precision": "fp32"}
    return Recipe(
        name="toy",
        objective=objective or Guess(seed=seed),
        stream=stream or Sums(seed),
        settings=Settings(seed=seed, steps=STEPS if steps is None else steps, **{**plain, **settings}),
        save=save,
        version=version,
        note="made-up sums",
    )


def _killed_at(out: Path, step: int) -> None:
    """A child trains and is killed in the middle of a batch."""
    child = os.fork()
    if child == 0:
        done = int(torch.load(out / "last.pt")["step"]) if (out / "last.pt").exists() else 0
        train(
            recipe(objective=Guess(lambda n: os.kill(os.getpid(), signal.SIGKILL) if done + n >= step else None)), out
        )
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for word in sys.argv[2:]:
        _killed_at(folder, int(word))
    train(recipe(), folder)
