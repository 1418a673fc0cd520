"""One training of a study: what is trained on whom, in the study's process or in one of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from segwise import in_context, learn, nnunet_package
from segwise.errors import WeightsError
from segwise.learn import Who
from segwise.records.types import Plan, Training
from segwise.spec import parse
from segwise.training import memory
from segwise.training.labelled import Budget
from segwise.training.loop import Progress
from segwise.weights import folders

RATE, ADAPT_RATE = 1e-3, 3e-4


@dataclass(frozen=True)
class Part:
    """One training of a study.

    Attributes:
        training: what is trained; no steps for a support set.
        fraction: share of the training subjects.
        seed: of subjects, weights and samples.
        test: subjects that it does not see.
        folder: where the model is.
        recipe: what the folds and the draws of one training share.
        fold: number of the fold, None if there are no folds.
    """

    training: Training
    fraction: float
    seed: int
    test: tuple[str, ...]
    folder: Path
    recipe: str
    fold: int | None

    @property
    def words(self) -> str:
        """What is trained on what, for people."""
        on = "" if self.training.on == "real" else f", {self.training.on}"
        return f"{self.training.model}, {self.fraction:.0%} of the subjects, seed {self.seed}{on}"

    @property
    def finished(self) -> bool:
        """The folder holds the model after all its steps."""
        try:
            return int(folders.read(self.folder).trained.get("steps", 0)) >= self.training.steps
        except (WeightsError, TypeError, ValueError):
            return False


@dataclass(frozen=True)
class Teaching:
    """How the trainings of a study are done; makes what does one, also in another process.

    Attributes:
        plan: with the study.
        data: folder of the data set.
        generated: folder of generated persons, None for none.
        layout: of the data set.
        called: name of the data set; "" for its own.
        command: for the model folders.
    """

    plan: Plan
    data: Path
    generated: Path | None
    layout: str | None
    called: str
    command: tuple[str, ...]

    def __call__(self) -> Callable[[Part], str]:
        """What does one training, silently."""
        return self.teach

    def teach(self, part: Part, *, tick: learn.Tick | None = None, progress: Progress | None = None) -> str:
        """One training, by what trains such a model; the folder.

        Raises:
            TrainingError: it cannot begin or go on.
        """
        training, out, who = part.training, part.folder, self._who(part)
        which: dict[str, str | int] = {"recipe": part.recipe, "draw": part.seed}
        which |= {} if part.fold is None else {"fold": part.fold}
        memory.start_anew()  # what the trainings before it needed is not this one's
        if in_context.fits(training.model):
            in_context.adapt(training.model, who, out, command=self.command, tick=tick, study=which)
        elif nnunet_package.fits(training.model):
            package = nnunet_package.Budget(steps=training.steps, rate=training.rate or None, seed=part.seed)
            nnunet_package.train(who, out, package, command=self.command, tick=tick, progress=progress, study=which)
        else:
            spec = parse(training.model)
            rate = training.rate or (ADAPT_RATE if spec.plus else RATE)
            budget = Budget(steps=training.steps, rate=rate, size=training.batch, seed=part.seed)
            make = learn.adaptation if spec.plus else learn.specialist
            made = make(training.model, who, out, budget, tick=tick)
            learn.train(made, out, command=self.command, progress=progress, study=which)
        return str(out)

    def _who(self, part: Part) -> Who:
        assert self.plan.study is not None
        return Who(
            data=self.data,
            layout=self.layout,
            targets=self.plan.targets,
            fraction=part.fraction,
            left_out=part.test,
            seed=part.seed,
            modality=self.plan.study.modality,
            generated=self.generated if part.training.on != "real" else None,
            alone=part.training.on == "generated",
            called=self.called,
        )
