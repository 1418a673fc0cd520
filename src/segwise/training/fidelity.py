"""How near a student comes to its teacher, and what it saves: both are asked the same about held-out slices.

Everything is in float32, on one thread of the processor; times are those of a slice through the encoder and of one
question about it, the median over slices, after one that is not timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from segwise.errors import TrainingError
from segwise.geometry import Array
from segwise.training.distilled import overlap

Answer = Callable[[Any], tuple[Array, float]]  # what was asked -> (mask, seconds)


@dataclass(frozen=True)
class Cost:
    """What a net takes.

    Attributes:
        parameters: of the net.
        file_bytes: of its file; the teacher's as float32.
        seconds: median, of a slice (or a region) with one question.
        memory_gb: greatest memory of a process that does only this, beyond that of the program; None: not measured.
    """

    parameters: int
    file_bytes: int
    seconds: float
    memory_gb: float | None = None


@dataclass(frozen=True)
class Fidelity:
    """The report.

    Attributes:
        subjects: whose scans were asked about.
        held: which part of the split they are: "test", "valid", or "train" where nobody was held out.
        n: questions.
        agreement: mean DSC of the student's masks with the teacher's.
        least: the same, by subject, of the worst one.
        teacher_dsc, student_dsc: mean DSC with the labels; None where there are none.
        by_subject: subject -> agreement.
        teacher, student: what each takes.
    """

    subjects: tuple[str, ...]
    held: str
    n: int
    agreement: float
    least: float
    teacher_dsc: float | None
    student_dsc: float | None
    by_subject: Mapping[str, float]
    teacher: Cost
    student: Cost

    @property
    def content(self) -> dict[str, Any]:
        """As `fidelity.json` has it."""
        return {**asdict(self), "subjects": list(self.subjects)}


def measured(
    questions: Sequence[tuple[str, Any, Array | None]], teacher: Answer, student: Answer
) -> tuple[dict[str, Any], float, float]:
    """Ask both; scores, and the median seconds of the teacher and of the student.

    Args:
        questions: (subject, what is asked, the reference or None).
        teacher, student: what answers.

    Raises:
        TrainingError: nothing is asked.
    """
    if not questions:
        raise TrainingError(
            "the held-out scans have nothing to ask about; expected structures, or scans of more than one value"
        )
    for answer in (teacher, student):
        answer(questions[0][1])
    agreement: dict[str, list[float]] = {}
    scores: dict[str, list[float]] = {"teacher": [], "student": []}
    seconds: dict[str, list[float]] = {"teacher": [], "student": []}
    for subject, asked, reference in questions:
        answers = {"teacher": teacher(asked), "student": student(asked)}
        agreement.setdefault(subject, []).append(overlap(answers["student"][0], answers["teacher"][0]))
        for who, (mask, taken) in answers.items():
            seconds[who].append(taken)
            if reference is not None:
                scores[who].append(overlap(mask, reference))
    means = {subject: float(np.mean(values)) for subject, values in agreement.items()}
    told = {
        "subjects": tuple(sorted(means)),
        "n": len(questions),
        "agreement": float(np.mean([value for values in agreement.values() for value in values])),
        "least": min(means.values()),
        "teacher_dsc": float(np.mean(scores["teacher"])) if scores["teacher"] else None,
        "student_dsc": float(np.mean(scores["student"])) if scores["student"] else None,
        "by_subject": means,
    }
    return told, float(np.median(seconds["teacher"])), float(np.median(seconds["student"]))


def timed(work: Callable[[], Array]) -> tuple[Array, float]:
    """What some work gives, and its seconds; one thread, no gradients."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            begun = time.perf_counter()
            found = work()
            return found, time.perf_counter() - begun
    finally:
        torch.set_num_threads(threads)


def parameters(net: nn.Module) -> int:
    """How many a net has."""
    return sum(value.numel() for value in net.parameters())


def n_bytes(net: nn.Module) -> int:
    """Of its tensors, as they are."""
    return sum(value.numel() * value.element_size() for value in net.state_dict().values())
