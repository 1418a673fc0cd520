"""U-Mamba: nnU-Net's residual encoder whose coarsest features pass a selective state space model, in plain torch.

Sources: Ma et al., U-Mamba, arXiv 2401.04722 (the variant with one Mamba block, at the bottleneck); Gu and Dao, Mamba,
arXiv 2312.00752, algorithm 2 and figure 3. Differs: the scan is a loop over the sequence, needs no compiled kernel, and
is slow on long sequences; this one, of the coarsest features alone, is short.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segwise.nets.planned import PlannedNet
from segwise.nets.resenc import ResEnc

KERNEL = 4  # of the causal convolution
STEPS = (1e-3, 1e-1)  # range of the first step sizes


class Mamba(nn.Module):
    """A selective state space model over a sequence.

    Args:
        width: of the words.
        states: of each channel.
        expand: how many times wider it is inside.
    """

    def __init__(self, width: int, *, states: int = 16, expand: int = 2) -> None:
        super().__init__()
        inner, rank = expand * width, math.ceil(width / 16)
        self.sizes = (rank, states, states)
        self.enter = nn.Linear(width, 2 * inner, bias=False)
        self.conv = nn.Conv1d(inner, inner, KERNEL, padding=KERNEL - 1, groups=inner)
        self.select = nn.Linear(inner, sum(self.sizes), bias=False)
        self.step = nn.Linear(rank, inner)
        first = torch.exp(torch.empty(inner).uniform_(*map(math.log, STEPS)))
        with torch.no_grad():
            self.step.bias.copy_(first + torch.log(-torch.expm1(-first)))  # the inverse of softplus
        self.log_decay = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(inner, 1))  # [inner, states]
        self.through = nn.Parameter(torch.ones(inner))
        self.leave = nn.Linear(inner, width, bias=False)

    def forward(self, words: Tensor) -> Tensor:
        """[B, L, width] -> [B, L, width]; a word sees those before it."""
        x, gate = self.enter(words).chunk(2, dim=-1)  # [B, L, inner]
        x = F.silu(self.conv(x.transpose(1, 2))[..., : words.shape[1]].transpose(1, 2))
        step, enters, leaves = self.select(x).split(self.sizes, dim=-1)
        step = F.softplus(self.step(step))  # [B, L, inner]
        y = scanned(x, step, -self.log_decay.exp(), enters, leaves) + self.through * x
        return torch.as_tensor(self.leave(y * F.silu(gate)))


def scanned(x: Tensor, step: Tensor, decay: Tensor, enters: Tensor, leaves: Tensor) -> Tensor:
    """The recurrence h[t] = exp(step[t] decay) h[t - 1] + step[t] enters[t] x[t]; the answer is leaves[t] · h[t].

    Args:
        x, step: [B, L, inner].
        decay: [inner, states], < 0.
        enters, leaves: [B, L, states].

    Returns:
        [B, L, inner].
    """
    kept = torch.exp(step[..., None] * decay)  # [B, L, inner, states]
    new = (step * x)[..., None] * enters[:, :, None]
    state, found = torch.zeros_like(new[:, 0]), []
    for t in range(x.shape[1]):
        state = kept[:, t] * state + new[:, t]
        found.append(state)
    return torch.einsum("blis,bls->bli", torch.stack(found, dim=1), leaves)


class UMamba(PlannedNet):
    """The net.

    Args:
        channels: of the image.
        classes: heads.
        features: channels of each stage; each but the first halves the sides.
        blocks: residual blocks of each stage.
        states: of each channel of the Mamba block.
    """

    def __init__(
        self, *, channels: int, classes: int, features: Sequence[int], blocks: Sequence[int], states: int
    ) -> None:
        super().__init__()
        self.unet = ResEnc(channels=channels, classes=classes, features=features, blocks=blocks)
        self.multiple = self.unet.multiple
        self.norm = nn.LayerNorm(features[-1])
        self.mamba = Mamba(features[-1], states=states)

    def answers(self, image: Tensor) -> list[Tensor]:
        """[B, C, D, H, W] -> logits, the finest first."""
        features = self.unet.encoder(image)
        words = features[-1].flatten(2).transpose(1, 2)  # [B, L, C]
        deep = self.mamba(self.norm(words)).transpose(1, 2).reshape(features[-1].shape)
        return list(self.unet.decoder([*features[:-1], deep], deep=self.training))
