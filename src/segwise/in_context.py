"""From a user's labelled cases to a support set: what `segwise adapt universeg DATA` does. Nothing is trained.

Slices of the training subjects with masks of each structure are put beside the net in a model folder; which of them a
query meets is drawn now (random) or chosen when it is asked (like).
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segwise import catalog
from segwise.case import Case
from segwise.errors import SegwiseError, SpecError, TrainingError
from segwise.geometry import Array, regrid
from segwise.learn import Chosen, Who, cases_of, told
from segwise.models.universeg import CHOICES, NANO, SUPPORT, SupportFrame, bare
from segwise.spec import Spec, parse
from segwise.training import loop
from segwise.weights import folders

WEIGHTS, CONFIG = "checkpoint.pth", "config.json"
POOL = 4  # times the support set: slices a structure that are kept to choose the most alike from
LEAST = 10  # pixels of a structure on a view, for the slice to show it
WITHOUT = 4  # one slice in so many does not show the structure
Tick = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Written:
    """A support set.

    Attributes:
        names: of the structures.
        subjects: how many persons' slices it holds.
        pool: slices a structure.
        files: of the model folder.
    """

    names: tuple[str, ...]
    subjects: int
    pool: int
    files: tuple[Path, ...]


def fits(model: str) -> bool:
    """Whether a model is adapted by a support set (`adapt`), without any training."""
    return parse(model).name == "universeg"


def adapt(
    model: str,
    who: Who,
    out: Path,
    *,
    support: int | None = None,
    choose: str = "",
    pool: int | None = None,
    command: Sequence[str] = (),
    tick: Tick | None = None,
    study: Mapping[str, str | int] | None = None,
) -> Written:
    """Write the model folder.

    Args:
        model: spec, as "universeg" with the small net that comes with Segwise, 'universeg(checkpoint=FILE)' with
            another's weights; support= and choose= may stand in it.
        who: see `learn.Who`; validation subjects are not used.
        out: the folder.
        support: slices of the set that a query meets; None: as the spec says, else 16.
        choose: "random" or "like"; "": as the spec says, else "like".
        pool: slices a structure to choose from; None: 4 times as many with "like", as many with "random".
        command: what the user typed.
        tick: told how far the cases are.
        study: which part of a study this is, for model.json.

    Raises:
        SpecError: choose is none of these, or support no number of slices. WeightsError: no weights of the net, or
            the folder holds another model.
        TrainingError: nothing to learn from, or a structure is on no slice.
    """
    began = time.monotonic()
    spec, checkpoint, support, choose = _settled(model, support, choose)
    folders.free(out, lambda there: parse(there.spec).name == spec.name)
    net, size = bare(checkpoint)
    chosen = cases_of(who, out)
    frame = SupportFrame(names=chosen.names, size=size)
    pool = pool or support * (POOL if choose == "like" else 1)
    seen = []
    for i, case in enumerate(chosen.train):
        if tick is not None:
            tick(i, len(chosen.train), case.id)
        seen.append(_slices(case, frame, chosen.names))
    images, masks = _drawn(seen, chosen.names, pool, who.seed)
    tensors = dict(net.state_dict()) | {"images": torch.from_numpy(images), "masks": torch.from_numpy(masks)}
    config = {"size": size, "names": list(chosen.names), "support": support, "choose": choose}
    how = {"pool": pool, "seed": who.seed, "command": shlex.join(command), **(study or {})}
    _written(out, spec, tensors, config, chosen, how | {"seconds": round(time.monotonic() - began, 1)})
    files = (out / WEIGHTS, out / CONFIG, out / folders.CARD_FILE)
    return Written(chosen.names, len(chosen.split.train), pool, files)


def _settled(model: str, support: int | None, choose: str) -> tuple[Spec, str | None, int, str]:
    """(spec of the folder to be, checkpoint, support, choose), of a spec and what is given beside it."""
    spec = parse(model)
    given = catalog.member("models", spec.name).arguments(spec)
    if spec.plus:
        raise SpecError(f"{spec}: a support set is not trained; expected {spec.base}")
    if given["size"] and given["checkpoint"] is not None:
        raise SpecError(f"{spec}: expected size= or checkpoint=, not both")
    asked = given["support"] if support is None else support
    support = SUPPORT if asked is None else int(str(asked))
    choose = choose or str(given["choose"] or CHOICES[0])
    if choose not in CHOICES or support < 1:
        raise SpecError(f"support {support}, choose {choose}: expected 1 slice or more, and {' or '.join(CHOICES)}")
    checkpoint = None if given["checkpoint"] is None else str(given["checkpoint"])
    said: dict[str, str | int] = {} if checkpoint else {"size": NANO}
    said |= {} if support == SUPPORT else {"support": support}
    said |= {} if choose == CHOICES[0] else {"choose": choose}
    return Spec(spec.name, said), checkpoint, support, choose


def _written(
    out: Path, spec: Spec, tensors: dict[str, Any], config: dict[str, Any], chosen: Chosen, how: dict[str, Any]
) -> None:
    folders.write(
        out,
        spec=str(spec),
        files={WEIGHTS: tensors, CONFIG: json.dumps(config, indent=1).encode()},
        data=told(chosen),
        trained={**how, **config, "versions": loop.versions(), "date": f"{datetime.now(UTC):%Y-%m-%d}"},
    )


def _slices(case: Case, frame: SupportFrame, names: Sequence[str]) -> tuple[Array, Array]:
    """uint8 [D, S, S] and [K, D, S, S]: all slices of a case as views, 0 or 1 where a structure is.

    Raises:
        TrainingError: the case cannot be read.
    """
    try:
        volume = case.volume()
        asked = [name for name in names if case.structure(name) is not None]
        masks = [target.mask for target in case.targets(tuple(asked), volume.grid)] if asked else []
    except SegwiseError as error:
        raise TrainingError(f"case {case.id} cannot be read: {error}") from error
    prepared = frame.prepare(volume)
    n = prepared.grid.shape[0]
    windows = [frame.window(prepared.grid, (i, 0, 0)) for i in range(n)]
    images = np.stack([np.rint(frame.view(prepared, w)[0, 0] * 255) for w in windows]).astype(np.uint8)
    found = np.zeros((len(names), *images.shape), dtype=np.uint8)
    for name, mask in zip(asked, masks, strict=True):
        soft = regrid(mask.astype(np.float32), volume.grid, prepared.grid, order=1, outside=0.0)
        found[list(names).index(name)] = np.stack([frame.stretched(part) >= 0.5 for part in soft])
    return images, found


def _drawn(seen: Sequence[tuple[Array, Array]], names: Sequence[str], pool: int, seed: int) -> tuple[Array, Array]:
    """uint8 [K, pool, S, S] images and masks: of every case in turn, one slice in four without the structure.

    Raises:
        TrainingError: no slice of any case shows a structure.
    """
    images, masks = [], []
    for k, name in enumerate(names):
        rng = np.random.default_rng([seed, 41, k])
        there, absent = _turns(seen, k, rng, shown=True), _turns(seen, k, rng, shown=False)
        if not there:
            raise TrainingError(
                f"{name} is on no slice of the {len(seen)} training cases; expected every structure in one at least: "
                "leave it out with --target, or choose another split"
            )
        few = pool // WITHOUT if absent else 0
        order = [there[i % len(there)] for i in range(pool - few)] + [absent[i % len(absent)] for i in range(few)]
        order = [order[i] for i in rng.permutation(pool)]  # so that the first ones are a fair draw
        images.append(np.stack([seen[c][0][i] for c, i in order]))
        masks.append(np.stack([seen[c][1][k, i] for c, i in order]))
    return np.stack(images), np.stack(masks)


def _turns(
    seen: Sequence[tuple[Array, Array]], k: int, rng: np.random.Generator, *, shown: bool
) -> list[tuple[int, int]]:
    """(case, slice): those that show a structure, or do not, in an order drawn at random, one of each case in turn."""
    by_case = []
    for c, (_, masks) in enumerate(seen):
        counts = masks[k].sum(axis=(1, 2))
        fit = np.flatnonzero(counts >= LEAST if shown else counts == 0)
        by_case.append([(c, int(i)) for i in rng.permutation(fit)])
    most = max(map(len, by_case), default=0)
    order = rng.permutation(len(by_case))
    return [by_case[c][i] for i in range(most) for c in order if i < len(by_case[c])]
