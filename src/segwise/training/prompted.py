"""The objective of promptable 2D nets on labelled slices: a first word, then clicks on what is wrong.

Views, marks and the way back to the slice are the frame's own; the loss is taken on the voxels of the slice, where a
user sees the answer. Losses as SAM's (Kirillov et al., arXiv 2304.02643, appendix A) with cross-entropy in place of the
focal loss.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segwise.assemble import Prompter
from segwise.geometry import Grid
from segwise.nets.contract import Decoded, Marks, PromptNet, Tree
from segwise.nets.marks import alike, joined, mapped
from segwise.prompt import Prompt
from segwise.segmenter import Frame
from segwise.training.closed import FOCUS, Loss
from segwise.training.contract import Measures
from segwise.training.marked import Slice

ROUNDS = (1, 1, 2)  # of a batch, drawn
KEPT_BYTES = 2 << 30  # of features of a frozen encoder


class OnSlices:
    """The objective.

    Args:
        net: promptable; what requires a gradient is trained, all else stays as it is, running statistics included.
        frame: its preprocessing, with `restore`.
        user: clicks on errors, or None for a net that takes no points.
        held: slices of the validation subjects, each by itself or with its chunk.
        loss: on the voxels of the slice.
    """

    def __init__(
        self,
        net: PromptNet,
        frame: Frame[Any],
        *,
        user: Prompter | None = None,
        held: Sequence[Sequence[Slice]] = (),
        loss: Loss = "dice-ce",
    ) -> None:
        self.net: PromptNet = net
        self.frame, self.user, self.held, self.loss = frame, user, held, loss
        self.frozen = not any(p.requires_grad for p in net.encoding.parameters())
        self._kept: OrderedDict[str, Tree] = OrderedDict()
        self._bytes = 0
        self.spent_s = 0.0  # on features that are kept
        self._made, self._learned = 0, 0  # of them all, and in training
        self._ways: dict[tuple[int, ...], Tensor] = {}

    def losses(self, batch: Sequence[Slice], rng: np.random.Generator) -> Iterator[tuple[Tensor, Measures]]:
        """One loss a round; a click answers what the net said before its step."""
        still(self.net)
        prompts = [one.prompt for s in batch for one in s.asked]
        seen: list[Any] = [None] * len(prompts)
        n = int(rng.choice(ROUNDS)) if self.user is not None else 1
        for k in range(n):
            answers, scores, left = self._round(batch, prompts, seen)
            loss = torch.stack(answers).mean()
            yield loss, {f"dsc{k}": float(np.mean(scores))}
            if k + 1 < n:
                prompts = self._clicked(batch, prompts, [found for found, _ in left])
                seen = [logits for _, logits in left]

    @torch.no_grad()
    def validate(self) -> Measures:
        """Mean DSC on the held slices after the first word, and after a click where the net takes one."""
        found: dict[str, list[float]] = {}
        for some in self.held:
            prompts: list[Prompt] = [q.prompt for one in some for q in one.asked]
            _, scores, left = self._round(some, prompts, [None] * len(prompts))
            found.setdefault("dsc", []).extend(scores)
            if self.user is not None:
                prompts = self._clicked(some, prompts, [mask for mask, _ in left])
                _, scores, _ = self._round(some, prompts, [logits for _, logits in left])
                found.setdefault("clicked", []).extend(scores)
        return {key: float(np.mean(values)) for key, values in found.items()}

    def _round(
        self, batch: Sequence[Slice], prompts: Sequence[Prompt], seen: Sequence[Any]
    ) -> tuple[list[Tensor], list[float], list[tuple[Any, Any]]]:
        """Losses, DSC, and (mask bool [1, H, W], logits for the next round) of all queries in order."""
        features = self._features(batch)
        owners = [(i, k) for i, s in enumerate(batch) for k in range(len(s.asked))]
        asked = [
            self._asked(prompt, batch[i].window, before, i)
            for (i, _), prompt, before in zip(owners, prompts, seen, strict=True)
        ]
        losses: dict[int, Tensor] = {}
        scores: dict[int, float] = {}
        left: dict[int, tuple[Any, Any]] = {}
        device = next(self.net.parameters()).device
        for members in alike(asked).values():
            marks = joined([asked[q] for q in members])
            marks = Marks(**{f: mapped(lambda x: x.to(device), v) for f, v in vars(marks).items() if v is not None})
            decoded = self.net.decode(features, marks)
            for row, q in enumerate(members):
                i, k = owners[q]
                one = batch[i]
                best = 0 if decoded.quality is None else int(decoded.quality[row].argmax())
                wanted = torch.from_numpy(one.asked[k].mask[0].astype(np.float32)).to(device)
                logits = self._on_slice(decoded.logits[row, best, 0].float(), one.window)
                losses[q], scores[q] = _judged(logits, wanted, _quality(decoded, row, best), self.loss)
                left[q] = ((logits.detach() > 0).cpu().numpy()[None], self._carried(decoded, row, best))
        order = range(len(owners))
        return [losses[q] for q in order], [scores[q] for q in order], [left[q] for q in order]

    def _carried(self, decoded: Decoded, row: int, best: int) -> Any:
        """float32 [1, h, w] for the next round, or None if the frame does not carry it."""
        if not getattr(self.frame, "carries", False) or decoded.low_res is None:
            return None
        own = decoded.low_res[row, best if best < decoded.low_res.shape[1] else 0]
        return own[None].detach().float().cpu().numpy()

    def _asked(self, prompt: Prompt, window: Grid, seen: Any, image: int) -> Marks:
        marks = self.frame.marks(prompt, window, seen)
        own = {name: value[:1] for name, value in vars(marks).items() if isinstance(value, Tensor)}
        own["image"] = torch.full((1,), image, dtype=torch.int64)
        return Marks(**own)

    def _features(self, batch: Sequence[Slice]) -> Tree:
        """Of all views, together; those of a frozen encoder are kept, so that a view is encoded once.

        Not those of chunks: what a slice's features are depends on its neighbours.
        """
        device = next(self.net.parameters()).device
        if not self.frozen or getattr(self.frame, "chunk", 1) > 1:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
                return self.net.encode(torch.from_numpy(np.stack([s.view for s in batch])).to(device))
        found = [self._frozen(s, device) for s in batch]
        return mapped_together(found)

    def _frozen(self, one: Slice, device: torch.device) -> Tree:
        if one.key and one.key in self._kept:
            self._kept.move_to_end(one.key)
            return self._kept[one.key]
        begun, learns = _now(device), torch.is_grad_enabled()
        with torch.no_grad():
            made = self.net.encode(torch.from_numpy(one.view)[None].to(device))
        if one.key:
            self._made, self._learned = self._made + 1, self._learned + learns
            self.spent_s += _now(device) - begun
            self._kept[one.key] = made
            self._bytes += _size(made)
            while self._bytes > KEPT_BYTES and len(self._kept) > 1:
                self._bytes -= _size(self._kept.popitem(last=False)[1])
        return made

    def to_come(self, views: int, draws: int) -> tuple[int, float]:
        """What features that are kept take in a training, after a probe of it: (bytes more, seconds of encoding).

        Args:
            views: different ones that there are to learn from.
            draws: of a view in all batches, each as likely as the other.
        """
        if not self._kept or not views:
            return 0, 0.0
        each = self._bytes / len(self._kept)
        different = views * (1 - (1 - 1 / views) ** draws)
        room = KEPT_BYTES / each
        encoded = different if different <= room else max(different, draws * (1 - room / views))
        grown = min(KEPT_BYTES, self._bytes + max(0.0, different - self._learned) * each) - self._bytes
        held = self._made - self._learned
        return int(max(0.0, grown)), (encoded + held) * self.spent_s / self._made

    @property
    def rounds(self) -> float:
        """Steps of a batch, on average."""
        return 1.0 if self.user is None else float(np.mean(ROUNDS))

    def _on_slice(self, logits: Tensor, window: Grid) -> Tensor:
        """Logits [h, w] that cover a view, at the voxels of the slice [H, W]: as `frame.restore`, with gradients."""
        key = (*window.shape[1:], *logits.shape)
        if key not in self._ways:
            self._ways[key] = way_back(self.frame, window, tuple(logits.shape))
        grid = self._ways[key].to(logits.device)
        own = logits[None, None]
        return F.grid_sample(own, grid[None], mode="bilinear", padding_mode="border", align_corners=True)[0, 0]

    def _clicked(self, batch: Sequence[Slice], prompts: Sequence[Prompt], masks: Sequence[Any]) -> list[Prompt]:
        said, q = [], 0
        for s in batch:
            for k in range(len(s.asked)):
                assert self.user is not None
                more = self.user.next(s.target(k), prompts[q], masks[q], q)
                said.append(prompts[q] if more is None else more)
                q += 1
        return said


def way_back(frame: Any, window: Grid, shape: tuple[int, ...]) -> Tensor:
    """float32 [H, W, 2]: where the voxels of a slice lie on logits of some shape, (column, row) from -1 to 1.

    `frame.restore` is linear interpolation along each axis: what it makes of the rows' and columns' own numbers is
    where each voxel takes its value from.
    """
    h, w = shape
    ramps = np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing="ij")).astype(np.float32)
    rows, columns = frame.restore(ramps[None, :, None], window)[0, :, 0]
    places = np.stack([columns / max(w - 1, 1), rows / max(h - 1, 1)], axis=-1) * 2 - 1
    return torch.from_numpy(places.astype(np.float32))


def still(net: nn.Module) -> None:
    """Frozen modules as in use: no dropout, running statistics that stay."""
    for module in net.modules():
        own = list(module.parameters(recurse=False))
        if isinstance(module, nn.modules.batchnorm._BatchNorm) or (own and not any(p.requires_grad for p in own)):
            module.eval()


def mapped_together(trees: Sequence[Tree]) -> Tree:
    """Trees of tensors joined along the first axis."""
    first = trees[0]
    if isinstance(first, dict):
        return {key: mapped_together([tree[key] for tree in trees]) for key in first}
    if isinstance(first, list | tuple):
        return type(first)(mapped_together([tree[i] for tree in trees]) for i in range(len(first)))
    return torch.cat(list(trees))


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _size(tree: Tree) -> int:
    if isinstance(tree, dict):
        return sum(map(_size, tree.values()))
    if isinstance(tree, list | tuple):
        return sum(map(_size, tree))
    return int(tree.numel() * tree.element_size())


def _quality(decoded: Decoded, row: int, best: int) -> Tensor | None:
    return None if decoded.quality is None else decoded.quality[row, best].float()


def _judged(logits: Tensor, wanted: Tensor, quality: Tensor | None, kind: Loss) -> tuple[Tensor, float]:
    """Soft Dice, cross-entropy or focal loss as asked, the error of the predicted IoU, and the DSC."""
    p = logits.sigmoid()
    wrong = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    loss = torch.zeros((), device=logits.device)
    if "dice" in kind:
        loss = loss + 1 - (2 * (p * wanted).sum() + 1) / (p.sum() + wanted.sum() + 1)
    if "ce" in kind.split("-"):
        loss = loss + wrong.mean()
    if "focal" in kind:
        loss = loss + ((1 - torch.exp(-wrong)) ** FOCUS * wrong).mean()
    found, target = logits.detach() > 0, wanted > 0
    both, total = float((found & target).sum()), float(found.sum() + target.sum())
    if quality is not None and quality.requires_grad:
        loss = loss + 0.1 * (quality - both / max(total - both, 1.0)) ** 2
    return loss, 2 * both / max(total, 1.0)
