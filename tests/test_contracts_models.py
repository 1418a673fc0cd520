"""Contract tests over every Segmenter of the catalogue (rules 3, 5 and 6 of the architecture).

A new model is tested without writing one. Exceptions are listed by name with a reason.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest

import dataset_trees as trees
import small_checkpoints
from segwise import anatomy, assemble, catalog
from segwise.errors import NoSuchStructure, SpecError, WeightsError
from segwise.evaluate import compare, inventory, references
from segwise.evaluate.ledger import Key, Ledger
from segwise.evaluate.predict import Setup, Worker
from segwise.geometry import Channel, Grid, Volume
from segwise.prompt import Box, MaskMark, Points, Prompt, Stroke, Text
from segwise.records.types import Record
from segwise.segmenter import Ask, Prediction
from segwise.session import Session
from segwise.store import FeatureStore

JOINT: dict[str, str] = {}  # model -> why its answers in one call may differ from single ones (joint text models)
STAND_IN = {  # model -> where rule 3 is tested instead
    "meshnet": "every run takes a minute: test_whole_volumes.py does the same with its frame, its lift and a tiny net"
}
USERS = ("box3d", "clicks(n=3)", "name", "scribble")
LENGTHY = {  # with their fixtures these take more than two seconds each: `make test-all`
    "sam2": ("blind",),
    "medical-sam2": ("blind", "a_b_a", "undo"),
    "vista3d": ("answers", "a_b_a", "blind"),
    "nninteractive": ("answers", "a_b_a", "undo", "batched", "blind"),
}
LOGITS = 1e-4
LONG_S = 10  # a model slower than this does not look at a second volume

# Two bright blobs in noise; axes in an uncommon order, spacing that differs per axis, off the origin.
SHAPE = (10, 20, 24)
LOW = {"first": ((2, 4, 4), (8, 12, 12)), "second": ((3, 12, 14), (7, 18, 22))}


MOVED = {"first": ((1, 9, 11), (6, 19, 22)), "second": ((5, 2, 2), (9, 9, 10))}  # another expert says so


def _grid() -> Grid:
    affine = np.array([[0, 0, -2.0, 30], [0, 2.5, 0, -20], [4.0, 0, 0, 7], [0, 0, 0, 1]])
    return Grid(SHAPE, affine)


def _volume(modality: str, seed: int = 0) -> Volume:
    rng = np.random.default_rng(seed)
    image = rng.normal(-20, 15, SHAPE)
    for level, (low, high) in zip((80, 160), LOW.values(), strict=True):
        image[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] += level
    image = image if modality == "CT" else np.maximum(image + 200, 0)
    return Volume.of(image.astype(np.float32), _grid(), (Channel(modality),))


def _built(name: str) -> assemble.Built:
    try:
        return assemble.build(name)
    except WeightsError as error:
        pytest.skip(f"no weights: {error}")


def _prompts(info: assemble.ModelInfo) -> dict[str, Prompt]:
    """Two targets, asked with every kind of mark that the model takes, by a name it knows."""
    names = list(info.labels or ("liver", "spleen"))
    names = [names[0], names[-1]] if len(names) > 1 else names
    return {name: _prompt(info, which, name) for name, which in zip(names, LOW, strict=False)}


def _prompt(info: assemble.ModelInfo, which: str, name: str) -> Prompt:
    grid = _grid()
    low, high = (np.array(corner) for corner in LOW[which])
    middle = (low + high) // 2
    mask = np.zeros(SHAPE, dtype=bool)
    mask[tuple(slice(a + 1, b - 1) for a, b in zip(low, high, strict=True))] = True
    marks = {
        "text": Text(name),
        "box": Box.of(grid, low, high),
        "points": Points(grid.mm([middle, low - 1]), np.array([True, False])),
        "stroke": Stroke(grid.mm([middle, middle + 1])),
        "mask": MaskMark(Volume.of(mask, grid)),
    }
    return Prompt(tuple(mark for kind, mark in marks.items() if kind in info.card.takes))


def _more(info: assemble.ModelInfo, prompt: Prompt, step: int) -> Prompt:
    """A second round: a click, or a box on one slice; the same words again say nothing new."""
    grid = _grid()
    place = np.add(LOW["first"][0], (2, 3, 2 + step))
    if "points" in info.card.takes:
        return prompt.also(Points(grid.mm(place), np.array([True])))
    if "box" in info.card.takes:
        return prompt.also(Box.of(grid, place, np.add(place, (1, 3, 3))))
    return prompt


@functools.cache
def _store(encoder: str) -> FeatureStore:
    """One a model, so that slow encoders run once; `check_a_b_a` has its own."""
    return FeatureStore()


def _session(built: assemble.Built, *, seed: int = 5) -> Session:
    modality = built.info.card.modalities[0]
    return Session(built.segmenter, _volume(modality), store=_store(built.segmenter.encoder), seed=seed)


def _equal(a: Prediction, b: Prediction, *, atol: float = 0.0) -> None:
    grid = _grid()
    assert np.array_equal(a.mask(grid), b.mask(grid))
    if not atol:
        assert a.grid == b.grid and np.array_equal(a.logits, b.logits)
        return
    assert a.grid == b.grid
    np.testing.assert_allclose(a.logits, b.logits, rtol=0, atol=atol)


def check_answers(name: str) -> None:
    """Finite float32 logits on a crop of the volume's own lattice; a mask on its exact grid; a stable digest."""
    built = _built(name)
    prompts = _prompts(built.info)
    for target, answer in _session(built).say(prompts).items():
        assert answer.prompt == prompts[target]
        assert answer.logits.dtype == np.float32 and np.isfinite(answer.logits).all()
        corner = _grid().index(answer.grid.mm((0, 0, 0)))
        assert np.allclose(corner, np.rint(corner), atol=1e-3), "not on the volume's lattice"
        assert np.allclose(answer.grid.affine[:3, :3], _grid().affine[:3, :3])
        assert answer.mask(_grid()).shape == SHAPE
        if answer.quality is not None:
            assert answer.quality.shape == answer.logits.shape[:1]
        assert answer.presence is None or 0 <= answer.presence <= 1
    again = assemble.build(name).segmenter
    assert built.segmenter.digest and (again.digest, again.encoder) == (built.segmenter.digest, built.segmenter.encoder)


def check_a_b_a(name: str) -> None:
    """Rule 5: asking about something else in between, and another volume, changes no bit."""
    built = _built(name)
    prompts = _prompts(built.info)
    a, b = next(iter(prompts.items())), list(prompts.items())[-1]
    modality = built.info.card.modalities[0]
    first = _session(built)
    before = first.say(dict([a]))[a[0]]
    first.say({f"other {b[0]}": b[1]})
    fresh = FeatureStore()
    if built.info.card.seconds_hint < LONG_S:
        Session(built.segmenter, _volume(modality, seed=1), store=fresh, seed=5).say(dict([b]))
    after = Session(built.segmenter, _volume(modality), store=fresh, seed=5).say(dict([a]))[a[0]]
    _equal(before, after)


def check_undo(name: str) -> None:
    """Rule 5: a click after an undo equals the same click on a fresh session."""
    built = _built(name)
    target, prompt = next(iter(_prompts(built.info).items()))
    used, fresh = _session(built), _session(built)
    used.say({target: prompt})
    used.say({target: _more(built.info, prompt, 0)})
    used.undo(target)
    fresh.say({target: prompt})
    click = _more(built.info, prompt, 1)
    _equal(used.say({target: click})[target], fresh.say({target: click})[target])


def check_batched(name: str) -> None:
    """Rule 5: asks in one call equal single ones in their masks, and in logits within 1e-4."""
    if name in JOINT:
        pytest.skip(JOINT[name])
    built = _built(name)
    prompts = _prompts(built.info)
    together = _session(built).say(prompts)
    alone = {target: _session(built).say({target: prompt})[target] for target, prompt in prompts.items()}
    for target in prompts:
        _equal(together[target], alone[target], atol=LOGITS)


def check_prompt_order(name: str) -> None:
    """Rule 3: what is answered depends on volume, prompt and seed alone, so not on what the target is called."""
    built = _built(name)
    if built.info.labels is not None:
        return
    _, prompt = next(iter(_prompts(built.info).items()))
    volume = _volume(built.info.card.modalities[0])
    state = built.segmenter.encode(volume, store=_store(built.segmenter.encoder))
    one, two = (built.segmenter.segment(state, [Ask(prompt, None, 9)])[0] for _ in range(2))
    _equal(one, two)


def check_unknown_names(name: str) -> None:
    """A closed list says so when it is asked for something else, and knows every name on its card."""
    built = _built(name)
    if built.info.labels is None:
        return
    for label in built.info.labels:
        assert label.strip() == label and label
        assert not anatomy.resolve(label).known or anatomy.resolve(label).name == label, "not the common name"
    with pytest.raises(NoSuchStructure, match="hat rack"):
        _session(built).say({"hat rack": Prompt((Text("hat rack"),))})


def check_blind(name: str) -> None:
    """Rule 3: with another reference, and the prompts that were recorded for the first one, no bit of a mask changes.

    The whole of `predict` runs twice, error-driven rounds included; the second ledger holds the first one's prompts
    under the other reference, and nothing is drawn anew.
    """
    if name in STAND_IN:
        pytest.skip(STAND_IN[name])
    info = _built(name).info
    with tempfile.TemporaryDirectory() as folder:
        data, one, other = (Path(folder) / part for part in ("data", "one", "other"))
        _write(data, info, LOW)
        first = _predicted(name, data, one)
        _write(data, info, MOVED)
        said = Ledger(one / "ledger").entries()
        (case,) = inventory.find(data)[1]
        digests = {
            name: references.digest_of(mask) for name, mask in references.masks(case, list(_prompts(info))).items()
        }
        for entry in said:
            fields = {field: entry[field] for field in Key.__dataclass_fields__}
            marks = entry["marks"]
            prompt = None if marks is None else Prompt.from_json(marks)
            Ledger(other / "ledger").prompt(
                Key(**{**fields, "reference": digests[entry["target"]]}), lambda p=prompt: p
            )
        second = _predicted(name, data, other)
        assert sorted(e["hash"] for e in Ledger(other / "ledger").entries()) == sorted(e["hash"] for e in said)
    assert [_told(record) for record in first] == [_told(record) for record in second]
    assert any(record.status == "done" for record in first)
    assert all(a.provenance["reference"] != b.provenance["reference"] for a, b in zip(first, second, strict=True))


def _told(record: Record) -> tuple[object, ...]:
    return record.key, record.status, record.reason, record.mask, record.prompt, record.quality, record.presence


def _predicted(name: str, data: Path, out: Path) -> list[Record]:
    """What a fresh worker records with every simulated user that the model can take."""
    takes = set(assemble.model_info(name).card.takes)
    users = [user for user in USERS if assemble.prompter_info(user).gives <= takes]
    work = Worker(Setup(out))
    return [record for task in compare.preview(compare.plan_of([name], users), data).tasks for record in work(task)]


def _write(root: Path, info: assemble.ModelInfo, boxes: dict[str, tuple[tuple[int, ...], ...]]) -> None:
    """One case whose image is always the same; `boxes` is the reference."""
    modality = info.card.modalities[0]
    labels = np.zeros(SHAPE, dtype=np.uint8)
    for value, (low, high) in enumerate(boxes.values(), start=1):
        labels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = value
    trees.save(root / "case" / "image.nii.gz", _volume(modality).array[0])
    trees.save(root / "case" / "labels.nii.gz", labels)
    names = {str(value): name for value, name in enumerate(_prompts(info), start=1)}
    (root / "case" / "case.json").write_text(json.dumps({"modality": modality, "label_map": names}))


EVERY = (check_answers, check_a_b_a, check_undo, check_batched, check_prompt_order, check_unknown_names, check_blind)


def _every_model() -> list[object]:
    """Models with weights take seconds a call: their contracts are for `make test-all`."""
    slow = {name for name in catalog.names("models") if catalog.card("models", name).weights}
    return [pytest.param(name, marks=[pytest.mark.slow] if name in slow else []) for name in catalog.names("models")]


@pytest.mark.parametrize("name", _every_model())
@pytest.mark.parametrize("check", EVERY, ids=lambda check: check.__name__.removeprefix("check_"))
def test_contract(name, check):
    check(name)


def _fixtures(*, every_lift: bool = False) -> list[object]:
    """(model, arguments, check) for models that take a checkpoint; with all but their first lift if wanted."""
    found = []
    for name in catalog.names("models"):
        parameters = catalog.member("models", name).parameters
        lifts = parameters["lift"].choices if every_lift and "lift" in parameters else ()
        if "checkpoint" not in parameters:
            continue
        for given in [{"lift": lift} for lift in lifts if lift != parameters["lift"].default] if every_lift else [{}]:
            for check in EVERY:
                short = check.__name__.removeprefix("check_")
                slow = every_lift or short in LENGTHY.get(name, ())
                label = "-".join([name, *map(str, given.values()), short])
                found.append(pytest.param(name, given, check, id=label, marks=[pytest.mark.slow] if slow else []))
    return found


@pytest.mark.parametrize(("name", "given", "check"), [*_fixtures(), *_fixtures(every_lift=True)])
def test_contract_with_a_fixture(name, given, check):
    """The same on the reduced checkpoint of the model's parity fixture, with every lift it has."""
    if (spec := small_checkpoints.spec_of(name, **{**small_checkpoints.SMALL.get(name, {}), **given})) is None:
        pytest.skip(small_checkpoints.why_not(name))
    try:
        check(spec)
    except SpecError as error:
        pytest.skip(f"this lift refuses these reduced weights: {error}")


@pytest.mark.parametrize("name", catalog.names("models"))
def test_card(name):
    card = catalog.card("models", name)
    assert card.title and card.summary and card.family in ("floor", "generalist", "specialist")
    assert card.takes and set(card.takes) <= {"points", "box", "stroke", "mask", "text"}
    assert set(card.modalities) <= {"CT", "MR"} and card.dims in (2, 3)
    assert all(dataclasses.asdict(file)["n_bytes"] >= 0 for file in card.weights)  # 0: nobody states it
    assert not card.weights or card.licence_weights, "whose weights are these, under which licence?"
    assert card.labels is None or set(card.takes) == {"text"} or "text" in card.takes
