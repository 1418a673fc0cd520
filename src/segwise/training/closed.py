"""The objective of nets that answer a closed list of labels: soft Dice and cross-entropy, on every output.

Sources: nnU-Net (Isensee et al., Nat Methods 2021): the two losses summed, deep supervision with halving weights; focal
loss: Lin et al., arXiv 1708.02002.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segwise.nets.contract import ClosedNet
from segwise.segmenter import Frame
from segwise.training.contract import Measures
from segwise.training.patches import Patch, cut, spread
from segwise.training.prepared import Prepared

FOCUS = 2.0  # gamma of the focal loss
CHECKED = 12  # patches of the learning curve
Loss = Literal["dice-ce", "dice-focal", "dice", "ce"]


class Labelled:
    """The objective.

    Args:
        net: channel 0 is background, channel i answers label i.
        frame: its preprocessing.
        held: cases of the validation subjects; () for no learning curve.
        loss: which.
        seed: of the places where the curve is measured.
    """

    def __init__(
        self,
        net: ClosedNet,
        frame: Frame[Any],
        *,
        held: Sequence[Prepared] = (),
        loss: Loss = "dice-ce",
        seed: int = 0,
    ) -> None:
        self.net: ClosedNet = net
        self.frame, self.loss = frame, loss
        self._checked = spread(held, frame.shape, CHECKED, seed)

    def losses(self, batch: Sequence[Patch], rng: np.random.Generator) -> Iterator[tuple[Tensor, Measures]]:
        """One step a batch."""
        device = next(self.net.parameters()).device
        image = torch.from_numpy(np.stack([patch.image for patch in batch])).to(device)
        labels = torch.from_numpy(np.stack([patch.labels for patch in batch])).long().to(device)
        outputs = self.net(image)
        weights = np.array([0.5**i for i in range(len(outputs))])
        weights /= weights.sum()
        total = torch.zeros((), device=device)
        for weight, logits in zip(weights.tolist(), outputs, strict=True):
            total = total + weight * judged(logits.float(), _coarse(labels, logits.shape[2:]), self.loss)
        found = dsc(outputs[0].detach().argmax(dim=1), labels, outputs[0].shape[1])
        yield total, {} if np.isnan(found) else {"dsc": found}

    def validate(self) -> Measures:
        """Mean DSC of the structures over some patches of the validation subjects as one volume."""
        if not self._checked:
            return {}
        device = next(self.net.parameters()).device
        seen, answers, k = [], [], 0
        for case, centre in self._checked:
            image, labels = cut(case, self.frame, centre, self.frame.shape)
            logits = self.net(torch.tensor(image)[None].to(device))[0]  # copies: prepared cases are read only
            seen.append(torch.tensor(labels)[None].long())
            answers.append(logits.argmax(dim=1).cpu())
            k = logits.shape[1]
        found = dsc(torch.cat(answers), torch.cat(seen), k)  # what is painted where nothing is counts, too
        return {} if np.isnan(found) else {"dsc": found}


def judged(logits: Tensor, labels: Tensor, loss: Loss = "dice-ce") -> Tensor:
    """Logits [B, K, D, H, W] against int64 [B, D, H, W]: scalar."""
    total = torch.zeros((), device=logits.device)
    if "dice" in loss:
        total = total + soft_dice(logits.softmax(dim=1), labels)
    if "ce" in loss.split("-"):
        total = total + F.cross_entropy(logits, labels)
    if "focal" in loss:
        wrong = F.cross_entropy(logits, labels, reduction="none")
        total = total + ((1 - torch.exp(-wrong)) ** FOCUS * wrong).mean()
    return total


def soft_dice(chance: Tensor, labels: Tensor) -> Tensor:
    """1 - soft Dice of the classes without background, over the batch as a whole; a class that is nowhere counts
    by what is painted of it."""
    k = chance.shape[1]
    wanted = F.one_hot(labels, k).movedim(-1, 1)[:, 1:].to(chance.dtype)
    axes = (0, 2, 3, 4)
    both = (chance[:, 1:] * wanted).sum(dim=axes)
    total = chance[:, 1:].sum(dim=axes) + wanted.sum(dim=axes)
    return 1 - ((2 * both + 1e-5) / (total + 1e-5).clamp(min=1e-8)).mean()


def dsc(found: Tensor, labels: Tensor, k: int) -> float:
    """Mean DSC of the structures that are in `labels`; nan without one."""
    scores = []
    for label in range(1, k):
        wanted, own = labels == label, found == label
        if wanted.any():
            scores.append(2 * float((wanted & own).sum()) / float(wanted.sum() + own.sum()))
    return float(np.mean(scores)) if scores else float("nan")


def _coarse(labels: Tensor, shape: Sequence[int]) -> Tensor:
    """Labels on a coarser output: the nearest voxel's."""
    if tuple(labels.shape[1:]) == tuple(shape):
        return labels
    return F.interpolate(labels[:, None].float(), tuple(shape), mode="nearest-exact")[:, 0].long()
