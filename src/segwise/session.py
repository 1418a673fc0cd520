"""One volume under someone's hands: a person and a simulated user drive the same session.

A session is a list of rounds. A round is one exchange: prompts of some targets, and their predictions. Undo is a pop,
replay says the same rounds to another model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from segwise.errors import PromptError
from segwise.geometry import Volume
from segwise.prompt import Prompt
from segwise.segmenter import Ask, Prediction, Segmenter, Store
from segwise.spec import seed_of


@dataclass(frozen=True)
class Round:
    """What was said and what came back, by target."""

    prompts: Mapping[str, Prompt]
    predictions: Mapping[str, Prediction]


class Session:
    """A volume, a model, and the rounds so far.

    Attributes:
        volume: as it came.
        seed: with target and prompt it decides the seed of each ask.
    """

    def __init__(self, segmenter: Segmenter, volume: Volume, *, store: Store, seed: int = 0) -> None:
        """Encode once (cheap: features are made on first need)."""
        self.volume = volume
        self.seed = seed
        self._segmenter = segmenter
        self._store = store
        self._state = segmenter.encode(volume, store=store)
        self._rounds: tuple[Round, ...] = ()

    @property
    def rounds(self) -> tuple[Round, ...]:
        """Everything said and not undone, in order."""
        return self._rounds

    def latest(self, name: str) -> Prediction | None:
        """The last prediction of a target, or None."""
        return next((r.predictions[name] for r in reversed(self._rounds) if name in r.predictions), None)

    def say(self, prompts: Mapping[str, Prompt]) -> dict[str, Prediction]:
        """Ask about some targets in one call of the model; each prompt holds all its marks so far.

        Raises:
            PromptError: nothing is said, or a prompt does not begin with the previous one of its target.
            NoSuchStructure: a text names nothing the model knows. The session stays as it was.
        """
        if not prompts:
            raise PromptError("nothing was said: expected a prompt for at least one target")
        asks = [self._ask(name, prompt) for name, prompt in prompts.items()]
        predictions = dict(zip(prompts, self._segmenter.segment(self._state, asks), strict=True))
        self._rounds += (Round(dict(prompts), predictions),)
        return dict(predictions)

    def undo(self, name: str) -> None:
        """Take back a target's last round; other targets keep theirs.

        Raises:
            PromptError: nothing was said about the target.
        """
        last = next((i for i in reversed(range(len(self._rounds))) if name in self._rounds[i].prompts), None)
        if last is None:
            raise PromptError(f'nothing to undo: nothing was said about "{name}"')
        old = self._rounds[last]
        kept = Round(
            {key: prompt for key, prompt in old.prompts.items() if key != name},
            {key: prediction for key, prediction in old.predictions.items() if key != name},
        )
        self._rounds = (*self._rounds[:last], *((kept,) if kept.prompts else ()), *self._rounds[last + 1 :])

    def replay(self, segmenter: Segmenter) -> Session:
        """A new session in which the same rounds are said to another model."""
        session = Session(segmenter, self.volume, store=self._store, seed=self.seed)
        for spoken in self._rounds:
            session.say(spoken.prompts)
        return session

    def masks(self) -> dict[str, Volume]:
        """The mask of each target after its last round, bool [1, D, H, W] on the volume's grid."""
        names = dict.fromkeys(name for spoken in self._rounds for name in spoken.prompts)
        latest = {name: self.latest(name) for name in names}
        grid = self.volume.grid
        return {name: Volume.of(found.mask(grid), grid) for name, found in latest.items() if found is not None}

    def _ask(self, name: str, prompt: Prompt) -> Ask:
        previous = self.latest(name)
        prompt.since(previous.prompt if previous else None)
        return Ask(prompt, previous, seed_of(self.seed, name, prompt.digest))
