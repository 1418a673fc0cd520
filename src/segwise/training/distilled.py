"""The objective of a small promptable 2D net that learns from a large frozen one: no label is needed.

Three things are learned: the image embedding (through a 1x1 projection where widths differ), the masks, and how the
masks move with the prompt. The teacher's embedding of a slice is made once and kept.

Source: Zhang et al., Faster Segment Anything (MobileSAM), arXiv 2306.14289, section 3: the encoder's embedding alone,
mean squared error. Ours beside it: soft masks (Hinton et al., arXiv 1503.02531, at temperature 1) by the
Kullback-Leibler divergence of every voxel and soft Dice, and the difference between the answers to two prompts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segwise.geometry import Grid
from segwise.nets.contract import Decoded, Marks
from segwise.nets.marks import alike, joined, mapped
from segwise.nets.sam import SamNet
from segwise.prompt import Prompt
from segwise.segmenter import Frame
from segwise.training.contract import Measures
from segwise.training.marked import Slice
from segwise.training.prompted import way_back

KEPT_BYTES = 2 << 30  # of the teacher's embeddings


@dataclass(frozen=True, kw_only=True)
class Shares:
    """What counts how much; 0 leaves a part out.

    Attributes:
        features: error of the embedding, in units of the teacher's variance.
        masks: divergence and soft Dice of the masks.
        prompts: error of the difference between the answers to two prompts about one target.
        quality: error of the predicted IoU.
    """

    features: float = 1.0
    masks: float = 1.0
    prompts: float = 1.0
    quality: float = 0.1


class Pupil(nn.Module):
    """A student, and what translates its embedding into its teacher's; the latter is thrown away at the end.

    Args:
        student: trained.
        width: channels of the teacher's embedding.
    """

    def __init__(self, student: SamNet, width: int) -> None:
        super().__init__()
        own = int(student.mask_decoder.mask_tokens.weight.shape[1])
        self.student = student
        self.project = nn.Conv2d(own, width, 1)
        with torch.no_grad():  # a student begins with evenly spaced channels of its teacher
            places = torch.arange(width) * own // width
            self.project.weight.mul_(0.1)[torch.arange(width), places, 0, 0] += 1
            self.project.bias.zero_()  # type: ignore[union-attr]


def candid(net: SamNet) -> SamNet:
    """The same modules, answering with all candidates at the decoder's own resolution."""
    wanted = net.candidates if net.candidates == "one" else "auto"
    same = SamNet(net.image_encoder, net.prompt_encoder, net.mask_decoder, candidates=wanted, enlarge=False)
    return same.train(net.training)


class Distilled:
    """The objective.

    Args:
        student: trained, all of it.
        teacher: with the views and prompts of the student; frozen, and left as it is.
        frame: the preprocessing of both, with `restore`.
        held: slices of the validation subjects.
        shares: of the losses.
    """

    def __init__(
        self,
        student: SamNet,
        teacher: SamNet,
        frame: Frame[Any],
        *,
        held: Sequence[Slice] = (),
        shares: Shares = Shares(),
    ) -> None:
        self.teacher = candid(teacher).eval().requires_grad_(False)
        width = int(teacher.mask_decoder.mask_tokens.weight.shape[1])
        self.net: nn.Module = Pupil(candid(student), width)
        self.frame, self.held, self.shares = frame, held, shares
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self._ways: dict[tuple[int, ...], Tensor] = {}

    def losses(self, batch: Sequence[Slice], rng: np.random.Generator) -> Iterator[tuple[Tensor, Measures]]:
        """One loss."""
        assert isinstance(self.net, Pupil)
        theirs = self.features(batch)
        own = self.net.student.encode(self._views(batch))
        said = F.interpolate(self.net.project(own).float(), theirs.shape[-2:], mode="bilinear", align_corners=False)
        apart = F.mse_loss(said, theirs) / theirs.var().clamp(min=1e-6)
        masks, prompts, quality, agreement = self._answered(batch, own, theirs)
        s = self.shares
        loss = s.features * apart + s.masks * masks + s.prompts * prompts + s.quality * quality
        told = {"features": apart, "masks": masks, "prompts": prompts}
        yield loss, {**{key: float(value.detach()) for key, value in told.items()}, "agreement": agreement}

    @torch.no_grad()
    def validate(self) -> Measures:
        """Mean DSC of the student's masks with the teacher's on the held slices."""
        assert isinstance(self.net, Pupil)
        scores = []
        for one in self.held:
            theirs = self.features([one])
            own = self.net.student.encode(self._views([one]))
            for answers in self._pairs([one], own, theirs):
                student, teacher = (self.on_slice(best(decoded, row), one.window) for decoded, row in answers)
                scores.append(overlap(student > 0, teacher > 0))
        return {"agreement": float(np.mean(scores))} if scores else {}

    def _answered(self, batch: Sequence[Slice], own: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
        """Losses of masks, of prompts and of qualities, and the mean DSC with the teacher's masks."""
        owners = [(s, k) for s in batch for k in range(len(s.asked))]
        masks: list[Tensor] = []
        prompts: list[Tensor] = []
        qualities: list[Tensor] = []
        scores: list[float] = []
        before: tuple[Tensor, Tensor] | None = None
        for (s, k), ((mine, row), (wanted, _)) in zip(owners, self._pairs(batch, own, theirs), strict=True):
            fit = fitting(wanted, row)
            student, teacher = (self.on_slice(d.logits[row, fit, 0].float(), s.window) for d in (mine, wanted))
            masks.append(unlike(student, teacher))
            if mine.quality is not None and wanted.quality is not None:
                qualities.append(F.mse_loss(mine.quality[row, fit].float(), wanted.quality[row, fit].float()))
            scores.append(overlap(student.detach() > 0, teacher > 0))
            answers = student.sigmoid(), teacher.sigmoid()
            if k % 2 and before is not None and before[0].shape == answers[0].shape:
                prompts.append(moves_unlike(before, answers))
            before = answers
        parts = [torch.stack(one).mean() if one else theirs.new_zeros(()) for one in (masks, prompts, qualities)]
        return parts[0], parts[1], parts[2], float(np.mean(scores))

    def _pairs(
        self, batch: Sequence[Slice], own: Tensor, theirs: Tensor
    ) -> list[tuple[tuple[Decoded, int], tuple[Decoded, int]]]:
        """By question in order: the student's answer and the teacher's, each with its row."""
        assert isinstance(self.net, Pupil)
        owners = [(i, k) for i, s in enumerate(batch) for k in range(len(s.asked))]
        asked = [one_query(self.frame, batch[i].asked[k].prompt, batch[i].window, i) for i, k in owners]
        found: dict[int, tuple[tuple[Decoded, int], tuple[Decoded, int]]] = {}
        for members in alike(asked).values():
            marks = moved_to(joined([asked[q] for q in members]), theirs.device)
            mine = self.net.student.decode(own, marks)
            with torch.no_grad(), torch.autocast(theirs.device.type, enabled=False):
                wanted = self.teacher.decode(theirs, marks)
            found |= {q: ((mine, row), (wanted, row)) for row, q in enumerate(members)}
        return [found[q] for q in range(len(owners))]

    @torch.no_grad()
    def features(self, batch: Sequence[Slice]) -> Tensor:
        """float32 [B, width, h, w]: the teacher's embeddings, made once a slice."""
        device = next(self.net.parameters()).device
        self.teacher.to(device)
        found = []
        for one in batch:
            made = self._kept.pop(one.key, None) if one.key else None
            if made is None:
                with torch.autocast(device.type, enabled=False):
                    made = self.teacher.encode(torch.from_numpy(one.view)[None].to(device))
            found.append(made)
            if one.key:
                self._kept[one.key] = made
                while len(self._kept) > max(1, KEPT_BYTES // (made.numel() * made.element_size())):
                    self._kept.popitem(last=False)
        return torch.cat(found)

    def _views(self, batch: Sequence[Slice]) -> Tensor:
        return torch.from_numpy(np.stack([s.view for s in batch])).to(next(self.net.parameters()).device)

    def on_slice(self, logits: Tensor, window: Grid) -> Tensor:
        """Logits [M, h, w] that cover a view, at the voxels of the slice [M, H, W]: as `frame.restore`."""
        key = (*window.shape[1:], *logits.shape[-2:])
        if key not in self._ways:
            self._ways[key] = way_back(self.frame, window, tuple(logits.shape[-2:]))
        grid = self._ways[key].to(logits.device)
        return F.grid_sample(logits[None], grid[None], mode="bilinear", padding_mode="border", align_corners=True)[0]


def one_query(frame: Frame[Any], prompt: Prompt, window: Grid, image: int) -> Marks:
    """A prompt as one query about one image of a batch."""
    marks = frame.marks(prompt, window, None)
    own = {name: value[:1] for name, value in vars(marks).items() if isinstance(value, Tensor)}
    own["image"] = torch.full((1,), image, dtype=torch.int64)
    return Marks(**own)


def moved_to(marks: Marks, device: torch.device) -> Marks:
    """Marks on a device."""
    return Marks(**{f: mapped(lambda x: x.to(device), v) for f, v in vars(marks).items() if v is not None})


def fitting(decoded: Decoded, row: int) -> list[int]:
    """Candidates that the net would hand out for a query."""
    if decoded.quality is None:
        return list(range(decoded.logits.shape[1]))
    return [i for i, value in enumerate(decoded.quality[row].tolist()) if value > -np.inf]


def best(decoded: Decoded, row: int) -> Tensor:
    """float32 [1, h, w]: the logits that the net would answer a query with."""
    chosen = 0 if decoded.quality is None else int(decoded.quality[row].argmax())
    return decoded.logits[row, chosen].float()


def unlike(student: Tensor, teacher: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the voxels and 1 - soft Dice, of logits [M, ...]; 0 where both are equal.

    Foreground and background weigh alike in the divergence: a small net else learns that nothing is anywhere.
    """
    wanted, own = teacher.sigmoid(), student.sigmoid()
    certain = F.binary_cross_entropy_with_logits(teacher, wanted, reduction="none")  # the teacher's entropy
    divergence = (F.binary_cross_entropy_with_logits(student, wanted, reduction="none") - certain).flatten(1)
    inside, outside = wanted.flatten(1), 1 - wanted.flatten(1)
    weight = 0.5 * inside / (inside.sum(dim=1, keepdim=True) + 1) + 0.5 * outside / (
        outside.sum(dim=1, keepdim=True) + 1
    )
    both = (own * wanted).flatten(1).sum(dim=1)
    sizes = (wanted.square() + own.square()).flatten(1).sum(dim=1)  # squares: least where both are equal, soft or not
    return ((divergence * weight).sum(dim=1) + 1 - (2 * both + 1) / (sizes + 1)).mean()


def moves_unlike(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
    """By how much the student's answer changes otherwise than the teacher's from one prompt to the next.

    Args:
        first, second: (student's, teacher's) probabilities of any one shape, by prompt.

    Returns:
        Squared difference of the changes, summed, as a share of the teacher's mask.
    """
    change = (second[0] - first[0]) - (second[1] - first[1])
    return change.square().sum() / (second[1].sum() + 1)


def overlap(found: Any, reference: Any) -> float:
    """DSC of two masks; 1 where both are empty."""
    both, total = float((found & reference).sum()), float(found.sum() + reference.sum())
    return 2 * both / total if total else 1.0
