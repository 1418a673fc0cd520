"""Specs → objects: `litemedsam(lift=propagate)+lora(rank=4)+flips` → a Segmenter. The only place that composes.

A name after "+" is an adapter or a wrapper for a model, and a further prompter for a prompter. A path in the place of a
model's name is a model folder (`weights.folders`): it stands for the spec in its model.json with `checkpoint=` put on
the part that was trained.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segwise import catalog, spec
from segwise.card import MetricCard, ModelCard, PrompterCard
from segwise.case import Target
from segwise.errors import CatalogError, SegwiseError, SpecError, WeightsError
from segwise.geometry import Array
from segwise.prompt import Prompt
from segwise.segmenter import Learned, Segmenter
from segwise.spec import Spec, Value
from segwise.weights import ModelFolder, folders


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model without loading it.

    Attributes:
        spec: canonical, arguments as given; a model folder is written out.
        card: of the base model with these arguments; weights of a model folder add their title and what they were
            trained on.
        given, resolved: arguments as given and with defaults; those of adapters and wrappers as "+name.argument".
        labels: the closed list of the chosen variant, or None.
    """

    spec: Spec
    card: ModelCard
    given: Mapping[str, Value]
    resolved: Mapping[str, Value]
    labels: tuple[str, ...] | None

    @property
    def digest(self) -> str:
        """Hash of the card."""
        return hashlib.blake2b(repr(self.card).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Built:
    """A model ready to be asked.

    Attributes:
        segmenter: base, adapters and wrappers together.
        info: what was known before.
        weights: digest of the weights, "" for a model without.
    """

    segmenter: Segmenter
    info: ModelInfo
    weights: str


@dataclass(frozen=True)
class PrompterInfo:
    """What is known of a prompter without loading it.

    Attributes:
        spec: canonical, arguments as given.
        cards: of its parts.
        arguments: of its parts, given and default.
    """

    spec: Spec
    cards: tuple[PrompterCard, ...]
    arguments: tuple[Mapping[str, Value], ...]

    @property
    def gives(self) -> frozenset[str]:
        """Kinds of mark that it makes."""
        return frozenset(kind for card in self.cards for kind in card.gives)

    @property
    def draws(self) -> bool:
        """Whether anything is drawn at random, so that seeds matter."""
        return any(card.drawing(dict(args)) for card, args in zip(self.cards, self.arguments, strict=True))

    @property
    def version(self) -> str:
        """Versions of all parts."""
        return "+".join(str(card.version) for card in self.cards)


@dataclass(frozen=True)
class Prompter:
    """A simulated user, possibly composed: all parts speak in round one, later rounds are the last one's."""

    info: PrompterInfo
    modules: tuple[Any, ...]

    def first(self, target: Target, seed: int) -> Prompt | None:
        """What is said in round one; None if the target is absent and a part has nothing to say about that."""
        parts = zip(self.modules, self.info.arguments, strict=True)
        said: list[Prompt | None] = [module.first(target, seed, **arguments) for module, arguments in parts]
        if any(prompt is None for prompt in said):
            return None
        return Prompt(tuple(mark for prompt in said if prompt is not None for mark in prompt.marks))

    def next(self, target: Target, prompt: Prompt, mask: Array, seed: int) -> Prompt | None:
        """The prompt with the next round's marks appended; None when content. `mask` is bool [D, H, W]."""
        if self.info.cards[-1].rounds == "first":
            return None
        found: Prompt | None = self.modules[-1].next(target, prompt, mask, seed, **self.info.arguments[-1])
        return found


@dataclass(frozen=True)
class Metric:
    """A family of measures with its arguments.

    Attributes:
        spec: canonical, with all arguments, so that a score says its tolerance.
        card: its measures.
        arguments: given and default.
    """

    spec: Spec
    card: MetricCard
    module: Any
    arguments: Mapping[str, Value]

    def score(self, pair: Any) -> dict[str, float]:
        """Value by measure, nan where undefined; a curve metric takes a list of pairs."""
        found: dict[str, float] = self.module.score(pair, **self.arguments)
        return found


def model_info(text: str | Spec) -> ModelInfo:
    """What is known of a model from its source alone, after checking all its arguments.

    Raises:
        CatalogError: an unknown model, adapter, wrapper or argument, or a wrong value.
        WeightsError: a model folder is missing, damaged or of a newer Segwise.
    """
    wanted = _written_out(_spec(text))
    base = catalog.member("models", wanted.name)
    resolved = base.arguments(wanted)
    given = dict(wanted.args)
    for plus in wanted.plus:
        member = catalog.member(_kind_of(plus), plus.name)
        given |= {f"+{plus.name}.{key}": value for key, value in plus.args.items()}
        resolved |= {f"+{plus.name}.{key}": value for key, value in member.arguments(plus).items()}
    card = _taught(base.card.of(resolved), wanted)
    return ModelInfo(wanted, card, given, resolved, _labels(base.card, resolved))


def build(text: str | Spec) -> Built:
    """A model with its adapters and wrappers.

    Raises:
        CatalogError: as `model_info`; or an adapter meets a model that has nothing to adapt.
        WeightsError: its weights are missing or damaged; the message says what to type.
    """
    info = model_info(text)
    module, arguments = catalog.load("models", info.spec.base)
    segmenter: Segmenter = _loaded(module, info.spec.base.name, arguments)
    weights = segmenter.parts.weights if isinstance(segmenter, Learned) else ""
    for plus in info.spec.plus:
        kind = _kind_of(plus)
        extra, values = catalog.load(kind, plus)
        if kind == "wrappers":
            segmenter = extra.wrap(segmenter, **values)
            continue
        if not isinstance(segmenter, Learned):
            raise SpecError(
                f"{info.spec}: {plus.name} adapts the net of a learned model, and there is none before it; "
                "put adapters before wrappers and on models that have weights"
            )
        segmenter = segmenter.rebuilt(extra.apply(segmenter.parts, **values))
        weights = segmenter.parts.weights
    return Built(segmenter, info, weights)


def _loaded(module: Any, name: str, arguments: Mapping[str, Any]) -> Segmenter:
    """A model's `load`; what a user's own checkpoint or its config.json breaks in a net is said as such.

    Raises:
        WeightsError: no such net can be built from what they say.
    """
    try:
        segmenter: Segmenter = module.load(**arguments)
    except SegwiseError:
        raise
    except Exception as error:
        if not arguments.get("checkpoint"):
            raise
        said = " ".join(str(error).split())[:160]
        raise WeightsError(
            f"{arguments['checkpoint']}: no {name} can be built from these tensors and the config.json beside them "
            f"({type(error).__name__}: {said}); expected a checkpoint of {name} as its authors publish it: mend or "
            "remove config.json, or give another file"
        ) from error
    return segmenter


def segmenter(text: str | Spec) -> Segmenter:
    """A model with its adapters and wrappers, e.g. "litemedsam(lift=propagate)+flips". Errors as `build`."""
    return build(text).segmenter


def prompter_info(text: str | Spec) -> PrompterInfo:
    """What is known of a prompter from its source alone, after checking all its arguments.

    Raises:
        CatalogError: an unknown prompter or argument, or a wrong value.
    """
    wanted = _spec(text)
    parts = (wanted.base, *wanted.plus)
    members = [catalog.member("prompters", part.name) for part in parts]
    arguments = tuple(member.arguments(part) for member, part in zip(members, parts, strict=True))
    return PrompterInfo(wanted, tuple(member.card for member in members), arguments)


def prompter(text: str | Spec) -> Prompter:
    """A simulated user, e.g. "box3d+name". Errors as `prompter_info`."""
    info = prompter_info(text)
    parts = (info.spec.base, *info.spec.plus)
    return Prompter(info, tuple(catalog.member("prompters", part.name).load() for part in parts))


def on_plane(text: str | Spec, plane: Value) -> Spec:
    """A prompter's spec with `plane=` filled in where a part takes it, was not given it, and has another default."""
    wanted = _spec(text)

    def one(part: Spec) -> Spec:
        parameter = catalog.member("prompters", part.name).parameters.get("plane")
        if parameter is None or "plane" in part.args or plane in (None, parameter.default):
            return part
        return dataclasses.replace(part, args={**part.args, "plane": plane}, plus=())

    base = one(wanted.base)
    return Spec(base.name, base.args, tuple(one(part) for part in wanted.plus))


def metric_info(text: str | Spec) -> Spec:
    """The spec of a metric with all its arguments, given and default; a measure ("DSC") stands for its metric.

    Raises:
        CatalogError: an unknown metric or argument, or a wrong value.
    """
    wanted = _spec(text)
    if wanted.plus:
        raise SpecError(f"{wanted}: metrics do not compose; give them one by one")
    wanted = Spec(_metric_of(wanted.name), wanted.args)
    return Spec(wanted.name, catalog.member("metrics", wanted.name).arguments(wanted))


def metric(text: str | Spec) -> Metric:
    """A metric, e.g. "surface(tolerance_mm=1)". Errors as `metric_info`."""
    wanted = metric_info(text)
    return Metric(wanted, catalog.card("metrics", wanted), catalog.member("metrics", wanted.name).load(), wanted.args)


def _metric_of(name: str) -> str:
    """The metric that gives a measure, e.g. "overlap" for "DSC"; other names as they are."""
    known = catalog.names("metrics")
    if name not in known:
        for metric_name in known:
            if name.lower() in map(str.lower, catalog.card("metrics", metric_name).measures):
                return metric_name
    return name


def base_name(text: str | Spec) -> str:
    """The base model of a spec: specs of one base share encoded features."""
    return _written_out(_spec(text)).name


def _written_out(wanted: Spec, above: tuple[Path, ...] = ()) -> Spec:
    """A spec whose model is a folder, as what that folder holds; other specs as they are.

    Raises:
        WeightsError: the folder is missing, damaged, of a newer Segwise, or built on itself.
        SpecError: `checkpoint=` is given for the very part that the folder holds.
    """
    if "/" not in wanted.name:
        return wanted
    path = Path(wanted.name)
    if path.resolve() in above:
        raise WeightsError(f"{path}: its model.json leads back to itself; give a folder that names a model")
    folder = folders.read(path)
    try:
        inner = spec.parse(folder.spec)
        adapters = [i for i, plus in enumerate(inner.plus) if _kind_of(plus) == "adapters"]
    except CatalogError as error:
        raise WeightsError(f"{path}: this Segwise does not know the spec in its model.json: {error}") from error
    if "/" in inner.name:  # adapted further: a path is seen from the folder
        inner = dataclasses.replace(inner, name=str(path / inner.name))
        inner = _written_out(inner, (*above, path.resolve()))
        adapters = [i for i, plus in enumerate(inner.plus) if _kind_of(plus) == "adapters"]
    args, plus = {**inner.args, **wanted.args}, list(inner.plus)
    own = {"checkpoint": wanted.name}
    if adapters:
        plus[adapters[-1]] = dataclasses.replace(plus[adapters[-1]], args={**plus[adapters[-1]].args, **own})
    elif "checkpoint" in args:
        raise SpecError(f"{wanted}: the folder holds the weights of {inner.name} itself; leave out checkpoint=")
    else:
        args |= own
    return Spec(inner.name, args, (*plus, *wanted.plus))


def _taught(card: ModelCard, wanted: Spec) -> ModelCard:
    """A card with the title of the model folders in a spec, and what their weights were trained on."""
    for part in (wanted.base, *wanted.plus):
        place = part.args.get("checkpoint")
        if isinstance(place, str) and not folders.is_folder(Path(place)):
            card = dataclasses.replace(card, training_listed=False)  # a file: nobody says what it saw
        elif isinstance(place, str):
            folder = folders.read(Path(place))
            sets = folder.datasets
            card = dataclasses.replace(
                card,
                title=folder.title or card.title,
                training_sets=tuple(dict.fromkeys((*card.training_sets, *sets))),
                training_note="; ".join(filter(None, (card.training_note, _how(folder, part)))),
                training_listed=card.training_listed and folder.listed,
                learned=_learned(folder),
                parameters_m=_size_m(folder, card.parameters_m),
            )
    return card


def _size_m(folder: ModelFolder, usual: float) -> float:
    """Millions of parameters of a net whose folder holds all of it, `usual` of others and where nothing is said."""
    n = folder.trained.get("parameters")
    whole = not any(_kind_of(part) == "adapters" for part in spec.parse(folder.spec).plus)
    return float(f"{n / 1e6:.3g}") if whole and isinstance(n, int) else usual


def _learned(folder: ModelFolder) -> dict[str, str | int | float | tuple[str, ...]]:
    """What a report compares trainings by."""
    keys = ("parameters", "seconds", "peak_gb", "seed", "recipe", "draw", "fold")
    said = {key: folder.trained.get(key) for key in keys}
    own = {key: value for key, value in said.items() if isinstance(value, int | float | str)}
    people, made = folder.subjects, folder.generated
    own |= {"generated": made} if made else {}
    adapters = [part.name for part in spec.parse(folder.spec).plus if part.name in catalog.names("adapters")]
    own |= {"volumes": int(catalog.card("adapters", adapters[-1]).volumes)} if adapters else {}
    files = tuple(sha[:16] for _, sha in sorted(folder.files.items()))
    return {
        "model": folder.spec,
        "subjects": len(people),
        "data": folder.dataset,
        "people": people,
        "weights": files,
        **own,
    }


def _how(folder: ModelFolder, part: Spec) -> str:
    """On what the weights of a folder were trained, in words."""
    people = folder.subjects
    who = f": {len(people)} subject{'s' if len(people) != 1 else ''} ({', '.join(people)})" if people else ""
    said = f"{part.name} trained on {folder.dataset or 'data that its folder does not name'}{who}"
    if folder.generated:
        made = f"{folder.generated} generated persons"
        said = f"{said} and {made}" if people else f"{part.name} trained on {made}"
    before = folder.pretrained
    return f"{said}, its encoder before that on {before}, without labels" if before else said


def _spec(text: str | Spec) -> Spec:
    return spec.parse(text) if isinstance(text, str) else text


def _kind_of(plus: Spec) -> str:
    for kind in ("adapters", "wrappers"):
        if plus.name in catalog.names(kind):
            return kind
    known = (*catalog.names("adapters"), *catalog.names("wrappers"))
    near = difflib.get_close_matches(plus.name, known, n=2, cutoff=0.6)
    hint = f"; did you mean {' or '.join(near)}?" if near else f"; there are {', '.join(known) or 'none'}"
    raise CatalogError(f'no adapter or wrapper "{plus.name}"{hint}')


def _labels(card: ModelCard, resolved: Mapping[str, Value]) -> tuple[str, ...] | None:
    if card.labels is None:
        return None
    given = resolved.get("labels")
    if isinstance(given, str) and given:  # the user says what other weights of this model answer
        return tuple(word.strip() for word in given.split(";"))
    variant = str(resolved.get("variant", ""))
    if card.labels.get(variant) == ():
        return None
    lists: Sequence[tuple[str, ...]] = [card.labels[variant]] if variant in card.labels else list(card.labels.values())
    return tuple(dict.fromkeys(name for names in lists for name in names))
