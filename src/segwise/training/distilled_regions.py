"""The objective of a small promptable 3D net that looks at regions and learns from a large frozen one.

As `distilled`, on whole views: the deepest map (through a 1x1x1 projection), the masks and how they move with the
prompt, the predicted DSC. Views are the net's input without a trained encoder, so there is nothing to keep.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segwise.geometry import Grid
from segwise.nets.contract import Decoded, Marks
from segwise.nets.focus_unet import FocusUNet
from segwise.prompt import Box, Prompt
from segwise.segmenter import Frame
from segwise.training.contract import Measures
from segwise.training.distilled import Shares, moves_unlike, unlike
from segwise.training.interactive import Sample, dice, together

MOVED = 0.08  # of a box's side, by how much its faces are moved in the second prompt


class RegionPupil(nn.Module):
    """A student, and what translates its deepest map into its teacher's.

    Args:
        student: trained.
        width: channels of the teacher's deepest map.
    """

    def __init__(self, student: FocusUNet, width: int) -> None:
        super().__init__()
        own = _width(student)
        self.student = student
        self.project = nn.Conv3d(own, width, 1)


class DistilledRegions:
    """The objective.

    Args:
        student: trained, all of it.
        teacher: frozen, and left as it is.
        frame: the preprocessing of both.
        held: samples to validate on.
        shares: of the losses.
    """

    def __init__(
        self,
        student: FocusUNet,
        teacher: FocusUNet,
        frame: Frame[Marks],
        *,
        held: Sequence[Sample] = (),
        shares: Shares = Shares(),  # noqa: B008 - frozen
    ) -> None:
        self.teacher = teacher.eval().requires_grad_(False)
        self.net: nn.Module = RegionPupil(student, _width(teacher))
        self.frame, self.held, self.shares = frame, held, shares

    def losses(self, batch: Sequence[Sample], rng: np.random.Generator) -> Iterator[tuple[Tensor, Measures]]:
        """One loss of two prompts."""
        assert isinstance(self.net, RegionPupil)
        s, student = self.shares, self.net.student
        views = self._views(batch)
        totals: list[Tensor] = []
        answers: list[tuple[Tensor, Tensor]] = []
        agreement = 0.0
        for prompts in zip(*(second(sample.prompt, sample.window, rng) for sample in batch), strict=True):
            marks = self._marks(batch, prompts)
            wanted, deep = self._taught(views, marks)
            mine, own = looked(student, student.encode(views), marks)
            apart = F.mse_loss(self.net.project(own).float(), deep) / deep.var().clamp(min=1e-6)
            masks = unlike(mine.logits.float(), wanted.logits)
            totals += [s.features * apart, s.masks * masks]
            if mine.quality is not None and wanted.quality is not None:
                totals.append(s.quality * F.mse_loss(mine.quality.float(), wanted.quality))
            answers.append((mine.logits.float().sigmoid(), wanted.logits.sigmoid()))
            agreement += float(dice(mine.logits.detach() > 0, wanted.logits > 0).mean()) / 2
        prompts_ = moves_unlike(*answers)
        loss = torch.stack(totals).sum() / 2 + s.prompts * prompts_
        told = {"features": apart, "masks": masks, "prompts": prompts_}
        yield loss, {**{key: float(value.detach()) for key, value in told.items()}, "agreement": agreement}

    @torch.no_grad()
    def validate(self) -> Measures:
        """Mean DSC of the student's masks with the teacher's on the held samples."""
        assert isinstance(self.net, RegionPupil)
        scores = []
        for sample in self.held:
            views, marks = self._views([sample]), self._marks([sample], [sample.prompt])
            wanted, _ = self._taught(views, marks)
            own = self.net.student.decode(self.net.student.encode(views), marks)
            scores.append(float(dice(own.logits > 0, wanted.logits > 0).mean()))
        return {"agreement": float(np.mean(scores))} if scores else {}

    @torch.no_grad()
    def _taught(self, views: Tensor, marks: Marks) -> tuple[Decoded, Tensor]:
        self.teacher.to(views.device)
        with torch.autocast(views.device.type, enabled=False):
            return looked(self.teacher, self.teacher.encode(views), marks)

    def _views(self, batch: Sequence[Sample]) -> Tensor:
        return torch.from_numpy(np.stack([s.view for s in batch])).to(next(self.net.parameters()).device)

    def _marks(self, batch: Sequence[Sample], prompts: Sequence[Prompt]) -> Marks:
        asked = [self.frame.marks(p, s.window, s.seen) for s, p in zip(batch, prompts, strict=True)]
        return together(asked, next(self.net.parameters()).device)


def looked(net: FocusUNet, features: Any, marks: Marks) -> tuple[Decoded, Tensor]:
    """A net's answer and its deepest map, float32 [Q, width, d, h, w]."""
    seen: list[Tensor] = []
    hook = net.blocks[-1].register_forward_hook(lambda module, given, made: seen.append(made))
    try:
        return net.decode(features, marks), seen[0].float()
    finally:
        hook.remove()


def second(prompt: Prompt, window: Grid, rng: np.random.Generator) -> tuple[Prompt, Prompt]:
    """A prompt, and the same with the faces of its boxes moved."""

    def moved(mark: Any) -> Any:
        if not isinstance(mark, Box):
            return mark
        boxes = Prompt((mark,)).on(window).boxes
        if not len(boxes):
            return mark
        low, high = np.asarray(boxes[0])
        move = np.rint(rng.uniform(-MOVED, MOVED, (2, 3)) * (high - low)).astype(int)
        first, last = np.maximum(low - move[0], 0), np.minimum(high + move[1], window.shape)
        return mark if (last <= first).any() else Box.of(window, first.tolist(), last.tolist())

    return prompt, Prompt(tuple(moved(mark) for mark in prompt.marks))


def _width(net: FocusUNet) -> int:
    return int(net.down[-1].out_channels)  # type: ignore[arg-type]
