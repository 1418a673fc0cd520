"""`sam2(size=nano)`: SAM 2's own net, small, trained from nothing on slices and clips of procedural worlds and bodies.

First single slices, as an image net learns to answer a box or points; then clips: the first slice is prompted, the
others are answered by what is remembered. Losses as SAM 2's (Ravi et al., arXiv 2408.00714, appendix D), with
cross-entropy in place of focal loss: without a box the best of three candidates learns, presence always.
"""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segwise import assemble
from segwise.nets import sam2_sizes
from segwise.nets.contract import Decoded, Marks, Tree
from segwise.nets.sam2 import ABSENT, CLAMP, Sam2Net
from segwise.segmenter import Frame, Parts
from segwise.spec import Spec
from segwise.training import halves
from segwise.training.contract import Measures, Recipe, Settings
from segwise.training.slices import EARLY, LATE, Clip, Slices, asked, clicked, first_words, mask_loss, overlaps, shown

NAME, FILE = "sam2-nano", "sam2_nano.safetensors"
STEPS = 10500
SHORT = 0.4  # share of the steps with single slices only
VIEWS, TARGETS, LONGEST = 4, 6, 6
BODIES = 0.65  # share of the scenes
CALM = 0.1  # balance of the mask loss of clips: more of it pays for masks that grow from slice to slice
TOLD = 0.25  # of the slices that follow remember what should have been answered
SURE = 8.0  # its logits
MAKES = ((True, 0), (False, 1), (False, 2), (True, 1))  # a box, points
SHARES = (0.6, 0.2, 0.08, 0.12)
CLICKED = 0.35  # share of the batches of single slices with a second round: a click
ECHO = 0.4  # share of them that recall the slice itself: what a memory holds is learned before slices differ
FAR = 40  # slices that a prompted one may be said to lie further back than it does
MANY = 1000  # slices of a volume
LEAST = 3  # voxels of a target that is there
EASY = 800  # batches that are zoomed to a target and asked with a box
FRESH = 64  # batches after which all worlds of a stream are new
VALID_BATCHES = 4


class Answer(NamedTuple):
    """What the net said of one slice, and how good it was.

    Attributes:
        decoded: of the candidate that is handed out, as the video predictor hands it out.
        loss: scalar.
        dsc: [Q], where the target is there; else nan.
    """

    decoded: Decoded
    loss: Tensor
    dsc: Tensor


@dataclass
class Followed:
    """The objective.

    Attributes:
        net: SAM 2.
        frame: its preprocessing.
        held_out: the stream of batches that are never trained on.
    """

    net: Sam2Net
    frame: Frame[Any]
    held_out: Slices

    @functools.cached_property
    def valid(self) -> list[list[Clip]]:
        """Batches of worlds that share nothing."""
        return [self.held_out.batch(FRESH * i) for i in range(VALID_BATCHES)]

    def losses(self, batch: list[Clip], rng: np.random.Generator) -> Iterator[tuple[Tensor, Measures]]:
        """One step a batch: the mean over its slices, or over the rounds about single slices."""
        box, points = MAKES[0 if batch[0].early else int(rng.choice(len(MAKES), p=SHARES))]
        answers = self.answers(batch, rng, box=box, points=points)
        loss = torch.stack([answer.loss for answer in answers]).mean()
        single = len(batch[0].views) == 1
        measures = {"dsc": float(answers[0].dsc.nanmean())}
        if len(answers) > 1:
            measures["clicked" if single else "followed"] = float(torch.cat([a.dsc for a in answers[1:]]).nanmean())
        yield loss, {key: value for key, value in measures.items() if np.isfinite(value)}

    def validate(self) -> Measures:
        """Mean DSC of a box on its slice, and of the slices that follow it."""
        first, rest = [], []
        for i, batch in enumerate(self.valid):
            answers = self.answers(batch, np.random.default_rng([i, 9]), box=True, points=0)
            first.append(answers[0].dsc)
            rest += [answer.dsc for answer in answers[1:]]
        return {"box": float(torch.cat(first).nanmean()), "followed": float(torch.cat(rest).nanmean())}

    def answers(self, batch: list[Clip], rng: np.random.Generator, *, box: bool, points: int) -> list[Answer]:
        """Of every slice in order; of single slices, of two rounds."""
        net, n = self.net, len(batch[0].views)
        size = net.sam_prompt_encoder.size[0]
        features = net.encode(torch.from_numpy(np.concatenate([clip.views for clip in batch])))
        owners = [(i, k) for i, clip in enumerate(batch) for k in range(len(clip.masks))]
        clips = torch.tensor([i for i, _ in owners])
        shapes = [(int(batch[i].masks.shape[2]), int(batch[i].masks.shape[3])) for i, _ in owners]
        extents = [batch[i].extent for i, _ in owners]
        said = [first_words(batch[i].masks[k, 0] >= 128, rng, box=box, n_points=points) for i, k in owners]
        wanted = [torch.cat([shown(clip.masks[:, t], clip.extent, size) for clip in batch]) for t in range(n)]
        there = [
            torch.from_numpy(np.array([(batch[i].masks[k, t] >= 128).sum() >= LEAST for i, k in owners]))
            for t in range(n)
        ]

        def marks(low_res: Tensor | None) -> Marks:
            return replace(asked(self.frame, said, range(len(owners)), shapes), low_res=low_res)

        answer = functools.partial(self._answer, balance=EARLY if batch[0].early else LATE if n == 1 else CALM)
        ambiguous = not box and points == 1
        own = _rows(features, clips * n)
        answers = [answer(own, marks(None), wanted[0], there[0], three=ambiguous)]
        draw = rng.random()
        if n == 1 and draw < ECHO:
            kept = answers[0].decoded
            if rng.random() < 0.5:
                kept = replace(kept, logits=_sure(wanted[0], kept.logits))
            memory = net.remember(own, kept, prompted=True)
            recalled = net.recall(own, [memory], [1], prompted=[True], n_slices=MANY)
            echo = self._answer(
                recalled, Marks(torch.arange(len(owners))), wanted[0], there[0], three=False, balance=CALM
            )
            return [*answers, echo]
        if n == 1 and (batch[0].early or draw >= ECHO + CLICKED):
            return answers
        if n == 1:
            low_res = answers[0].decoded.logits[:, :, 0].detach().clamp(-CLAMP, CLAMP)
            said = clicked(said, low_res, wanted[0], extents, shapes)
            return [*answers, answer(own, marks(low_res), wanted[0], there[0], three=False)]
        memories, prompted = [net.remember(own, answers[0].decoded, prompted=True)], [True]
        back, places = int(rng.integers(1, FAR)) if rng.random() < 0.4 else 0, batch[0].places
        for t in range(1, n):
            own = _rows(features, clips * n + t)
            way = 1 if places[t] > 0 else -1
            offsets = [way * places[t] + back, *(way * (places[t] - places[other]) for other in range(1, t))]
            recalled = net.recall(own, memories, offsets, prompted=prompted, n_slices=MANY)
            answers.append(answer(recalled, Marks(torch.arange(len(owners))), wanted[t], there[t], three=False))
            kept = answers[-1].decoded
            if rng.random() < TOLD:
                kept = replace(kept, logits=_sure(wanted[t], kept.logits))
            memories.append(net.remember(own, kept, prompted=False))
            prompted.append(False)
        return answers

    def _answer(
        self, features: Tree, marks: Marks, wanted: Tensor, there: Tensor, *, three: bool, balance: float
    ) -> Answer:
        self.net.candidates = "three" if three else "one"
        decoded = self.net.decode(features, replace(marks, image=torch.arange(len(wanted))))
        assert decoded.quality is not None and decoded.presence is not None
        logits, quality = decoded.logits[:, :, 0], decoded.quality.float()
        losses = mask_loss(logits, wanted, balance=balance)
        ious, dscs = overlaps(logits, wanted)
        own = losses.min(dim=1).values + 0.1 * losses.mean(dim=1) + ((quality - ious) ** 2).mean(dim=1)
        shares = there / there.sum().clamp(min=1)
        presence = F.binary_cross_entropy_with_logits(decoded.presence.float(), there.float())
        best = quality.argmax(dim=1)
        rows = torch.arange(len(best))
        seen = (decoded.presence > 0)[:, None, None, None]
        handed = torch.where(seen, logits[rows, best][:, None].float(), ABSENT)
        said = Decoded(handed[:, :, None], presence=decoded.presence, pointer=decoded.pointer)
        dsc = torch.where(there, torch.where(decoded.presence > 0, dscs[rows, best], 0.0), torch.nan)
        return Answer(said, (own * shares).sum() + 0.5 * presence, dsc)


def _rows(features: Tree, rows: Tensor) -> Tree:
    return {key: value[rows] for key, value in features.items()}


def _sure(wanted: Tensor, like: Tensor) -> Tensor:
    """Logits [Q, 1, 1, h, w] of the targets [Q, H, W] themselves."""
    shares = F.interpolate(wanted[:, None], like.shape[-2:], mode="area")
    return ((2 * shares - 1) * SURE)[:, :, None]


def untrained(seed: int) -> Parts:
    """A net with weights drawn from a seed, and its frame: loaded as any checkpoint of SAM 2 is."""
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        torch.save(sam2_sizes.nano().state_dict(), Path(folder) / "checkpoint.pth")
        (Path(folder) / "config.json").write_text(json.dumps(sam2_sizes.NANO), encoding="utf-8")
        segmenter = assemble.segmenter(Spec("sam2", {"checkpoint": folder, "lift": "memory"}))
        return segmenter.parts  # type: ignore[attr-defined,no-any-return]


def recipe(*, seed: int = 0, steps: int | None = None) -> Recipe:
    """All of the training.

    Args:
        seed: of weights, worlds and prompts.
        steps: of the schedule; None for those of the weights in the package.
    """
    steps = steps or STEPS
    parts = untrained(seed)
    net: Sam2Net = parts.net.requires_grad_(True)
    net.video = False  # absent slices are filled by the objective, so that their logits learn
    frame = parts.frame
    stream = Slices(
        frame,
        seed=seed,
        views=VIEWS,
        targets=TARGETS,
        n_slices=LONGEST,
        longer_from=int(SHORT * steps),
        easy_until=EASY,
        thickest=8.0,
        bodies=BODIES,
    )
    held_out = Slices(
        frame, seed=seed + 500, views=LONGEST, targets=TARGETS, n_slices=LONGEST, single=0.0, bodies=BODIES
    )
    objective = Followed(net, frame, held_out)

    def save(folder: Path, trained: nn.Module, known: Mapping[str, Any]) -> list[Path]:
        return halves.save(folder / FILE, trained, known, config=sam2_sizes.NANO)

    return Recipe(
        name=NAME,
        objective=objective,
        stream=stream,
        settings=Settings(
            steps=steps, rate=1e-3, warmup=40, decay=0.02, precision="fp32", seed=seed, validate_every=300
        ),
        save=save,
        note="nano, trained on synthetic data: slices and clips of procedural worlds and bodies",
    )
