"""Models without weights, on phantoms a person can check: a bright ellipsoid in noise, on grids of unequal spacing."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

from segwise import catalog
from segwise.errors import PromptError
from segwise.geometry import Channel, Grid, Volume
from segwise.lifts import region
from segwise.prompt import Box, Points, Prompt, Text
from segwise.segmenter import OUTSIDE, Ask
from segwise.spec import parse

CLICKED = ("threshold", "posterior", "random-walker", "geodesic", "geodesic-bayes")
ALL = ("box-fill", *CLICKED)
SPACING = (3.0, 1.0, 1.5)
SHAPE = (15, 40, 30)
CENTRE = np.array([7.0, 19.0, 14.0])
HALF_MM = np.array([12.0, 9.0, 10.0])


class NoStore:
    """A store that is never asked: these models keep nothing."""

    def get(self, keys, make_many):
        raise AssertionError("a model without weights has no features")


def model(name):
    return importlib.import_module(f"segwise.models.{name.replace('-', '_')}").load(**parse(name).args)


def grid_of(shape=SHAPE, spacing=SPACING, shear=0.0):
    affine = np.diag([*spacing, 1.0])[[2, 1, 0, 3]]  # d along z, h along y, w along x
    affine[:3, 3] = (-20.0, 5.0, 100.0)
    affine[0, 0] += shear * spacing[0]  # slices slide along x
    return Grid(shape, affine)


def ellipsoid(grid, *, seed=0):
    """An image and its mask: 100 in the ellipsoid, 0 around it, noise of 8."""
    where = grid.mm(np.argwhere(np.ones(grid.shape))).reshape(*grid.shape, 3)
    centre = grid.mm((np.array(grid.shape) - 1) / 2)[0]
    mask = ((((where - centre) / HALF_MM[::-1]) ** 2).sum(axis=-1)) <= 1
    noise = np.random.default_rng(seed).normal(0, 8, grid.shape)
    return Volume.of((100 * mask + noise).astype(np.float32), grid, (Channel("MR"),)), mask


def box_of(mask, grid):
    where = np.argwhere(mask)
    return Box.of(grid, where.min(axis=0), where.max(axis=0) + 1)


def clicks(grid, index, sign=True):
    index = np.atleast_2d(index)
    return Points(grid.mm(index), np.full(len(index), sign))


def masks(name, volume, *prompts):
    net = model(name)
    state = net.encode(volume, store=NoStore())
    return [p.mask(volume.grid) for p in net.segment(state, [Ask(prompt) for prompt in prompts])]


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.fixture(scope="module")
def phantom():
    return ellipsoid(grid_of())


FIVE = CENTRE + np.array([[0, 0, 0], [1, 3, 0], [-1, -3, 2], [0, 2, -3], [1, -2, -2]])


@pytest.mark.parametrize("name", CLICKED)
def test_box_and_points(phantom, name):
    volume, mask = phantom
    (found,) = masks(name, volume, Prompt((box_of(mask, volume.grid), clicks(volume.grid, FIVE))))
    assert dice(mask, found) > 0.9


@pytest.mark.parametrize("name", CLICKED)
def test_a_box_alone(phantom, name):
    volume, mask = phantom
    (found,) = masks(name, volume, Prompt((box_of(mask, volume.grid),)))
    assert dice(mask, found) > 0.9


@pytest.mark.parametrize("name", CLICKED)
def test_points_alone(phantom, name):
    volume, mask = phantom
    (found,) = masks(name, volume, Prompt((clicks(volume.grid, FIVE),)))
    assert dice(mask, found) > 0.85


def test_box_fill_is_the_box(phantom):
    volume, _mask = phantom
    (found,) = masks("box-fill", volume, Prompt((Box.of(volume.grid, (2, 3, 4), (5, 9, 11)),)))
    expected = np.zeros(SHAPE, dtype=bool)
    expected[2:5, 3:9, 4:11] = True
    assert (found == expected).all()


@pytest.mark.parametrize("name", ALL)
def test_boxes_of_slices_limit_slice_by_slice(phantom, name):
    volume, mask = phantom
    allowed = np.zeros(SHAPE, dtype=bool)
    boxes = []
    for d in np.flatnonzero(mask.any(axis=(1, 2))):
        low, high = np.argwhere(mask[d]).min(axis=0), np.argwhere(mask[d]).max(axis=0) + 1
        boxes.append(Box.of(volume.grid, (d, *low), (d + 1, *high)))
        allowed[d, low[0] : high[0], low[1] : high[1]] = True
    (found,) = masks(name, volume, Prompt(tuple(boxes)))
    assert not found[~allowed].any()
    assert dice(mask, found) > 0.85


@pytest.mark.parametrize("name", CLICKED)
def test_a_negative_point_carves(phantom, name):
    volume, mask = phantom
    first = Prompt((box_of(mask, volume.grid), clicks(volume.grid, CENTRE)))
    edge = (CENTRE + np.array([0, 6, 0])).astype(int)
    before, after = masks(name, volume, first, first.also(clicks(volume.grid, edge, sign=False)))
    assert before[tuple(edge)]
    assert not after[tuple(edge)]
    assert after[tuple(CENTRE.astype(int))]
    assert after.sum() < before.sum()


@pytest.mark.parametrize("name", CLICKED)
def test_a_later_positive_point_adds(phantom, name):
    volume, mask = phantom
    array = np.array(volume.array)
    array[0, :, 19:40] -= 100 * mask[:, 19:40]  # the lower half is dark now
    array[0, 5:10, 22:25, 11:18] += 300
    volume = Volume.of(array, volume.grid)
    first = Prompt((box_of(mask, volume.grid), clicks(volume.grid, CENTRE - [0, 4, 0])))
    spot = np.array([7, 23, 14])
    before, after = masks(name, volume, first, first.also(clicks(volume.grid, spot)))
    assert after[tuple(spot)]
    assert dice(mask, after) >= dice(mask, before)


@pytest.mark.parametrize("name", CLICKED)
def test_a_sheared_grid(name):
    volume, mask = ellipsoid(grid_of(shear=0.3))
    assert volume.grid.skew > 0.1
    net = model(name)
    prompt = Prompt((box_of(mask, volume.grid), clicks(volume.grid, CENTRE)))
    (found,) = net.segment(net.encode(volume, store=NoStore()), [Ask(prompt)])
    assert np.allclose(found.grid.affine[:3, :3], volume.grid.affine[:3, :3])  # a crop of the input's own grid
    assert dice(mask, found.mask(volume.grid)) > (0.7 if name == "threshold" else 0.85)


@pytest.mark.parametrize("name", ALL)
def test_answers_are_pure_and_alone(phantom, name):
    volume, mask = phantom
    net = model(name)
    state = net.encode(volume, store=NoStore())
    marks = () if name == "box-fill" else (clicks(volume.grid, CENTRE),)
    a = Ask(Prompt((box_of(mask, volume.grid), *marks)))
    b = Ask(Prompt((Box.of(volume.grid, (1, 2, 3), (9, 30, 20)), *marks)), seed=7)
    digest = volume.digest
    (first,), (other,), (again,) = (net.segment(state, [ask]) for ask in (a, b, a))
    both = net.segment(state, [a, b])
    assert first.logits.tobytes() == again.logits.tobytes() == both[0].logits.tobytes()
    assert other.logits.tobytes() == both[1].logits.tobytes()
    assert not volume.array.flags.writeable
    assert Volume.of(volume.array, volume.grid, volume.channels).digest == digest


@pytest.mark.parametrize("name", ALL)
def test_the_answer_is_a_crop_with_a_margin(phantom, name):
    volume, mask = phantom
    net = model(name)
    marks = () if name == "box-fill" else (clicks(volume.grid, CENTRE),)
    (found,) = net.segment(net.encode(volume, store=NoStore()), [Ask(Prompt((box_of(mask, volume.grid), *marks)))])
    low, high = np.argwhere(mask).min(axis=0), np.argwhere(mask).max(axis=0) + 1
    assert found.grid == volume.grid.crop(low, high)
    assert found.logits.dtype == np.float32
    assert np.isfinite(found.logits).all()
    assert found.logits.min() >= OUTSIDE
    assert name == "box-fill" or len(np.unique(found.logits)) > 100


@pytest.mark.parametrize("name", ALL)
def test_prompts_that_say_nothing_are_refused(phantom, name):
    volume, _ = phantom
    net = model(name)
    state = net.encode(volume, store=NoStore())
    far = grid_of().mm([[500, 500, 500]])
    for prompt in (
        Prompt(),
        Prompt((Text("liver"),)),
        Prompt((Points(far, np.array([True])),)),
        Prompt((clicks(volume.grid, CENTRE, sign=False),)),
        Prompt((Box(far[0], np.eye(3)),)),
    ):
        with pytest.raises(PromptError, match="expected at least one"):
            net.segment(state, [Ask(prompt)])


def test_the_finest_axes_give_way_first():
    shape = region.coarser(Grid((20, 400, 400), np.diag([5.0, 1.0, 1.0, 1.0])), 200_000)
    assert shape == (20, 100, 100)
    assert region.coarser(Grid((5, 6, 7), np.eye(4)), 210) == (5, 6, 7)
    assert np.prod(region.coarser(Grid((500, 500, 500), np.eye(4)), 200_000)) <= 200_000


@pytest.mark.parametrize("name", CLICKED)
def test_a_large_box_is_solved_on_a_coarser_grid_and_the_card_says_so(name):
    grid = grid_of((40, 120, 90), (1.0, 1.0, 1.0))
    where = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)
    mask = (((where - (20, 60, 45)) / (17, 50, 40)) ** 2).sum(axis=-1) <= 1
    noise = np.random.default_rng(1).normal(0, 8, grid.shape)
    volume = Volume.of((100 * mask + noise).astype(np.float32), grid)
    module = importlib.import_module(f"segwise.models.{name.replace('-', '_')}")
    sizes = []

    def watched(part):
        sizes.append(part.image.size)
        return module.load()._solve(part)

    net = region.RegionSegmenter(watched, name="watched", max_voxels=20_000)
    prompt = Prompt((box_of(mask, grid), clicks(grid, [20, 60, 45])))
    (found,) = net.segment(net.encode(volume, store=NoStore()), [Ask(prompt)])
    assert 15_000 < sizes[0] <= 20_000
    assert dice(mask, found.mask(grid)) > (0.8 if name == "threshold" else 0.9)  # it knows one patch only
    assert f"{module.load()._max_voxels:,} voxels" in catalog.card("models", name).memory
    assert region.MAX_VOXELS == 200_000


@pytest.mark.parametrize("name", CLICKED)
@pytest.mark.parametrize("shape", [(1, 30, 26), (2, 30, 26)])
def test_thin_volumes_and_boxes_as_large_as_the_volume(name, shape):
    volume, _ = ellipsoid(grid_of(shape))
    middle = (np.array(shape) - 1) // 2
    whole = Box.of(volume.grid, (0, 0, 0), shape)
    for prompt in (
        Prompt((whole, clicks(volume.grid, middle))),
        Prompt((clicks(volume.grid, middle),)),
        Prompt((whole,)),
    ):
        (found,) = masks(name, volume, prompt)
        assert found[tuple(middle)]
        assert not found.all()


@pytest.mark.parametrize("name", CLICKED)
@pytest.mark.parametrize("values", [np.float32(5), np.float32(np.nan)])
def test_an_image_without_contrast(name, values):
    grid = grid_of((9, 10, 11))
    volume = Volume.of(np.full(grid.shape, values), grid)
    (found,) = masks(name, volume, Prompt((Box.of(grid, (2, 2, 2), (7, 8, 9)), clicks(grid, [4, 5, 5]))))
    assert found[4, 5, 5]


def test_arguments_are_checked_by_the_catalogue_and_change_the_digest():
    assert catalog.member("models", "geodesic").arguments(parse("geodesic(smooth=2)"))["smooth"] == 2.0
    assert model("geodesic").digest != importlib.import_module("segwise.models.geodesic").load(smooth=2.0).digest
    assert len({model(name).digest for name in ALL}) == len(ALL)


def test_the_plan_names_the_targets_of_the_floor(data: Path):
    import csv

    from segwise.records import plan

    found = plan.read(catalog.plan_path("floor"))
    chosen = [(c.case, t) for c in found.cases for t in c.targets]
    with (data / "floor.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert found.seeds == 3
    assert len(chosen) == len(set(chosen)) == len(rows) == 32
    assert [c for c, _ in chosen] == [row["case"] for row in rows]
