"""`sam(size=nano)`: SAM's own net, small, trained from nothing on slices of procedural worlds and bodies.

An image is encoded once and asked several rounds: a box, points or both; then clicks in the middle of the largest
error, with the logits of the round before as mask prompt. Losses as SAM's (Kirillov et al., arXiv 2304.02643, appendix
A), with cross-entropy in place of focal loss; for a lone point the best of three candidates learns.
"""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segwise import assemble
from segwise.nets import sam_sizes
from segwise.nets.contract import Decoded, Marks
from segwise.nets.sam import SamNet
from segwise.segmenter import Frame, Parts
from segwise.spec import Spec
from segwise.training import halves
from segwise.training.beside import Beside
from segwise.training.contract import Measures, Recipe, Settings
from segwise.training.slices import EARLY, LATE, Clip, Slices, asked, clicked, first_words, mask_loss, overlaps, shown

NAME, FILE = "sam-nano", "sam_nano.safetensors"
CONFIG = {"decoder_num_heads": sam_sizes.NANO_HEADS}
STEPS = 10000
EASY = 400  # batches that are zoomed to a target and asked with a box
VIEWS, TARGETS = 4, 6
BODIES = 0.65  # share of the scenes
ROUNDS = (1, 1, 2)  # drawn a batch
MAKES = ((True, 0), (False, 1), (False, 2), (False, 3), (True, 1))  # a box, points
SHARES = (0.5, 0.22, 0.08, 0.08, 0.12)
FRESH = 64  # batches after which all worlds of a stream are new
VALID_BATCHES = 6


@dataclass
class Prompted:
    """The objective.

    Attributes:
        net: hands out all candidates, small.
        frame: its preprocessing.
        held_out: the stream of batches that are never trained on.
    """

    net: Beside
    frame: Frame[Any]
    held_out: Slices

    @functools.cached_property
    def valid(self) -> list[list[Clip]]:
        """Batches of worlds that share nothing."""
        return [self.held_out.batch(FRESH * i) for i in range(VALID_BATCHES)]

    def losses(self, batch: list[Clip], rng: np.random.Generator) -> Iterator[tuple[Tensor, Measures]]:
        """One step a batch: the mean over all rounds."""
        early = batch[0].early
        box, points = MAKES[0 if early else int(rng.choice(len(MAKES), p=SHARES))]
        rounds = self.rounds(batch, rng, box=box, points=points, n=1 if early else int(rng.choice(ROUNDS)))
        loss = torch.stack([loss for loss, _ in rounds]).mean()
        yield loss, {f"dsc_{i}": score for i, (_, score) in enumerate(rounds)}

    def validate(self) -> Measures:
        """Mean DSC of a box, of a point, and of two clicks after a box."""
        found: dict[str, list[float]] = {}
        for i, batch in enumerate(self.valid):
            for name, box, n in (("box", True, 3), ("point", False, 1)):
                rng = np.random.default_rng([i, 9])
                rounds = self.rounds(batch, rng, box=box, points=int(not box), n=n)
                found.setdefault(name, []).append(rounds[0][1])
                if box:
                    found.setdefault("clicks", []).append(rounds[-1][1])
        return {key: float(np.mean(values)) for key, values in found.items()}

    def rounds(
        self, batch: list[Clip], rng: np.random.Generator, *, box: bool, points: int, n: int
    ) -> list[tuple[Tensor, float]]:
        """(loss, mean DSC) of each round."""
        size = self.net.inner.prompt_encoder.size[0]
        views = torch.from_numpy(np.stack([clip.views[0] for clip in batch]))
        features = self.net.inner.encode(views)
        owners = [(i, k) for i, clip in enumerate(batch) for k in range(len(clip.masks))]
        images = [i for i, _ in owners]
        shapes = [(int(batch[i].masks.shape[2]), int(batch[i].masks.shape[3])) for i in images]
        said = [first_words(batch[i].masks[k, 0] >= 128, rng, box=box, n_points=points) for i, k in owners]
        wanted = torch.cat([shown(clip.masks[:, 0], clip.extent, size) for clip in batch])
        low_res: Tensor | None = None
        done = []
        for turn in range(n):
            marks = asked(self.frame, said, images, shapes)
            marks = Marks(marks.image, marks.points, marks.signs, marks.boxes, low_res)
            decoded = self.net.inner.decode(features, marks)
            loss, score = _judged(decoded, wanted, balance=EARLY if batch[0].early else LATE)
            done.append((loss + self.net.loss(views[images, :1, 0], marks.boxes), score))
            best = _best(decoded).detach()
            low_res = best if rng.random() < 0.85 else None
            if turn + 1 < n:
                said = clicked(said, best, wanted, [batch[i].extent for i in images], shapes)
        return done


def _judged(decoded: Decoded, wanted: Tensor, *, balance: float) -> tuple[Tensor, float]:
    """Loss of the candidates that fit, and the mean DSC of the one that is handed out."""
    assert decoded.quality is not None
    logits, quality = decoded.logits[:, :, 0], decoded.quality.float()
    fit = torch.isfinite(quality[0])
    logits, quality = logits[:, fit], quality[:, fit]
    losses = mask_loss(logits, wanted, balance=balance)
    ious, dscs = overlaps(logits, wanted)
    own = losses.min(dim=1).values + 0.05 * losses.mean(dim=1) if losses.shape[1] > 1 else losses[:, 0]
    handed = dscs.gather(1, quality.argmax(dim=1, keepdim=True))
    return own.mean() + ((quality - ious) ** 2).mean(), float(handed.mean())


def _best(decoded: Decoded) -> Tensor:
    """[Q, 1, h, w]: the logits that the next round takes back."""
    assert decoded.quality is not None and decoded.low_res is not None
    best = decoded.quality.argmax(dim=1)
    return decoded.low_res[torch.arange(len(best)), best][:, None]


def untrained(seed: int) -> Parts:
    """A net with weights drawn from a seed, and its frame: loaded as any checkpoint of SAM is."""
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        torch.save(sam_sizes.nano().state_dict(), Path(folder) / "checkpoint.pth")
        (Path(folder) / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
        segmenter = assemble.segmenter(Spec("sam", {"checkpoint": folder}))
        return segmenter.parts  # type: ignore[attr-defined,no-any-return]


def recipe(*, seed: int = 0, steps: int | None = None) -> Recipe:
    """All of the training.

    Args:
        seed: of weights, worlds and prompts.
        steps: of the schedule; None for those of the weights in the package.
    """
    parts = untrained(seed)
    net: SamNet = parts.net.requires_grad_(True)
    net.candidates, net.enlarge = "auto", False
    stream = Slices(parts.frame, seed=seed, views=VIEWS, targets=TARGETS, easy_until=EASY, bodies=BODIES)
    held_out = Slices(parts.frame, seed=seed + 500, views=VIEWS, targets=TARGETS, bodies=BODIES)
    objective = Prompted(Beside(net, net.mask_decoder), parts.frame, held_out)

    def save(folder: Path, trained: nn.Module, known: Mapping[str, Any]) -> list[Path]:
        assert isinstance(trained, Beside)
        return halves.save(folder / FILE, trained.inner, known, config=CONFIG)

    return Recipe(
        name=NAME,
        objective=objective,
        stream=stream,
        settings=Settings(
            steps=steps or STEPS, rate=1.5e-3, warmup=100, decay=0.02, precision="fp32", seed=seed, validate_every=400
        ),
        save=save,
        note="nano, trained on synthetic data: slices of procedural worlds and bodies",
    )
