"""Every simulated user: what its card says, it does; a new one is tested here without a line."""

from __future__ import annotations

import numpy as np
import pytest

from segwise import catalog
from segwise.case import Target
from segwise.geometry import Grid, regrid
from segwise.prompt import KINDS, Points, Prompt
from segwise.spec import Spec

NAMES = catalog.names("prompters")
ASK_ANYWAY = ("name", "reworded")  # text is asked of absent targets too: what is painted there is a false positive
INSIDE_BOX = ("box2d", "box3d", "box-points", "center-point", "points", "clicks", "interpolate-boxes", "seed-slice")


def shell(shape=(24, 30, 36)):
    """A bent, lopsided object with a second, smaller one apart."""
    d, h, w = np.indices(shape)
    mask = ((d - 11) / 7) ** 2 + ((h - 14 - 0.03 * (d - 8) ** 2) / 6) ** 2 + ((w - 15) / 9) ** 2 < 1
    return mask | ((d - 12) ** 2 + (h - 25) ** 2 + (w - 31) ** 2 < 6)


def grid_of(shape, axes="SPL", spacing=(3.0, 1.0, 0.7)):
    letters = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    affine = np.eye(4)
    affine[:3, :3] = 0
    for i, (letter, step) in enumerate(zip(axes, spacing, strict=True)):
        world, sign = letters[letter]
        affine[world, i] = sign * step
    affine[:3, 3] = (-40.5, 12.25, 103.0)
    return Grid(shape, affine)


def target_of(mask, grid, name="spleen"):
    mask = np.ascontiguousarray(mask)
    mask.setflags(write=False)
    return Target(name, mask, grid)


TARGET = target_of(np.pad(shell(), ((3, 2), (40, 60), (50, 30))), grid_of((29, 130, 116)))
EMPTY = target_of(np.zeros((4, 5, 6), dtype=bool), grid_of((4, 5, 6)))


def turned(target, axes):
    """The same voxels in a file with other axes."""
    grid = target.grid.toward(axes)
    return target_of(regrid(target.mask, target.grid, grid, order=0, outside=0.0), grid)


def member(name, **args):
    return catalog.load("prompters", Spec(name, args))


def half(target):
    """A prediction that misses a part and takes too much elsewhere."""
    mask = np.roll(target.mask, 3, axis=1)
    mask[: mask.shape[0] // 2] &= target.mask[: mask.shape[0] // 2]
    return mask


def same_places(a: Prompt, b: Prompt, tolerance=1e-6):
    assert len(a.marks) == len(b.marks)
    for one, two in zip(a.marks, b.marks, strict=True):
        assert one.kind == two.kind
        if one.kind == "box":
            for corners in (one, two):
                assert corners.corners_mm().shape == (8, 3)
            np.testing.assert_allclose(one.corners_mm().min(0), two.corners_mm().min(0), atol=tolerance)
            np.testing.assert_allclose(one.corners_mm().max(0), two.corners_mm().max(0), atol=tolerance)
        elif one.kind in ("points", "stroke"):
            np.testing.assert_allclose(one.xyz_mm, two.xyz_mm, atol=tolerance)
            assert np.array_equal(one.positive, two.positive)
        else:
            assert one == two


@pytest.mark.parametrize("name", NAMES)
class TestEveryPrompter:
    def test_the_card_is_complete(self, name):
        card = catalog.card("prompters", name)
        assert card.title and card.summary and card.source
        assert card.rounds in ("first", "error")
        assert set(card.gives) <= set(KINDS) and card.gives
        assert set(card.draws_if) <= set(catalog.member("prompters", name).parameters)

    def test_next_takes_the_arguments_of_first(self, name):
        module, _ = member(name)
        assert module.first.__kwdefaults__ == module.next.__kwdefaults__
        assert module.first.__doc__ and module.next.__doc__

    def test_a_seed_repeats_its_prompt(self, name):
        module, args = member(name)
        assert module.first(TARGET, 7, **args) == module.first(TARGET, 7, **args)

    def test_seeds_differ_where_the_card_says_that_it_draws(self, name):
        module, args = member(name)
        card = catalog.card("prompters", name)
        different = len({module.first(TARGET, seed, **args) for seed in range(12)}) > 1
        assert different == card.drawing(args)
        for argument in card.draws_if:
            drawing = {**args, argument: 2.0}
            assert card.drawing(drawing)
            assert len({module.first(TARGET, seed, **drawing) for seed in range(12)}) > 1

    def test_rounds_append_what_the_card_gives_and_end(self, name):
        module, args = member(name)
        card = catalog.card("prompters", name)
        prompt, mask, rounds = module.first(TARGET, 3, **args), half(TARGET), 1
        if card.rounds == "first":
            assert prompt.kinds == set(card.gives)
        while (later := module.next(TARGET, prompt, mask, 3, **args)) is not None:
            assert len(later.since(prompt)) >= 1
            prompt, rounds = later, rounds + 1
            assert rounds < 50
        assert prompt.kinds == set(card.gives)
        assert (rounds > 1) == (card.rounds == "error")

    def test_a_perfect_prediction_leaves_it_content(self, name):
        module, args = member(name)
        prompt = module.first(TARGET, 0, **args)
        assert module.next(TARGET, prompt, TARGET.mask.copy(), 0, **args) is None

    def test_an_absent_target_gets_no_prompt(self, name):
        module, args = member(name)
        assert (module.first(EMPTY, 0, **args) is None) == (name not in ASK_ANYWAY)
        assert module.next(EMPTY, Prompt(), np.ones(EMPTY.grid.shape, dtype=bool), 0, **args) is None

    @pytest.mark.parametrize("axes", ["IAR", "LSP", "PRI", "RAS"])
    def test_a_turned_file_gets_the_same_prompts(self, name, axes):
        module, args = member(name)
        other = turned(TARGET, axes)
        prompt, twin = module.first(TARGET, 5, **args), module.first(other, 5, **args)
        same_places(prompt, twin)
        mask = half(TARGET)
        there = regrid(mask, TARGET.grid, other.grid, order=0, outside=0.0)
        later, twin = module.next(TARGET, prompt, mask, 5, **args), module.next(other, twin, there, 5, **args)
        assert (later is None) == (twin is None)
        if later is not None and twin is not None:
            same_places(later, twin)

    def test_it_says_the_same_after_a_ledger(self, name):
        module, args = member(name)
        prompt = module.first(TARGET, 1, **args)
        assert Prompt.from_json(prompt.to_json()) == prompt

    def test_marks_lie_on_the_image(self, name):
        module, args = member(name)
        edge = target_of(np.pad(np.ones((2, 3, 4), dtype=bool), ((0, 3), (0, 3), (0, 3))), grid_of((5, 6, 7)))
        prompt = module.first(edge, 2, **args)
        for mark in prompt.marks:
            places = mark.corners_mm() if mark.kind == "box" else getattr(mark, "xyz_mm", np.empty((0, 3)))
            index = edge.grid.index(places) if len(places) else places
            assert (index >= -0.5 - 1e-6).all() and (index <= np.array(edge.grid.shape) - 0.5 + 1e-6).all()

    def test_one_voxel_and_a_full_image_are_prompted(self, name):
        module, args = member(name)
        dot = np.zeros((5, 6, 7), dtype=bool)
        dot[2, 3, 4] = True
        for mask in (dot, np.ones((5, 6, 7), dtype=bool), np.ones((1, 6, 7), dtype=bool)):
            target = target_of(mask, grid_of(mask.shape))
            prompt = module.first(target, 0, **args)
            assert prompt.marks
            module.next(target, prompt, ~mask, 0, **args)


def _sliced():
    """Every member with a plane, in the other planes, and in two dimensions where it has them."""
    for name in NAMES:
        known = catalog.member("prompters", name).parameters
        if "plane" in known:
            for plane in ("axial", "coronal", "sagittal"):
                args = {"plane": plane, **({"dims": 2} if "dims" in known else {})}
                yield pytest.param(name, args, id=f"{name} {plane}")


@pytest.mark.parametrize(("name", "args"), _sliced())
def test_planes_are_the_patients_whatever_the_file(name, args):
    module, resolved = member(name, **args)
    axis = TARGET.grid.axis_of(args["plane"])
    prompt = module.first(TARGET, 5, **resolved)
    for axes in ("IAR", "LSP", "RAS"):
        same_places(prompt, module.first(turned(TARGET, axes), 5, **resolved))
    if name == "middle-box":  # the one that spans slices
        return
    for mark in prompt.marks:
        if mark.kind == "box":
            assert np.ptp(TARGET.grid.index(mark.corners_mm())[:, axis]) == pytest.approx(1)
        if mark.kind == "stroke":
            assert np.ptp(TARGET.grid.index(mark.xyz_mm)[:, axis]) == pytest.approx(0)


@pytest.mark.parametrize("name", INSIDE_BOX)
def test_marks_stay_in_the_tight_box(name):
    module, args = member(name)
    prompt = module.first(TARGET, 4, **args)
    where = np.argwhere(TARGET.mask)
    low, high = where.min(0) - 0.5, where.max(0) + 0.5
    for mark in prompt.marks:
        index = TARGET.grid.index(mark.xyz_mm if isinstance(mark, Points) else mark.corners_mm())
        assert (index >= low - 1e-6).all() and (index <= high + 1e-6).all()


@pytest.mark.parametrize("name", [n for n in NAMES if catalog.card("prompters", n).rounds == "error"])
def test_later_rounds_work_behind_marks_of_others(name):
    """box-points composed with it: the first round holds both, the later ones are its own."""
    module, args = member(name)
    others, other_args = member("box-points")
    own = module.first(TARGET, 0, **args)
    prompt = others.first(TARGET, 0, **other_args).also(*own.marks)
    alone, mask = own, half(TARGET)
    rounds = 0
    while (later := module.next(TARGET, prompt, mask, 0, **args)) is not None:
        prompt, rounds = later, rounds + 1
    while (later := module.next(TARGET, alone, mask, 0, **args)) is not None:
        alone, rounds = later, rounds - 1
    assert rounds == 0
