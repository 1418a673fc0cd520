"""The rounds of one volume: say, undo, redo, switch the model, accept; kept in a file while they are made.

A round is one exchange: prompts of some targets, and their predictions. Only the latest few predictions of a target
are kept; an earlier one that an undo brings to light is asked again, which gives the same bits (`Segmenter.segment` is
pure). The masks that stay are packed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from segwise.errors import FileError, PromptError
from segwise.geometry import Volume
from segwise.prompt import Prompt
from segwise.segmenter import Ask, Prediction, Segmenter, Store
from segwise.session import file
from segwise.session.packed import Packed
from segwise.spec import seed_of

_T = TypeVar("_T")
LIVE = 2  # predictions kept of each target: the latest, and the one that undo goes back to


@dataclass(frozen=True)
class Round:
    """What was said, and what came back and is still kept, by target."""

    prompts: Mapping[str, Prompt]
    predictions: Mapping[str, Prediction] = field(default_factory=dict)

    def without(self, name: str) -> Round:
        """The round of the other targets."""
        return Round(_less(self.prompts, name), _less(self.predictions, name))

    def forgetting(self, name: str) -> Round:
        """The same words, a target's prediction dropped."""
        return Round(self.prompts, _less(self.predictions, name))


class Session:
    """A volume, a model, and the rounds so far.

    Args:
        segmenter: the model.
        volume: as it came.
        store: where features are kept, by content.
        seed: with target and prompt it decides the seed of each ask.
        model: the model's name for the file.
        autosave: a file that holds the session after every change, which must not be there yet; None keeps none.

    Raises:
        FileError: the file of `autosave` is there already.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        volume: Volume,
        *,
        store: Store,
        seed: int = 0,
        model: str = "",
        autosave: Path | None = None,
    ) -> None:
        """Encode once (cheap: features are made on first need)."""
        self.volume = volume
        self.seed = seed
        self.model = model
        self._segmenter = segmenter
        self._store = store
        self._state = segmenter.encode(volume, store=store)
        self._rounds: tuple[Round, ...] = ()
        self._undone: tuple[tuple[str, Prompt], ...] = ()
        self._accepted: tuple[str, ...] = ()
        self._masks: dict[str, Packed] = {}
        self._file = autosave
        self._stamp = ""  # of the file as this session last read or wrote it
        if autosave is not None and file.stamp(autosave):
            raise FileError(f"{autosave} is there already; reopen that session, or choose another file")

    @classmethod
    def reopen(
        cls, path: Path, segmenter: Segmenter, volume: Volume, *, store: Store, model: str | None = None
    ) -> Session:
        """The session that a file keeps, going on in the same file. Nothing is asked again until it is needed.

        Args:
            path: of the file.
            segmenter: the model that the file names, with the same weights; any other if `model` is given.
            volume: the scan that the session was made on.
            store: where features are kept.
            model: the segmenter's name. If it is another model than the file's, or has other weights, it is switched
                to: all that is not accepted is said to it again.

        Raises:
            FileError: the file is damaged, or was made on another scan, or with another model and `model` is None.
            PromptError, NoSuchStructure: the other model cannot use what was said. The file stays as it was.
        """
        before = file.stamp(path)
        saved = file.read(path)
        if (saved.volume, saved.grid) != (volume.digest, volume.grid.digest):
            raise FileError(f"{path} was made on another scan than this one; open it with the scan that it was made on")
        if saved.segmenter != segmenter.digest and model is None:
            named = f' "{saved.model}"' if saved.model else ""
            raise FileError(
                f"{path} was made with another model{named}, other weights or another version of them; open it with "
                "these, or name the model (-m) to say everything to it again, in which accepted masks stay"
            )
        session = cls(segmenter, volume, store=store, seed=saved.seed, model=saved.model)
        session._file, session._stamp = path, before
        session._rounds = tuple(Round(dict(spoken)) for spoken in saved.rounds)
        session._undone, session._accepted = tuple(saved.undone), tuple(saved.accepted)
        session._masks = dict(saved.masks)
        if model is not None and (saved.model, saved.segmenter) != (model, segmenter.digest):
            session.switch(segmenter, model=model)
        return session

    @property
    def rounds(self) -> tuple[Round, ...]:
        """Everything said and not undone, in order."""
        return self._rounds

    @property
    def names(self) -> tuple[str, ...]:
        """The targets that something was said about, in order."""
        return tuple(dict.fromkeys(name for spoken in self._rounds for name in spoken.prompts))

    @property
    def accepted(self) -> tuple[str, ...]:
        """The targets that are finished."""
        return self._accepted

    def prompt(self, name: str) -> Prompt | None:
        """All that was said about a target and not undone, or None."""
        return next((r.prompts[name] for r in reversed(self._rounds) if name in r.prompts), None)

    def latest(self, name: str) -> Prediction | None:
        """The last prediction of a target, or None."""
        places = [i for i, spoken in enumerate(self._rounds) if name in spoken.prompts]
        return self._recalled(name, places) if places else None

    def say(self, prompts: Mapping[str, Prompt]) -> dict[str, Prediction]:
        """Ask about some targets in one call of the model; each prompt holds all its marks so far.

        Raises:
            PromptError: nothing is said, a target is accepted, or a prompt does not begin with the previous one of
                its target.
            NoSuchStructure: a text names nothing the model knows. The session stays as it was.
        """
        if not prompts:
            raise PromptError("nothing was said: expected a prompt for at least one target")
        predictions = self._said(prompts)
        self._undone = tuple((name, prompt) for name, prompt in self._undone if name not in prompts)
        self._keep()
        return predictions

    def undo(self, name: str | None = None) -> str:
        """Take back the last round of a target, or of all the one said last; other targets keep theirs.

        Returns:
            The target whose round it was.

        Raises:
            PromptError: nothing was said, or the target is accepted.
        """
        if name is None:
            if not self._rounds:
                raise PromptError("nothing to undo: nothing was said")
            name = list(self._rounds[-1].prompts)[-1]
        self._open(name)
        last = next((i for i in reversed(range(len(self._rounds))) if name in self._rounds[i].prompts), None)
        if last is None:
            raise PromptError(f'nothing to undo: nothing was said about "{name}"')
        prompt, kept = self._rounds[last].prompts[name], self._rounds[last].without(name)
        self._rounds = (*self._rounds[:last], *((kept,) if kept.prompts else ()), *self._rounds[last + 1 :])
        self._undone += ((name, prompt),)
        self._masks.pop(name, None)
        self._keep()
        return name

    def redo(self, name: str | None = None) -> str:
        """Say again what was undone last, of a target or of all, as a round of its own.

        Returns:
            The target whose round it is.

        Raises:
            PromptError: nothing was undone since something was last said about the target.
        """
        place = next((i for i in reversed(range(len(self._undone))) if name in (None, self._undone[i][0])), None)
        if place is None:
            raise PromptError(f"nothing to redo{f' of {name}' if name else ''}: nothing was undone since the last word")
        found, prompt = self._undone[place]
        self._said({found: prompt})
        self._undone = (*self._undone[:place], *self._undone[place + 1 :])
        self._keep()
        return found

    def accept(self, name: str) -> None:
        """A target is finished: its mask stays, whatever model comes next.

        Raises:
            PromptError: nothing was said about it.
        """
        if name not in self.names:
            raise PromptError(f'nothing to accept: nothing was said about "{name}"')
        self._packed(name)
        self._accepted = (*(n for n in self._accepted if n != name), name)
        self._keep()

    def resume(self, name: str) -> None:
        """An accepted target is open again.

        Raises:
            PromptError: it is not accepted, or the model cannot use what was said about it. It stays accepted.
            NoSuchStructure: as above.
        """
        if name not in self._accepted:
            raise PromptError(f'"{name}" is not accepted; accepted are {", ".join(self._accepted) or "none"}')
        latest = self.latest(name)
        if latest is not None:  # the accepted mask may be another model's
            self._masks[name] = Packed.of(latest.mask(self.volume.grid))
        self._accepted = tuple(n for n in self._accepted if n != name)
        self._keep()

    def replay(self, segmenter: Segmenter, *, model: str = "") -> Session:
        """A new session in which the same rounds are said to another model; it is kept in no file.

        Raises:
            PromptError, NoSuchStructure: the other model cannot use what was said.
        """
        session = Session(segmenter, self.volume, store=self._store, seed=self.seed, model=model)
        for spoken in self._rounds:
            session.say(spoken.prompts)
        return session

    def switch(self, segmenter: Segmenter, *, model: str = "") -> None:
        """Another model from now on: what is not accepted is said to it; accepted masks and what redo knows stay.

        Raises:
            PromptError, NoSuchStructure: the other model cannot use what was said. The session stays as it was.
        """
        other = Session(segmenter, self.volume, store=self._store, seed=self.seed, model=model)
        rounds = []
        for spoken in self._rounds:
            open_ = {name: prompt for name, prompt in spoken.prompts.items() if name not in self._accepted}
            rounds.append(Round(spoken.prompts, other.say(open_) if open_ else {}))
        self._segmenter, self._state, self._rounds = segmenter, other._state, tuple(rounds)
        for name in self.names:
            self._forget(name)
        self._masks = {name: packed for name, packed in self._masks.items() if name in self._accepted}
        self.model = model
        self._keep()

    def masks(self) -> dict[str, Volume]:
        """The mask of each target after its last round, bool [1, D, H, W] on the volume's grid."""
        return {name: Volume.of(self._packed(name).mask(), self.volume.grid) for name in self.names}

    def save(self, path: Path) -> None:
        """Keep the session in a file.

        Raises:
            FileError: it cannot be written.
        """
        if path == self._file:
            self._keep()
        else:
            file.write(path, self._saved())

    def _saved(self) -> file.Saved:
        return file.Saved(
            self.volume.digest,
            self.volume.grid.digest,
            self.model,
            self._segmenter.digest,
            self.seed,
            [spoken.prompts for spoken in self._rounds],
            self._undone,
            self._accepted,
            {name: self._packed(name) for name in self.names},
        )

    def _said(self, prompts: Mapping[str, Prompt]) -> dict[str, Prediction]:
        asks = [self._ask(name, prompt) for name, prompt in prompts.items()]
        predictions = dict(zip(prompts, self._segmenter.segment(self._state, asks), strict=True))
        self._rounds += (Round(dict(prompts), predictions),)
        for name in prompts:
            self._masks.pop(name, None)
            self._forget(name)
        return dict(predictions)

    def _ask(self, name: str, prompt: Prompt) -> Ask:
        self._open(name)
        previous = self.latest(name)
        prompt.since(previous.prompt if previous else None)
        return self._asked(name, prompt, previous)

    def _asked(self, name: str, prompt: Prompt, previous: Prediction | None) -> Ask:
        return Ask(prompt, previous, seed_of(self.seed, name, prompt.digest))

    def _open(self, name: str) -> None:
        if name in self._accepted:
            raise PromptError(f'"{name}" is accepted and stays as it is; resume it to change it')

    def _recalled(self, name: str, places: Sequence[int]) -> Prediction:
        """The prediction of the last of a target's rounds; asked again from the last one that is kept."""
        kept = [i for i, place in enumerate(places) if name in self._rounds[place].predictions]
        found = self._rounds[places[kept[-1]]].predictions[name] if kept else None
        for place in places[kept[-1] + 1 if kept else 0 :]:
            spoken = self._rounds[place]
            (found,) = self._segmenter.segment(self._state, [self._asked(name, spoken.prompts[name], found)])
            whole = Round(spoken.prompts, {**spoken.predictions, name: found})
            self._rounds = (*self._rounds[:place], whole, *self._rounds[place + 1 :])
        self._forget(name)
        assert found is not None  # places is not empty
        return found

    def _forget(self, name: str) -> None:
        """Drop a target's predictions but the latest ones."""
        places = [i for i, spoken in enumerate(self._rounds) if name in spoken.predictions]
        old = set(places[:-LIVE])
        self._rounds = tuple(s.forgetting(name) if i in old else s for i, s in enumerate(self._rounds))

    def _packed(self, name: str) -> Packed:
        """A target's mask after its last round."""
        if name not in self._masks and (latest := self.latest(name)) is not None:
            self._masks[name] = Packed.of(latest.mask(self.volume.grid))
        return self._masks[name]

    def _keep(self) -> None:
        if self._file is not None:
            self._stamp = file.write(self._file, self._saved(), after=self._stamp)


def _less(held: Mapping[str, _T], name: str) -> dict[str, _T]:
    return {key: value for key, value in held.items() if key != name}
