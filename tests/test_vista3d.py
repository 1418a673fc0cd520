"""VISTA3D: names, points, both; windows around points; geometry; errors; published keys."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

import probes
import test_contracts_models as contracts
from parity import vista3d as parity_file
from parity.harness import Fixture
from segwise import anatomy
from segwise.errors import NoSuchStructure, PromptError, SpecError, WeightsError
from segwise.geometry import Channel, Grid, Volume
from segwise.lifts.clicked import Clicked, edited, touched, with_points
from segwise.lifts.tiles import Tiling
from segwise.models import vista3d
from segwise.models.vista3d import CLASSES, NEW, VistaFrame
from segwise.nets.contract import Decoded, Marks, PromptNet
from segwise.nets.flops import counted, parameters
from segwise.nets.vista3d import PUBLISHED, UNUSED, VistaNet, combined, net_of, official
from segwise.prompt import Points, Prompt, Text
from segwise.segmenter import Ask, Parts
from segwise.store import FeatureStore
from segwise.weights.tensors import signature_of

SIDE = 32


class Probe(PromptNet):
    """Classes answer with the image, points with balls around them; counts what runs."""

    def __init__(self, show: str = "image") -> None:
        super().__init__()
        self.inner = probes.Probe("prompt")
        self.show, self.windows, self.features = show, 0, 0
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def automatic(self, image, classes):
        self.windows += 1
        level = 0.5 + 0.0002 * (classes - 1)[:, None, None, None]
        return image[0] - level

    def encode(self, image):
        self.features += 1
        return image

    def decode(self, features, marks):
        if self.show == "image":
            return Decoded((features[marks.image] - 0.5).float())
        asks = Marks(marks.image, points=marks.points, signs=marks.signs % 2)
        return self.inner.decode(features, asks)


def probe(show: str = "image", *, stitch: str = "sum", side: int = SIDE) -> Clicked:
    tiling = Tiling.monai((side,) * 3, overlap=0.625, padding="replicate")
    return Clicked(Parts(Probe(show), VistaFrame(side), None, "probe"), tiling, stitch=stitch)


def say(model: Clicked, volume: Volume, *prompts: Prompt, store: FeatureStore | None = None):
    state = model.encode(volume, store=FeatureStore() if store is None else store)
    return model.segment(state, [Ask(prompt) for prompt in prompts])


def named(words: str) -> Prompt:
    return Prompt((Text(words),))


def bright(volume: Volume) -> Volume:
    """The scene's block above the middle of the window, the rest below."""
    return Volume.of(np.where(volume.array > 0, 900.0, -900.0).astype(np.float32), volume.grid, volume.channels)


@pytest.mark.parametrize("axes", probes.orientations())
@pytest.mark.parametrize("how", ["text", "points"])
def test_image_and_points_lie_where_they_lie(axes, how):
    where = probes.grid(axes)
    volume, mask = probes.scene(where)
    prompt = named("liver") if how == "text" else probes.pointed(mask, where)
    model = probe("image", side=96 if how == "points" else 64)
    found = say(model, bright(volume), prompt)[0].mask(where)
    assert probes.off_voxels(found, mask) <= 1


@pytest.mark.parametrize(("spacing", "slant"), [((0.9, 1.1, 5.0), 0.0), ((2.0, 2.5, 4.0), 12.0)])
@pytest.mark.parametrize("how", ["text", "drawn"])
def test_other_spacings_and_slants(spacing, slant, how):
    where = probes.grid("LPS", spacing_mm=spacing, slant=slant)
    volume, mask = probes.scene(where, slant=slant)
    coarse = max(1.0, *(1.5 / s for s in where.spacing_mm))
    if how == "text":
        found = say(probe(side=64), bright(volume), named("liver"))[0].mask(where)
        assert probes.off_voxels(found, mask) <= coarse
    else:  # a ball around the point
        found = say(probe("prompt", side=64), volume, probes.pointed(mask, where))[0].mask(where)
        assert probes.off_centre_voxels(found, mask) <= coarse


def test_every_class_has_a_common_name():
    assert set(CLASSES) <= set(range(1, 133)) - {16, 18, 129, 130, 131}
    assert len(CLASSES) == 127
    names = [anatomy.resolve(name).name for name in CLASSES.values()]
    assert len(set(names)) == 127
    assert all(anatomy.resolve(name).known for name in CLASSES.values())


@pytest.mark.parametrize(
    ("words", "classes"),
    [
        ("liver", (1,)),
        ("kidney", (2,)),
        ("L kidney", (14,)),
        ("adrenal gland", (9, 8)),
        ("urinary bladder", (15,)),
        ("vertebra T1", (49,)),
        ("liver tumour", (26,)),
        ("right rib 12", (86,)),
    ],
)
def test_words_become_classes(words, classes):
    assert VistaFrame().classes(named(words)) == classes


def test_what_is_new_needs_points():
    frame = VistaFrame()
    point = Points(np.zeros((1, 3)), np.array([True]))
    with pytest.raises(NoSuchStructure, match=r'"hat rack" is not among the 127 structures'):
        frame.classes(named("hat rack"))
    assert frame.classes(Prompt((Text("hat rack"), point))) == ()
    window = Grid((SIDE,) * 3, np.eye(4)).crop((-4, -4, -4), (28, 28, 28))
    marks = frame.marks(Prompt((Text("hat rack"), point)), window, None)
    assert (marks.tokens.tolist(), marks.signs.tolist(), marks.points.tolist()) == ([NEW], [[1]], [[[4, 4, 4]]])
    marks = frame.marks(Prompt((Text("lung tumor"), point)), window, None)
    assert (marks.tokens.tolist(), marks.signs.tolist()) == ([23], [[3]])


def test_windows_run_once_for_all_names():
    volume = probes.scene(probes.grid("RAS"))[0]
    model, store = probe(side=64), FeatureStore()
    together = say(model, bright(volume), named("liver"), named("spleen"), store=store)
    n = model.parts.net.windows
    alone = say(model, bright(volume), named("spleen"), store=store)[0]
    assert model.parts.net.windows == n
    assert np.array_equal(together[1].logits, alone.logits)
    say(model, bright(volume), named("aorta"), store=store)
    assert model.parts.net.windows == 2 * n


def test_a_name_that_is_found_nowhere_is_absent():
    volume, mask = probes.scene(probes.grid("RAS"))
    dark = Volume.of(np.full(volume.grid.shape, -900.0, np.float32), volume.grid, volume.channels)
    here, nowhere = (say(probe(side=64), v, named("liver"))[0] for v in (bright(volume), dark))
    assert here.presence > 0.5
    assert nowhere.presence < 0.5
    assert nowhere.absent
    assert not nowhere.mask(volume.grid).any()
    assert say(probe(side=64), volume, probes.pointed(mask, volume.grid))[0].presence is None


def test_features_of_a_clicked_window_are_kept():
    volume, mask = probes.scene(probes.grid("RAS"))
    model, store = probe("prompt"), FeatureStore()
    prompt = probes.pointed(mask, volume.grid)
    first = say(model, volume, prompt, store=store)[0]
    assert model.parts.net.features == 1
    more = prompt.also(Points(prompt.marks[0].xyz_mm + 3, np.array([True])))
    say(model, volume, more, store=store)
    assert model.parts.net.features == 2
    again = say(model, volume, prompt, store=store)[0]
    assert model.parts.net.features == 2
    assert np.array_equal(first.logits, again.logits)


@pytest.mark.parametrize(("stitch", "times"), [("sum", 2), ("mean", 1)])
def test_overlapping_windows_are_added_as_in_the_original_or_averaged(stitch, times):
    grid = Grid((80, 40, 40), np.diag([1.5, 1.5, 1.5, 1.0]))
    volume = Volume.of(np.full(grid.shape, 900.0, np.float32), grid, (Channel("CT"),))
    model = probe(stitch=stitch)
    points = Points(grid.mm([[30, 20, 20], [50, 20, 20]]), np.array([True, True]))
    logits = say(model, volume, Prompt((points,)))[0]
    value = float(VistaFrame(SIDE).prepare(volume).array[0, 0, 0, 0]) - 0.5
    found = logits.logits[0][tuple(np.rint(logits.grid.index(grid.mm([[40, 20, 20]]))[0]).astype(int))]
    assert found == pytest.approx(times * value, rel=1e-4)


def test_a_small_scan_is_padded_around():
    volume, mask = probes.scene(probes.grid("RAS"))
    model = probe("image", side=160)
    assert probes.off_voxels(say(model, bright(volume), named("liver"))[0].mask(volume.grid), mask) <= 1
    prompt = probes.pointed(mask, volume.grid)
    assert probes.off_voxels(say(model, bright(volume), prompt)[0].mask(volume.grid), mask) <= 1


def test_points_edit_only_the_parts_they_touch():
    before = np.full((9, 9, 20), -1.0, np.float32)
    before[3:6, 3:6, 2:6] = before[3:6, 3:6, 14:18] = 1
    clicked = np.full_like(before, -2)
    clicked[3:6, 3:6, 8:11] = clicked[:2, :2, :2] = 2
    added = edited(before, clicked, np.array([[4.0, 4.0, 9.0]]), np.array([True]))
    assert (added[3:6, 3:6, 8:11] == 2).all()
    assert (added[:2, :2, :2] == -1).all()
    assert (added[3:6, 3:6, 2:6] == 1).all()
    taken = edited(before, clicked, np.array([[4.0, 4.0, 15.0]]), np.array([False]))
    assert (taken[3:6, 3:6, 14:18] == -2).all()
    assert (taken[3:6, 3:6, 2:6] == 1).all()
    assert np.array_equal(edited(before, clicked, np.array([[99.0, 4.0, 15.0]]), np.array([False])), before)


def test_parts_are_touched_from_near_and_kept_only_with_a_point():
    mask = np.zeros((5, 5, 12), dtype=bool)
    mask[2, 2, 2:4] = mask[2, 2, 8:10] = True
    assert touched(mask, [np.array([2.0, 2.0, 5.0])]).sum() == 2
    assert not touched(mask, [np.array([2.0, 2.0, 11.9])]).any() or touched(mask, [np.array([2.0, 2.0, 6.0])]).any()
    logits = np.where(mask, 1.0, -1.0).astype(np.float32)
    points = np.array([[2.0, 2.0, 2.0], [2.0, 2.0, 8.0]])
    assert (with_points(logits, points, np.array([True, False])) > 0).sum() == 2
    assert not (with_points(logits, points[:1], np.array([False])) > 0).any()


def test_joined_logits_are_the_points_at_a_point_and_the_classes_far_away():
    one, other = torch.zeros(30, 30, 30), torch.ones(30, 30, 30)
    found = combined(one, other, torch.tensor([[5.0, 5.0, 5.0], [9.0, 9.0, 9.0]]), torch.tensor([1, -1]))
    assert found[5, 5, 5] == 1
    assert found[29, 29, 29] < 1e-6
    assert torch.equal(combined(one, other, torch.zeros(1, 3), torch.tensor([-1])), one)


def checkpoint(folder, **changes):
    torch.manual_seed(0)
    net = VistaNet(embed=8, blocks=(1, 1), classes=140)
    tensors = {re.sub(r"\.mlp\.linear([12])\.", r".mlp.lin\1.", k): v for k, v in net.state_dict().items()}
    tensors |= {f"{name}x": torch.zeros(1) for name in UNUSED}
    torch.save({**tensors, **changes}, folder / "checkpoint.pth")
    return str(folder)


def test_real_weights_need_a_word_about_their_use(tmp_path):
    path = checkpoint(tmp_path)
    with pytest.raises(WeightsError, match=r"non-commercial use only .*vista3d\(accept_non_commercial=true\)"):
        vista3d.load(checkpoint=path)
    model = vista3d.load(checkpoint=path, accept_non_commercial=True, patch=16, overlap=0.0)
    where = Grid((10, 20, 22), np.diag([3.0, 1.5, 1.5, 1.0])).toward("IRP")
    volume = Volume.of(np.random.default_rng(0).normal(50, 300, where.shape).astype(np.float32), where)
    mask = np.zeros(where.shape, dtype=bool)
    mask[tuple(slice(n // 3, n // 2) for n in where.shape)] = True
    before = volume.array.copy()
    prompts = [named("liver"), probes.pointed(mask, where), probes.pointed(mask, where).also(Text("spleen"))]
    answers = say(model, volume, *prompts)
    for prompt, answer in zip(prompts, answers, strict=True):
        alone = say(model, volume, prompt)[0]
        assert np.isfinite(answer.logits).all()
        assert np.array_equal(answer.logits, alone.logits)
    assert np.array_equal(volume.array, before)


@pytest.mark.slow
@pytest.mark.parametrize("check", contracts.EVERY, ids=lambda check: check.__name__.removeprefix("check_"))
def test_contract(tmp_path, check):
    check(f'vista3d(checkpoint="{checkpoint(tmp_path)}", accept_non_commercial=true, patch=32, overlap=0.0)')


def test_errors_say_what_to_do(tmp_path):
    path = checkpoint(tmp_path)
    with pytest.raises(SpecError, match="patch is 33, expected a multiple of 2"):
        vista3d.load(checkpoint=path, accept_non_commercial=True, patch=33)
    with pytest.raises(SpecError, match="overlap is 1, expected"):
        vista3d.load(checkpoint=path, accept_non_commercial=True, overlap=1.0)
    other = tmp_path / "other.pth"
    torch.save({"w": torch.zeros(1)}, other)
    with pytest.raises(WeightsError, match="is not a file of VISTA3D"):
        vista3d.load(checkpoint=str(other), accept_non_commercial=True)
    with pytest.raises(WeightsError, match="do not fit VISTA3D: 1 not of this model"):
        vista3d.load(checkpoint=checkpoint(tmp_path, strange=torch.zeros(1)), accept_non_commercial=True)
    volume = probes.scene(probes.grid("RAS"))[0]
    outside = Prompt((Points(np.full((1, 3), 9999.0), np.array([True])),))
    with pytest.raises(PromptError, match="neither came"):
        say(probe(), volume, outside)


def test_a_file_under_monais_names_is_read_as_well(tmp_path):
    torch.manual_seed(0)
    net = VistaNet(embed=8, blocks=(1, 1), classes=140)
    torch.save(net.state_dict(), tmp_path / "model.pt")
    model = vista3d.load(checkpoint=str(tmp_path / "model.pt"), accept_non_commercial=True)
    assert torch.equal(model.parts.net.class_head.class_embeddings.weight, net.class_head.class_embeddings.weight)


def test_the_heads_tables_of_classes_may_differ_in_length(tmp_path):
    torch.manual_seed(0)
    net = VistaNet(embed=8, blocks=(1, 1), classes=140, point_classes=512)  # the point head's default is 512
    torch.save(net.state_dict(), tmp_path / "model.pt")
    model = vista3d.load(checkpoint=str(tmp_path / "model.pt"), accept_non_commercial=True)
    assert len(model.parts.net.class_head.class_embeddings.weight) == 140


def test_full_size_keys(parity_dir):
    path = parity_dir / "keys" / "vista3d.json"
    if not path.exists():
        pytest.skip("no list of keys of vista3d")
    shapes = {key: tuple(shape) for key, shape in json.loads(path.read_text())["tensors"].items()}
    (size,) = vista3d.published()
    with torch.device("meta"):
        read = net_of(shapes)
    for net in (size.net, read):
        assert {key: tuple(value.shape) for key, value in net.state_dict().items()} == official(shapes)
    assert signature_of(shapes.items()) == vista3d.CARD.weights[0].signature
    assert parameters(size.net) / 1e6 == pytest.approx(218, abs=1)
    assert PUBLISHED["embed"] == 48


def test_the_work_of_each_stage_is_counted():
    (size,) = vista3d.published()
    work = {stage: counted(call) for stage, call in size.stages.items()}
    assert all(n > 0 for n in work.values())
    assert work["decoder (points)"] < work["encoder (points)"] / 5


@pytest.mark.slow
def test_every_tensor_counts_or_is_listed(parity_dir):
    """The gradient of the outputs with respect to each tensor of the fixture is not zero, or it is listed."""
    fixture = Fixture(parity_dir / "vista3d")
    if not fixture.checkpoint.exists():
        pytest.skip("no fixture of vista3d")
    net = vista3d.load(checkpoint=str(fixture.folder), accept_non_commercial=True).parts.net.requires_grad_(True)
    image = torch.from_numpy(fixture.io["in.volume"])[None, None]
    signs = torch.tensor([[1, 0, -1, -1], [3, 2, 3, -1], [1, 1, 0, 1]])
    points = torch.from_numpy(fixture.io["in.point_coords"][:1]).float().expand(3, -1, -1)[:, :4]
    marks = Marks(torch.zeros(3, dtype=torch.int64), points=points, signs=signs, tokens=torch.tensor([3, 26, 600]))
    clicked = net.decode(net.encode(image), marks).logits
    named_ = net.automatic(image, torch.arange(1, 4))
    generator = torch.Generator().manual_seed(0)
    total = sum((out * torch.randn(out.shape, generator=generator)).sum() for out in (clicked, named_))
    total.backward()
    known = {re.sub(r"\.mlp\.linear([12])\.", r".mlp.lin\1.", k): v for k, v in net.named_parameters()}
    scale = max(p.grad.abs().max().item() for p in known.values() if p.grad is not None)
    for key in torch.load(fixture.checkpoint, weights_only=True):
        listed = any(re.fullmatch(pattern, key) for pattern in parity_file.UNUSED)
        if "positional_encoding" in key:
            continue  # a buffer: the parity of the point branch depends on it
        value = known.get(key)
        moved = value is not None and value.grad is not None and value.grad.abs().max().item() > 1e-6 * scale
        assert moved or listed, key


def test_the_frame_scales_and_orients():
    where = probes.grid("LPI")
    prepared = VistaFrame(16).prepare(Volume.of(np.full(where.shape, 45.0, np.float32), where))
    assert prepared.grid.axes == "RAS"
    np.testing.assert_allclose(prepared.grid.spacing_mm, 1.5)
    np.testing.assert_allclose(
        prepared.array, (45 + 963.8247715525971) / (1053.678477684517 + 963.8247715525971), rtol=1e-5
    )
    assert VistaFrame(160).prepare(Volume.of(np.zeros(where.shape, np.float32), where)).grid.shape == (160,) * 3
    model = probe()
    assert model.rebuilt(replace(model.parts, weights="other")).digest != model.digest == probe().digest
