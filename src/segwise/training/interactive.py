"""Training a promptable 3D net as it is used: it answers, a simulated user clicks on an error, it answers again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segwise.assemble import Prompter
from segwise.case import Target
from segwise.geometry import Array, Grid
from segwise.nets.contract import Marks, PromptNet
from segwise.prompt import Prompt
from segwise.segmenter import Frame
from segwise.training.contract import Measures

ROUNDS = (1, 2, 3, 4, 5)
OFTEN = (0.2, 0.25, 0.25, 0.15, 0.15)  # how often a batch stays so many steps
NEAR = 4.0  # standard deviation, in view voxels, of the surroundings of a click that count more
MORE = 3.0  # by how much


@dataclass(frozen=True, eq=False)
class Sample:
    """One target, ready to be asked about.

    Attributes:
        view: float32 [C, D, H, W], what the frame shows.
        soft: float32 [D, H, W], the share of every voxel of the view that the target fills.
        window: where the view lies.
        prompt: what is said first.
        seen: float32 [1, D, H, W], logits of an answer given before, or None.
        kind: of the target, for the scores.
    """

    view: Array
    soft: Array
    window: Grid
    prompt: Prompt
    seen: Array | None
    kind: str = ""

    @property
    def target(self) -> Target:
        """The reference on the view's own grid."""
        return Target("target", self.soft >= 0.5, self.window.resized(self.soft.shape))


class Interactive:
    """The objective: soft Dice and cross-entropy of every round, and of the predicted DSC.

    Args:
        net: a promptable net.
        frame: its preprocessing.
        user: makes the next prompt from the last mask.
        held: samples to validate on.
        clicks: rounds of the validation after the first.
    """

    def __init__(
        self,
        net: PromptNet,
        frame: Frame[Marks],
        user: Prompter,
        *,
        held: Sequence[Sample] = (),
        clicks: int = 3,
    ) -> None:
        self.net: PromptNet = net
        self.frame, self.user, self.held, self.clicks = frame, user, held, clicks

    def losses(self, batch: Sequence[Sample], rng: np.random.Generator) -> Iterator[tuple[Tensor, Measures]]:
        """One loss a round; what was clicked answers the net as it was before its step."""
        device = next(self.net.parameters()).device
        features = self._encoded(batch, device)
        soft = torch.from_numpy(np.stack([s.soft for s in batch]))[:, None].to(device)
        prompts, seen = [s.prompt for s in batch], [s.seen for s in batch]
        n = int(rng.choice(ROUNDS, p=OFTEN))
        for k in range(n):
            marks = self._marks(batch, prompts, seen, device)
            decoded = self.net.decode(features, marks)
            logits = decoded.logits.float()
            dsc = dice(logits.detach() > 0, soft >= 0.5)
            loss = overlap_loss(logits, soft) + weighted_entropy(logits, soft, marks)
            if decoded.quality is not None:
                loss = loss + 0.3 * F.mse_loss(decoded.quality.float(), dsc)
            last = logits.detach().float().cpu().numpy()
            yield loss, {f"dsc{k}": float(dsc.mean())}
            if k + 1 < n:
                prompts, seen = self._said(batch, prompts, last), list(last)

    @torch.no_grad()
    def validate(self) -> Measures:
        """Mean DSC of the held samples in the first round and in the last, on the view's grid."""
        found: dict[str, list[float]] = {}
        for sample in self.held:
            for k, score in enumerate(self._scored(sample)):
                found.setdefault(f"round{k}", []).append(score)
        return {
            key: float(np.mean(values)) for key, values in found.items() if key in ("round0", f"round{self.clicks}")
        }

    def _scored(self, sample: Sample) -> Iterator[float]:
        device = next(self.net.parameters()).device
        features = self._encoded([sample], device)
        prompts, seen = [sample.prompt], [sample.seen]
        soft = torch.from_numpy(sample.soft)[None, None]
        for _ in range(self.clicks + 1):
            logits = self.net.decode(features, self._marks([sample], prompts, seen, device)).logits.float().cpu()
            yield float(dice(logits > 0, soft >= 0.5))
            last = logits.numpy()
            prompts, seen = self._said([sample], prompts, last), list(last)

    def _encoded(self, batch: Sequence[Sample], device: torch.device) -> Any:
        return self.net.encode(torch.from_numpy(np.stack([s.view for s in batch])).to(device))

    def _marks(
        self, batch: Sequence[Sample], prompts: Sequence[Prompt], seen: Sequence[Array | None], device: torch.device
    ) -> Marks:
        asked = [self.frame.marks(p, s.window, one) for s, p, one in zip(batch, prompts, seen, strict=True)]
        return together(asked, device)

    def _said(self, batch: Sequence[Sample], prompts: Sequence[Prompt], logits: Array) -> list[Prompt]:
        """The prompts with a click more each, where the user has one to make."""
        said = []
        for i, (sample, prompt, one) in enumerate(zip(batch, prompts, logits, strict=True)):
            target = sample.target
            more = self.user.next(target, prompt, np.asarray(one[0] > 0), i) if target.mask.any() else None
            said.append(prompt if more is None else more)
        return said


def together(asked: Sequence[Marks], device: torch.device) -> Marks:
    """Marks of one query each as one batch: points padded, boxes and logits that some lack filled in.

    A query without a box among others with one gets one of no size far away; one without logits gets zeros.
    """
    n = max((len(m.points[0]) for m in asked if m.points is not None), default=0)
    points, signs = torch.zeros(len(asked), n, 3), torch.full((len(asked), n), -1.0)
    for i, m in enumerate(asked):
        if m.points is not None and m.signs is not None:
            points[i, : len(m.points[0])], signs[i, : len(m.signs[0])] = m.points[0], m.signs[0]
    shape = next((m.low_res.shape[1:] for m in asked if m.low_res is not None), None)
    low_res = None
    if shape is not None:
        low_res = torch.stack([m.low_res[0] if m.low_res is not None else torch.zeros(shape) for m in asked])
    boxes = None
    if any(m.boxes is not None for m in asked):
        boxes = torch.stack([m.boxes[0] if m.boxes is not None else torch.full((2, 3), float("nan")) for m in asked])
    made: Mapping[str, Tensor | None] = {
        "image": torch.arange(len(asked)),
        "points": points if n else None,
        "signs": signs if n else None,
        "boxes": boxes,
        "low_res": low_res,
    }
    return Marks(**{key: value.to(device) for key, value in made.items() if value is not None})


def dice(mask: Tensor, reference: Tensor) -> Tensor:
    """DSC of bool [Q, M, ...] with bool [Q, 1, ...]: [Q, M]; 1 where both are empty."""
    both = (mask & reference).flatten(2).sum(dim=2).float()
    total = (mask.flatten(2).sum(dim=2) + reference.flatten(2).sum(dim=2)).float()
    return torch.where(total > 0, 2 * both / total.clamp(min=1), torch.ones_like(total))


def overlap_loss(logits: Tensor, soft: Tensor) -> Tensor:
    """1 - soft Dice, mean over queries (Milletari et al., arXiv 1606.04797, with plain sums)."""
    chance = torch.sigmoid(logits).flatten(1)
    wanted = soft.flatten(1)
    both = (chance * wanted).sum(dim=1)
    return (1 - (2 * both + 1) / (chance.sum(dim=1) + wanted.sum(dim=1) + 1)).mean()


def weighted_entropy(logits: Tensor, soft: Tensor, marks: Marks) -> Tensor:
    """Cross-entropy, mean over voxels; what lies around a click counts more."""
    weight = torch.ones_like(logits)
    if marks.points is not None and marks.signs is not None:
        bumps = torch.ones(1, 1, 1, 1, 1, device=logits.device)
        for axis, length in enumerate(logits.shape[-3:]):
            place = torch.arange(length, dtype=torch.float32, device=logits.device)
            bump = torch.exp(-0.5 * ((place - marks.points[..., axis, None]) / NEAR) ** 2)
            shape = [*bump.shape[:2], 1, 1, 1]
            shape[axis + 2] = length
            bumps = bumps * bump.view(shape)  # [Q, N, ...]
        there = (marks.signs >= 0)[:, :, None, None, None]
        weight = weight + MORE * (bumps * there).amax(dim=1, keepdim=True)
    return (weight * F.binary_cross_entropy_with_logits(logits, soft, reduction="none")).mean()
