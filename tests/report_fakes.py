"""Synthetic runs for the tests of the report: records, scores and crops with planted truths."""

from __future__ import annotations

import numpy as np

from segwise.records.types import Record, Score, Task

Run = tuple[list[Record], list[Score]]

CARDS = {
    "general": {"title": "General net", "family": "generalist", "licence_weights": "Apache-2.0", "parameters_m": 9.8,
                "training_sets": ["AMOS"], "training_note": "part of the list is not public", "summary": "Any box."},
    "special": {"title": "Special net", "family": "specialist", "licence_weights": "CC BY-NC 4.0", "parameters_m": 0.1,
                "training_sets": [], "training_note": "", "non_commercial": True, "summary": "Six structures."},
    "floor": {"title": "No weights", "family": "floor", "summary": "A cheapest path."},
}  # fmt: skip


def outcome(
    model: str = "general",
    prompter: str = "box2d",
    *,
    case: str = "case1",
    subject: str = "",
    target: str = "liver",
    seed: int = 0,
    dsc: tuple[float | None, ...] = (0.8,),
    status: str = "done",
    reason: str = "",
    modality: str = "CT",
    quality: str = "gold",
    n_interactions: int = 1,
    seconds: float = 2.0,
    weights: str = "4f2a91c0ffee",
    dataset: str = "mine",
    card: dict[str, object] | None = None,
    resolved: dict[str, object] | None = None,
) -> Run:
    """Records and scores of one target, a round a value of `dsc`."""
    task = Task(
        model=model,
        prompter=prompter,
        dataset=dataset,
        layout="pair",
        root="",
        case=case,
        subject=subject or case,
        seed=seed,
        targets=(target,),
    )
    provenance = {
        "card": CARDS.get(model.split("(")[0], {}) if card is None else card,
        "versions": {"segwise": "0.1.0", "numpy": "2.0"},
        "git": "0123abcd",
        "weights": weights,
        "quality": quality,
    }
    records, scores = [], []
    for n, value in enumerate(dsc):
        records.append(
            Record(
                task=task.id,
                target=target,
                round=n,
                status=status,
                reason=reason,
                model=model,
                prompter=prompter,
                dataset=dataset,
                case=case,
                subject=subject or case,
                seed=seed,
                modality=modality,
                n_interactions=n_interactions + n,
                seconds={"read_s": 0.1, "encode_s": seconds * 0.7, "prompt_s": 0.01, "decode_s": seconds * 0.2}
                if status == "done"
                else {},
                peak_bytes=1_200_000_000,
                resolved=resolved or {},
                provenance=provenance,
            )
        )
        if status == "done":
            scores += _scores(task.id, target, n, value, reason)
    return records, scores


def _scores(task: str, target: str, n: int, value: float | None, reason: str) -> list[Score]:
    def one(measure: str, metric: str, found: float | None) -> Score:
        return Score(task=task, target=target, round=n, measure=measure, metric=metric, value=found, reason=reason)

    part = None if value is None else min(1.0, value + 0.05)
    return [
        one("DSC", "overlap", value),
        one("sensitivity", "overlap", None if value is None else max(0.0, value - 0.1)),
        one("precision", "overlap", part),
        one("NSD", "surface(tolerance_mm=2)", part),
        one("HD95", "surface(tolerance_mm=2)", None if value is None else 30 * (1 - value)),
    ]


def join(*runs: Run) -> Run:
    """Several runs as one."""
    return [r for records, _ in runs for r in records], [s for _, scores in runs for s in scores]


def study(n_subjects: int = 12, *, lead: float = 0.08, seed: int = 0) -> Run:
    """A run as a lab would make it: three arms and a fourth of clicks, two modalities, failures and skips."""
    rng = np.random.default_rng(seed)
    targets = ("left kidney", "right kidney", "liver", "spleen", "pancreas")
    runs = []
    for s in range(n_subjects):
        subject = rng.normal(0, 0.05)
        for t, target in enumerate(targets):
            common = {"case": f"case{s:02}", "target": target, "modality": "MR" if s % 3 == 0 else "CT"}
            common["quality"] = "silver" if s % 4 == 0 else "gold"

            def value(mean: float, subject: float = subject, t: int = t) -> float:
                return float(np.clip(mean + subject - 0.06 * t + rng.normal(0, 0.05), 0, 0.99))

            runs.append(outcome("general", "box2d", dsc=(value(0.78),), n_interactions=14, seconds=9, **common))
            failed = s == 5 and t == 4
            how = {"status": "failed", "reason": "out of memory: 9 GB asked, 8 GB there"} if failed else {}
            dsc = (value(0.78 + lead),)
            runs.append(outcome("special", "name", dsc=dsc, n_interactions=0, seconds=3, **common, **how))
            rounds = tuple(sorted(value(m) for m in (0.35, 0.52, 0.6, 0.66, 0.69)))
            runs.append(outcome("floor", "clicks(n=5)", dsc=rounds, seconds=0.4, **common))
            absent = {"status": "skipped", "reason": "the target is absent"} if t == 3 and s < 3 else {}
            runs.append(outcome("floor", "box3d", dsc=(value(0.55),), seconds=0.5, **common, **absent))
    return join(*runs)


def crop(*, shape: tuple[int, int] = (60, 80)) -> dict[str, np.ndarray]:
    """Three planes with two shifted discs."""
    h, w = np.mgrid[: shape[0], : shape[1]]
    noise = np.random.default_rng(0).integers(0, 40, shape)
    found: dict[str, np.ndarray] = {}
    for i in range(3):
        reference = (h - 30) ** 2 + (w - 40) ** 2 < (14 + 3 * i) ** 2
        prediction = (h - 34) ** 2 + (w - 44) ** 2 < (13 + 2 * i) ** 2
        found |= {f"image{i}": (60 + 90 * reference + noise).astype(np.uint8), f"reference{i}": reference}
        found |= {f"prediction{i}": prediction, f"spacing{i}": np.array([2.0 if i else 1.0, 1.0])}
    return found


def profile(areas: list[int], *, first: int = 3) -> dict[str, np.ndarray]:
    """Slices of a reference of 40, 80, 80, 40 voxels from `first` on, and of a prediction inside or around it."""
    reference = np.array([40, 80, 80, 40] + [0] * (len(areas) - 4))
    own = np.array(areas)
    return {
        "slices": np.stack([reference, own, np.minimum(reference, own)]),
        "slices_at": np.array([first, 2.5, 4.0]),
    }
