"""Contract tests over every wrapper of the catalogue, by name, around models of each kind (rules 3 and 5).

A new wrapper needs one line in `WRAPPED`, with arguments that make it look more than once.
"""

from __future__ import annotations

import numpy as np
import pytest

import test_contracts_models as contracts
from segwise import assemble, catalog
from segwise.prompt import Box, Points, Prompt, Text
from segwise.segmenter import Ask, Prediction, Segmenter, State
from segwise.store import FeatureStore
from segwise.wrappers import _fused, candidates, flips

WRAPPED = {
    "flips": "flips(axes=xyz)",
    "rotations": "rotations(n=4)",
    "three-planes": "three-planes",
    "jitter": "jitter(n=3)",
    "candidates": "candidates(n=2)",
    "both-ways": "both-ways",
}
BASES = ("geodesic", "sam(size=nano)", "sam(lift=propagate, size=nano)")
CHECKS = (
    contracts.check_answers,
    contracts.check_a_b_a,
    contracts.check_undo,
    contracts.check_batched,
    contracts.check_prompt_order,
    contracts.check_blind,
)
QUICK = {"geodesic"}


def test_every_wrapper_is_here_by_name():
    assert set(WRAPPED) == set(catalog.names("wrappers"))


def _all() -> list[object]:
    return [
        pytest.param(f"{base}+{WRAPPED[name]}", check, id=f"{name}-{base}-{check.__name__.removeprefix('check_')}",
                     marks=[] if base in QUICK else [pytest.mark.slow])
        for name in WRAPPED for base in BASES for check in CHECKS
    ]  # fmt: skip


@pytest.mark.parametrize(("spec", "check"), _all())
def test_contract(spec, check):
    check(spec)


@pytest.mark.parametrize("name", WRAPPED)
def test_digest_says_the_wrapper_and_its_arguments(name):
    bare, wrapped = (assemble.build(spec).segmenter for spec in ("geodesic", f"geodesic+{WRAPPED[name]}"))
    assert wrapped.digest != bare.digest and wrapped.digest.startswith(name)
    assert assemble.build(f"geodesic(power=3)+{WRAPPED[name]}").segmenter.digest != wrapped.digest


@pytest.mark.parametrize("name", ["flips", "rotations"])
def test_a_model_that_looks_along_the_array_is_not_changed_by_turns(name):
    """Geodesic distances know no up or down: all looks are the same one, so the mask is."""
    prompt = contracts._prompt(assemble.model_info("geodesic"), "first", "liver")
    masks = []
    for spec in ("geodesic", f"geodesic+{WRAPPED[name]}"):
        model = assemble.build(spec).segmenter
        state = model.encode(contracts._volume("CT"), store=FeatureStore())
        masks.append(model.segment(state, [Ask(prompt)])[0].mask(contracts._grid()))
    assert masks[0].any() and np.array_equal(*masks)


class Seen(Segmenter):
    """Answers with a box in the upper right front eighth of the body as it is shown, and remembers what was said."""

    digest = encoder = "seen"

    def __init__(self) -> None:
        self.said: list[Prompt] = []

    def encode(self, volume, *, store):
        return State(volume, volume.grid, store)

    def segment(self, state, asks):
        self.said += [ask.prompt for ask in asks]
        return [self._one(state, ask) for ask in asks]

    def _one(self, state, ask):
        index = np.stack(np.meshgrid(*(np.arange(n) for n in state.grid.shape), indexing="ij"), axis=-1)
        xyz = state.grid.mm(index.reshape(-1, 3)) - state.grid.centre_mm
        there = (xyz > 0).all(axis=1).reshape(1, *state.grid.shape)
        return Prediction(ask.prompt, np.where(there, 4.0, -4.0).astype(np.float32), state.grid)


def _share(model: Segmenter, prompt: Prompt) -> np.ndarray:
    """Probabilities on the volume's grid."""
    state = model.encode(contracts._volume("CT"), store=FeatureStore())
    (answer,) = model.segment(state, [Ask(prompt, None, 3)])
    return _fused.probability(answer.logits[0])


def test_flips_mirror_the_body_left_and_right_in_the_words_too():
    seen = Seen()
    share = _share(flips.wrap(seen, axes="x"), Prompt((Text("left kidney"),)))
    assert [p.marks[0].words for p in seen.said] == ["left kidney", "right kidney"]
    grid = contracts._grid()
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1).reshape(-1, 3)
    x, y, z = (grid.mm(index) - grid.centre_mm).T
    expected = ((y > 0) & (z > 0) & (x != 0)).reshape(grid.shape)  # either side is seen once of two looks
    assert np.array_equal(share > 0.25, expected)


def test_flips_up_and_down_leave_the_words():
    seen = Seen()
    _share(flips.wrap(seen, axes="xyz"), Prompt((Text("left kidney"),)))
    assert [p.marks[0].words for p in seen.said] == ["left kidney"] * 4 + ["right kidney"] * 4


def test_marks_lie_on_the_same_voxels_in_every_turn():
    grid = contracts._grid()
    prompt = Prompt((Points(grid.mm([[2, 5, 7]]), np.array([True])), Box.of(grid, (1, 2, 3), (4, 9, 11))))
    for spec in ("flips(axes=xyz)", "rotations(n=4)"):
        seen = Seen()
        name, _, _ = spec.partition("(")
        given = {"flips": {"axes": "xyz"}, "rotations": {"n": 4}}[name]
        model = catalog.member("wrappers", name).load().wrap(seen, **given)
        state = model.encode(contracts._volume("CT"), store=FeatureStore())
        model.segment(state, [Ask(prompt)])
        for said, own in zip(seen.said, state.looks, strict=True):
            placed = said.on(own.grid)
            np.testing.assert_allclose(placed.points, [[2, 5, 7]], atol=1e-6)
            assert placed.boxes.tolist() == [[[1, 2, 3], [4, 9, 11]]]


def test_three_planes_are_left_out_for_boxes_on_one_slice():
    grid = contracts._grid()
    wrap = catalog.member("wrappers", "three-planes").load().wrap
    thin, thick = Seen(), Seen()
    axis = grid.axis_of("axial")
    low, high = np.array([2, 4, 4]), np.array([8, 12, 12])
    slices = [(np.where(np.arange(3) == axis, k, low), np.where(np.arange(3) == axis, k + 1, high)) for k in (5, 6, 7)]
    _share(wrap(thin), Prompt((Box.of(grid, *slices[0]),)))
    _share(wrap(thick), Prompt(tuple(Box.of(grid, *one) for one in slices)))
    assert (len(thin.said), len(thick.said)) == (1, 3)
    assert [len(said.marks) for said in thick.said] == [3, 1, 1]


def test_jitter_keeps_what_was_drawn_when_marks_are_added_and_slices_where_they_are():
    grid, seen = contracts._grid(), Seen()
    model = catalog.member("wrappers", "jitter").load().wrap(seen, n=3, mm=4.0)
    box = Box.of(grid, (2, 4, 4), (3, 16, 16))
    state = model.encode(contracts._volume("CT"), store=FeatureStore())
    (first,) = model.segment(state, [Ask(Prompt((box,)), None, 11)])
    more = Prompt((box, Points(grid.mm([[2, 8, 8]]), np.array([True]))))
    model.segment(state, [Ask(more, first, 12)])
    for before, after in zip(seen.said[:3], seen.said[3:], strict=True):
        after.since(before)  # raises if it does not begin with it
    assert seen.said[0] == Prompt((box,)) and len({said.digest for said in seen.said[:3]}) == 3
    assert {tuple(said.on(grid).boxes[0, :, 0]) for said in seen.said[:3]} == {(2, 3)}


def test_agreement_chooses_what_most_masks_share():
    masks = np.zeros((4, 10), dtype=bool)
    masks[:3, 2:8] = True
    masks[2, 8] = True
    masks[3, 0] = True
    worth = candidates.agreement(masks)
    assert worth.argmax() in (0, 1) and worth.argmin() == 3
    assert candidates.agreement(np.zeros((3, 5), dtype=bool)).tolist() == [1, 1, 1]
    assert candidates.agreement(masks[:1]).tolist() == [1]


@pytest.mark.parametrize("spec", ["jitter(n=0)", "jitter(mm=0)", "candidates(n=0)", "rotations(n=3)"])
def test_a_wrong_argument_gets_one_message(spec):
    with pytest.raises(Exception, match="expected") as caught:
        assemble.build(f"geodesic+{spec}")
    assert type(caught.value).__name__ == "SpecError"


def test_quality_needs_a_model_that_predicts_it():
    from segwise.errors import SpecError

    with pytest.raises(SpecError, match="by=agreement"):
        _share(candidates.wrap(Seen(), by="quality", n=2), Prompt((Text("liver"),)))
