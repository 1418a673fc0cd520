"""A quality score that needs no reference: how far the masks of one target agree with each other.

Source: mean pairwise Dice of an ensemble is the best of the scores that Zenk et al. (arXiv 2406.03323) compare for
failure detection; Roy et al. (arXiv 1811.09800, section 3.3) for samples of one network. Here the ensemble is what a
run holds anyway: the draws of a prompter (a user who would have drawn the box a little differently) and other models.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from segwise.evaluate.masks import Masks
from segwise.geometry import Array
from segwise.records.run import Run
from segwise.records.types import Record, Score

SEEDS, MODELS = "agreement_seeds", "agreement_models"
METRIC = "agreement"
Known = Mapping[tuple[str, str, int, str, str], tuple[str, str]]


def add(run: Run, records: Sequence[Record], known: Known) -> int:
    """Write the agreement of the last masks of each target of one case where it is not known yet; how many.

    Args:
        run: opened for writing.
        records: of one case.
        known: (task, target, round, measure, metric) -> (digest of the masks compared, mask) of what is there.
    """
    by_target: dict[str, dict[str, Record]] = defaultdict(dict)
    for record in sorted(records, key=lambda r: r.round):
        if record.status == "done" and not record.doubt:
            by_target[record.target][record.task] = record
    new = []
    for ensemble in by_target.values():
        found = _scores(run, sorted(ensemble.values(), key=lambda r: r.task), known)
        new += found
    run.add_scores(new)
    return len(new)


def _scores(run: Run, ensemble: Sequence[Record], known: Known) -> list[Score]:
    made: list[Score] = []
    masks: dict[str, Array] = {}
    for record in ensemble:
        own = [r for r in ensemble if r.model == record.model and r.prompter == record.prompter]
        others = [r for r in ensemble if r.model != record.model]
        for measure, compared in ((SEEDS, own), (MODELS, others)):
            digest = hashlib.blake2b("".join(r.mask for r in compared).encode(), digest_size=16).hexdigest()
            key = (record.task, record.target, record.round, measure, METRIC)
            if len(compared) < (2 if measure == SEEDS else 1) or known.get(key) == (digest, record.mask):
                continue
            masks = masks or {r.mask: Masks.of(run).get(r.mask)[0] for r in ensemble}
            value = _among(own, masks) if measure == SEEDS else _with(record, others, masks)
            made.append(
                Score(
                    task=record.task,
                    target=record.target,
                    round=record.round,
                    measure=measure,
                    metric=METRIC,
                    value=value,
                    reference=digest,
                    mask=record.mask,
                )
            )
    return made


def _among(records: Sequence[Record], masks: Mapping[str, Array]) -> float:
    """Mean DSC of all pairs."""
    every = [masks[r.mask] for r in records]
    return float(np.mean([dice(a, b) for i, a in enumerate(every) for b in every[:i]]))


def _with(record: Record, others: Sequence[Record], masks: Mapping[str, Array]) -> float:
    """Mean over other models of the mean DSC with their masks."""
    by_model: dict[str, list[float]] = defaultdict(list)
    for other in others:
        by_model[other.model].append(dice(masks[record.mask], masks[other.mask]))
    return float(np.mean([np.mean(values) for values in by_model.values()]))


def dice(one: Array, other: Array) -> float:
    """DSC of two predictions; two empty ones agree: 1. bool [D, H, W]."""
    n = int(np.count_nonzero(one)) + int(np.count_nonzero(other))
    return 2 * int(np.count_nonzero(one & other)) / n if n else 1.0
