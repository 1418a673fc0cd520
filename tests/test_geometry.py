"""`Grid` and `regrid`: what must hold for every axis order, spacing and obliquity."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segwise.errors import GridError
from segwise.geometry import Channel, Grid, Volume, regrid

AXES = [
    "".join(p[i] for p, i in zip(pairs, bits, strict=True))
    for pairs in itertools.permutations(("LR", "PA", "IS"))
    for bits in itertools.product((0, 1), repeat=3)
]
SHAPE = (5, 6, 7)
SPACING = (3.0, 0.7, 1.1)


def grid_towards(axes: str, shape: tuple[int, int, int] = SHAPE) -> Grid:
    """A grid with its axes exactly towards `axes`, spacing 3, 0.7, 1.1 mm."""
    affine = np.eye(4)
    for i, letter in enumerate(axes):
        world = next(k for k, pair in enumerate(("LR", "PA", "IS")) if letter in pair)
        affine[:3, i] = 0
        affine[world, i] = SPACING[i] if letter in "RAS" else -SPACING[i]
    affine[:3, 3] = (-20.5, 33.25, 101.125)
    return Grid(shape, affine)


def rotation(angles: tuple[float, float, float]) -> np.ndarray:
    a, b, c = angles
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return x @ y @ z


@st.composite
def grids(draw: st.DrawFn, *, sheared: bool = False) -> Grid:
    """Any axis order, turned by up to 17 degrees about each axis, with or without shear."""
    base = grid_towards(draw(st.sampled_from(AXES)), draw(st.tuples(*[st.integers(1, 7)] * 3)))
    turn = rotation(draw(st.tuples(*[st.floats(-0.3, 0.3)] * 3)))
    affine = base.affine.copy()
    affine[:3, :3] = turn @ affine[:3, :3]
    if sheared:
        affine[:3, 0] += draw(st.floats(-0.3, 0.3)) * affine[:3, 1]
    return Grid(base.shape, affine)


def values(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 1000, shape).astype(np.int16)


@pytest.mark.parametrize("axes", AXES)
def test_there_and_back_over_all_axis_orders(axes: str) -> None:
    home = grid_towards("SPL")
    array = values(home.shape)
    away = home.toward(axes)
    assert away.axes == axes
    turned = regrid(array, home, away, order=0, outside=-1)
    assert turned.shape == away.shape and turned.dtype == array.dtype
    assert np.array_equal(regrid(turned, away, home, order=1, outside=-1), array)
    assert away.toward("SPL").close(home, tolerance_mm=1e-9)


@pytest.mark.parametrize("axes", AXES)
def test_a_voxel_keeps_its_place(axes: str) -> None:
    home = grid_towards("SPL")
    array = np.zeros(home.shape)
    array[1, 2, 3] = 1
    away = home.toward(axes)
    there = np.argwhere(regrid(array, home, away, order=0, outside=0))[0]
    assert np.allclose(away.mm(there), home.mm((1, 2, 3)))


@given(grids(sheared=True), st.sampled_from(AXES))
@settings(max_examples=60, deadline=None)
def test_reorienting_is_exact_for_oblique_and_sheared(grid: Grid, axes: str) -> None:
    away = grid.toward(axes)
    array = values(grid.shape)
    back = regrid(regrid(array, grid, away, order=3, outside=0), away, grid, order=3, outside=0)
    assert back.dtype == array.dtype and np.array_equal(back, array)


@given(grids(sheared=True), st.data())
@settings(max_examples=60, deadline=None)
def test_crop_and_paste_are_exact(grid: Grid, data: st.DataObject) -> None:
    low = [data.draw(st.integers(-3, n)) for n in grid.shape]
    high = [lo + data.draw(st.integers(1, 6)) for lo in low]
    crop = grid.crop(low, high)
    array = values(grid.shape)
    part = regrid(array, grid, crop, order=1, outside=7)
    assert np.allclose(crop.mm((0, 0, 0)), grid.mm(low))
    for index in itertools.product(*(range(n) for n in crop.shape)):
        source = tuple(int(i + lo) for i, lo in zip(index, low, strict=True))
        inside = all(0 <= s < n for s, n in zip(source, grid.shape, strict=True))
        assert part[index] == (array[source] if inside else 7)
    pasted = regrid(part, crop, grid, order=1, outside=-9)
    kept = pasted != -9
    assert np.array_equal(pasted[kept], array[kept])


@given(grids(), st.tuples(*[st.integers(1, 9)] * 3))
@settings(max_examples=60, deadline=None)
def test_resized_keeps_the_field_of_view(grid: Grid, shape: tuple[int, int, int]) -> None:
    other = grid.resized(shape)
    assert other.shape == shape
    for a, b in ((-0.5, -0.5), (None, None)):
        mine = [a if a is not None else n - 0.5 for n in grid.shape]
        theirs = [b if b is not None else n - 0.5 for n in shape]
        assert np.allclose(grid.mm(mine), other.mm(theirs))


def test_resized_by_two_is_the_mean_of_two() -> None:
    grid = grid_towards("SPL", (4, 4, 4))
    array = np.arange(64, dtype=np.float32).reshape(4, 4, 4)
    half = regrid(array, grid, grid.resized((2, 2, 2)), order=1, outside=0)
    assert np.allclose(half, array.reshape(2, 2, 2, 2, 2, 2).mean(axis=(1, 3, 5)))


@given(grids(sheared=True))
@settings(max_examples=60, deadline=None)
def test_straight_is_orthogonal_and_covers_all(grid: Grid) -> None:
    straight = grid.straight()
    assert straight.skew < 1e-9
    assert np.allclose(straight.spacing_mm, grid.spacing_mm)
    corners = list(itertools.product(*((-0.5, n - 0.5) for n in grid.shape)))
    index = straight.index(grid.mm(corners))
    assert (index >= -0.5 - 1e-5).all() and (index <= np.array(straight.shape) - 0.5 + 1e-5).all()


def test_mapping_back_from_straight_keeps_a_mask() -> None:
    grid = grid_towards("SPL", (20, 30, 32))
    affine = grid.affine.copy()
    affine[:3, 0] += 0.8 * affine[:3, 1]
    sheared = Grid(grid.shape, affine)
    mask = np.zeros(sheared.shape, dtype=bool)
    mask[5:15, 8:22, 8:24] = True
    straight = sheared.straight()
    back = regrid(regrid(mask, sheared, straight, order=0, outside=0), straight, sheared, order=0, outside=0)
    assert back.dtype == bool
    assert 2 * (back & mask).sum() / (back.sum() + mask.sum()) > 0.9


@given(grids(sheared=True), st.sampled_from(AXES), st.booleans())
@settings(max_examples=60, deadline=None)
def test_canonical_points_where_it_says(grid: Grid, axes: str, aligned: bool) -> None:
    made = grid.canonical(axes, spacing_mm=(2.0, 1.0, 1.5), aligned=aligned)
    assert made.skew < 1e-9 and np.allclose(made.spacing_mm, (2.0, 1.0, 1.5))
    assert np.allclose(made.centre_mm, grid.centre_mm)
    if aligned or grid.skew < 0.05:
        assert made.axes == axes


def test_canonical_of_an_orthogonal_grid_never_resamples() -> None:
    kits = grid_towards("LPI", (7, 6, 5))  # KiTS: slices on the file's first axis, so the array's last
    axial = kits.canonical("SPL")
    assert axial.axes == "SPL" and axial.shape == (5, 6, 7)
    array = values(kits.shape)
    assert np.array_equal(regrid(array, kits, axial, order=1, outside=0), array.transpose(2, 1, 0)[::-1])


@pytest.mark.parametrize("axes", AXES)
def test_axis_of_a_plane(axes: str) -> None:
    grid = grid_towards(axes)
    for plane, pair in (("axial", "IS"), ("coronal", "PA"), ("sagittal", "LR")):
        assert axes[grid.axis_of(plane)] in pair


@given(hnp.arrays(bool, (4, 5, 6)))
@settings(max_examples=20, deadline=None)
def test_bool_stays_bool(mask: np.ndarray) -> None:
    grid = grid_towards("SPL", (4, 5, 6))
    out = regrid(mask, grid, grid.resized((8, 10, 12)), order=1, outside=0)
    assert out.dtype == bool


def test_far_away_is_outside() -> None:
    grid = grid_towards("SPL")
    affine = grid.affine.copy()
    affine[:3, 3] += 500
    far = Grid(SHAPE, affine)
    assert (regrid(values(SHAPE), grid, far, order=1, outside=-5) == -5).all()


@pytest.mark.parametrize(
    ("shape", "affine", "says"),
    [
        ((5, 6), np.eye(4), "three positive"),
        ((5, 6, 0), np.eye(4), "three positive"),
        ((5, 6, 7), np.eye(3), "4x4"),
        ((5, 6, 7), np.diag([1, np.nan, 1, 1]), "finite"),
        ((5, 6, 7), np.diag([1, 0, 1, 1]), "singular"),
    ],
)
def test_impossible_grids_are_refused(shape: tuple[int, ...], affine: np.ndarray, says: str) -> None:
    with pytest.raises(GridError, match=says):
        Grid(shape, affine)  # type: ignore[arg-type]


def test_errors_a_caller_can_make() -> None:
    grid = grid_towards("SPL")
    with pytest.raises(GridError, match="empty"):
        grid.crop((1, 1, 1), (1, 2, 2))
    with pytest.raises(GridError, match="three letters"):
        grid.toward("SPP")
    with pytest.raises(GridError, match="plane"):
        grid.axis_of("diagonal")
    with pytest.raises(GridError, match="array is"):
        regrid(values((1, 2, 3)), grid, grid, order=0, outside=0)
    with pytest.raises(GridError, match="expected"):
        Volume.of(values((1, 2, 3)), grid)


def test_a_volume_is_read_only_and_knows_its_content() -> None:
    grid = grid_towards("SPL")
    one, two = Volume.of(values(SHAPE), grid), Volume.of(values(SHAPE), grid)
    assert one.digest == two.digest and one.array.shape == (1, *SHAPE)
    assert one.digest != Volume.of(values(SHAPE), grid, [Channel("CT")]).digest
    with pytest.raises(ValueError, match="read-only"):
        one.array[0, 0, 0, 0] = 1
