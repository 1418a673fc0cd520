"""SAMed, MA-SAM and Med-SA: where things lie, their names and files, fresh adapters, what every tensor is for."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

import probes
from parity import ma_sam as ma_sam_parity
from parity import samed as samed_parity
from sam_makers import fixture_of, small_encoder, still, unexplained
from segwise import assemble
from segwise.errors import NoSuchStructure, PromptError, SpecError, WeightsError
from segwise.geometry import Channel, Grid, Volume
from segwise.lifts.stacks import Stacks
from segwise.models import ma_sam, med_sa, samed
from segwise.nets import closed_sam, fact, flops, lora, sam_sizes, space_depth
from segwise.nets.contract import ClosedNet
from segwise.prompt import Prompt, Text
from segwise.segmenter import Ask, Parts
from segwise.store import FeatureStore

CLOSED = {"samed": (samed, samed_parity), "ma_sam": (ma_sam, ma_sam_parity)}
THREE = ("liver", "spleen", "left kidney")


class ClosedProbe(ClosedNet):
    """The class of each pixel by its brightness: the brightest third is class 2, the darkest third background."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.classes = classes
        self.shown: list[tuple[int, ...]] = []

    def forward(self, image):
        self.shown.append(tuple(image.shape))
        bright = image[:, :1]
        low, high = bright.amin(), bright.amax()
        level = (bright - low) / (high - low).clamp(min=1e-6) * 3 - 1.5
        rest = torch.full_like(bright, -9.0).expand(-1, self.classes - 3, *bright.shape[2:])
        return [torch.cat([-level, torch.full_like(level, -9.0), level, rest], dim=1)]


def closed(name: str, *, size: int = 72) -> Stacks:
    frames = {
        "samed": samed.SamedFrame(THREE, size=size, between=(40, 44)),
        "ma_sam": ma_sam.MaSamFrame(THREE, size=size),
    }
    return Stacks(Parts(ClosedProbe(), frames[name], THREE, "probe"), count_from=int(name == "ma_sam"))


def told(model: Stacks, volume: Volume, words: str) -> np.ndarray:
    state = model.encode(volume, store=FeatureStore())
    return model.segment(state, [Ask(Prompt((Text(words),)))])[0].mask(volume.grid)


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("axes", probes.orientations())
def test_a_closed_model_answers_in_place_in_every_orientation(axes, name):
    where = probes.grid(axes, spacing_mm=(4.0, 5.0, 8.0))
    volume, mask = probes.scene(where)
    assert probes.off_voxels(told(closed(name), volume, "spleen"), mask) <= 1


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize(("spacing", "slant"), [((0.9, 1.1, 5.0), 0.0), ((2.0, 2.5, 4.0), 12.0)])
def test_a_closed_model_answers_in_place_in_other_spacings_and_slants(name, spacing, slant):
    where = probes.grid("LPS", spacing_mm=spacing, slant=slant)
    volume, mask = probes.scene(where, slant=slant)
    assert probes.off_voxels(told(closed(name, size=112), volume, "spleen"), mask) <= 1


def test_labels_exclude_each_other_and_what_is_nowhere_is_empty():
    where = probes.grid("LPS", spacing_mm=(4.0, 5.0, 8.0))
    volume, _ = probes.scene(where)
    for name in CLOSED:
        model = closed(name)
        assert not told(model, volume, "liver").any()
        assert not told(model, volume, "left kidney").any()
        with pytest.raises(NoSuchStructure, match="hat rack"):
            told(model, volume, "hat rack")
        with pytest.raises(PromptError, match="name as text"):
            model.segment(
                model.encode(volume, store=FeatureStore()), [Ask(probes.boxed(np.ones((1, 1, 1), bool), where))]
            )


@pytest.mark.parametrize("depth", [1, 2, 7])
def test_every_slice_has_four_neighbours_and_is_seen_in_its_stacks(depth):
    grid = Grid((depth, 12, 14), np.diag([3.0, 2.0, 1.5, 1.0])[[2, 1, 0, 3]]).toward("SPL")
    volume = Volume.of(np.arange(depth, dtype=np.float32)[:, None, None] * np.ones((12, 14), np.float32), grid)
    frame = ma_sam.MaSamFrame(THREE, size=16)
    padded = frame.padded(volume)
    assert padded.array[0, :, 0, 0].tolist() == [0, 0, *range(depth), depth - 1, depth - 1]
    assert frame.inner(padded.grid).close(grid)
    net = ClosedProbe()
    lift = Stacks(Parts(net, frame, THREE, "probe"), count_from=1)
    slabs = [slab[:, 0] for slab in lift.slabs(padded)]
    assert len(slabs) == len(net.shown) == depth and set(net.shown) == {(1, 3, 5, 16, 16)}
    for place, slab in enumerate(slabs):
        stacks = sum(0 <= other < depth for other in range(place - 2, place + 3))
        np.testing.assert_allclose(slab.sum(dim=0), stacks / (stacks + 1), atol=1e-4)  # shares, over one more


def test_the_label_of_a_voxel_is_that_of_the_nearest_pixel():
    frame = samed.SamedFrame(THREE, size=48)
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(4, 1, 48, 48)).astype(np.float32)
    window = Grid((1, 30, 41), np.eye(4))
    from scipy import ndimage

    expected = ndimage.zoom(logits[:, 0].argmax(axis=0), (30 / 48, 41 / 48), order=0)
    assert np.array_equal(frame.scores(logits, window)[:, 0].argmax(axis=0), expected)


def test_intensities_are_the_training_sets():
    values = np.array([-1000.0, -125.0, 75.0, 275.0, 3000.0], dtype=np.float32).reshape(1, 1, 1, 5)
    assert samed.SamedFrame(THREE).scaled(values).ravel().tolist() == [0, 0, 0.5, 1, 1]
    grey = (np.array([0, 75 / 450, 275 / 450, 1, 1]) * 255 - ma_sam.MEAN) / ma_sam.STD
    np.testing.assert_allclose(ma_sam.MaSamFrame(THREE).scaled(values).ravel(), grey, rtol=1e-5)
    stack = np.linspace(-0.7, 2.9, 5 * 16 * 16, dtype=np.float32).reshape(5, 16, 16)
    shown = ma_sam.MaSamFrame(THREE, size=16).shown(stack)
    assert shown.min() == 0 and abs(shown.max() - 1) < 1e-6
    assert np.array_equal(ma_sam.MaSamFrame(THREE, size=16, stretch=False).shown(stack), stack)


@pytest.mark.parametrize("name", CLOSED)
def test_answers_do_not_depend_on_what_was_asked_before(name, parity_dir):
    fixture = fixture_of(parity_dir, name)
    classes = fixture.config["num_classes"]
    names = ["liver", "spleen", *(f"class {i}" for i in range(2, classes))]
    spec = f'{name.replace("_", "-")}(checkpoint="{fixture.folder}", labels="{";".join(names)}")'
    built = assemble.build(spec)
    assert built.info.labels == built.segmenter.parts.labels == tuple(names)
    assert built.weights.startswith("unknown:")
    where = probes.grid("AIL", spacing_mm=(6.0, 6.0, 20.0))
    volume, _ = probes.scene(where)
    asks = [Ask(Prompt((Text(word),))) for word in ("liver", "spleen")]
    model = built.segmenter
    state = model.encode(volume, store=FeatureStore())
    first = model.segment(state, asks[:1])[0]
    together = model.segment(model.encode(volume, store=FeatureStore()), asks)
    again = model.segment(state, asks)
    assert np.array_equal(first.logits, again[0].logits) and np.array_equal(first.logits, together[0].logits)
    assert np.array_equal(again[1].logits, together[1].logits)
    assert assemble.build(spec).segmenter.digest == model.digest


@pytest.mark.parametrize("name", CLOSED)
def test_classes_without_names_are_an_error_that_says_how(name, parity_dir):
    fixture = fixture_of(parity_dir, name)
    module, n = CLOSED[name][0], fixture.config["num_classes"]
    with pytest.raises(SpecError, match=rf"answer {n} classes, .* was published with .*labels="):
        module.load(checkpoint=str(fixture.folder))
    with pytest.raises(SpecError, match="labels= gives 2"):
        module.load(checkpoint=str(fixture.folder), labels="liver;spleen")
    with pytest.raises(SpecError, match="twice"):
        module.load(checkpoint=str(fixture.folder), labels=";".join(["liver"] * n))
    with pytest.raises(SpecError, match="three letters"):
        module.load(checkpoint=str(fixture.folder), labels=samed_parity.labels_of(n), axes="up")


@pytest.mark.parametrize("name", CLOSED)
def test_the_frozen_sam_is_found_or_asked_for(name, parity_dir, tmp_path, monkeypatch):
    fixture = fixture_of(parity_dir, name)
    module, parity_of = CLOSED[name]
    names = samed_parity.labels_of(fixture.config["num_classes"])
    for file in ("checkpoint.pth", "config.json"):
        shutil.copy(fixture.folder / file, tmp_path)
    monkeypatch.setenv("SEGWISE_WEIGHTS_DIR", str(tmp_path / "none"))
    with pytest.raises(WeightsError, match=r"base_sam\.pth .*base=FILE"):
        module.load(checkpoint=str(tmp_path), labels=names)
    with pytest.raises(WeightsError, match="base file is not SAM's"):
        module.load(checkpoint=str(tmp_path), labels=names, base=str(fixture.checkpoint))
    given = module.load(checkpoint=str(tmp_path), labels=names, base=str(fixture.folder / "base_sam.pth"))
    assert given.digest == parity_of.loaded(fixture).digest or name == "ma_sam"


def test_a_larger_sam_is_brought_to_the_adapted_size(parity_dir, tmp_path):
    fixture = fixture_of(parity_dir, "samed")
    base = torch.load(fixture.folder / "base_sam.pth", weights_only=True)
    side = base["image_encoder.pos_embed"].shape[1]
    larger = closed_sam.resized(base, (2 * side, 2 * side))
    torch.save(larger, tmp_path / "larger.pth")
    names = samed_parity.labels_of(fixture.config["num_classes"])
    model = samed.load(checkpoint=str(fixture.folder), labels=names, base=str(tmp_path / "larger.pth"))
    assert model.frame.size == fixture.config["img_size"]
    tables = {key: len(value) for key, value in base.items() if key.endswith("rel_pos_h")}
    assert {key for key, n in tables.items() if n != len(larger[key])} == {
        key for key, n in tables.items() if n == 2 * side - 1
    }


def rounded(module, tensors: dict[str, torch.Tensor], ours: dict[str, torch.Tensor]) -> None:
    back = module.published(ours)
    assert set(back) == set(tensors) and all(torch.equal(back[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize(("name", "net"), [("samed", lora), ("ma_sam", fact)])
def test_the_saved_format_and_back(name, net, parity_dir):
    fixture = fixture_of(parity_dir, name)
    own = torch.load(fixture.checkpoint, weights_only=True)
    base = torch.load(fixture.folder / "base_sam.pth", weights_only=True)
    rounded(net, own, net.named(base, own))


KEYS = [
    ("samed_vit_b_rank4", samed, lora, 0),
    ("ma_sam_vit_h", ma_sam, fact, 0),
    ("med_sa_vit_b_2d", med_sa, space_depth, 0),
    ("med_sa_vit_b_3d", med_sa, space_depth, 1),
]


@pytest.mark.parametrize(("file", "module", "net", "which"), KEYS, ids=lambda x: x if isinstance(x, str) else "")
def test_the_published_keys(file, module, net, which, parity_dir):
    path = parity_dir / "keys" / f"{file}.json"
    if not path.exists():
        pytest.skip(f"no list of the keys of {file}")
    listed = {key: tuple(shape) for key, shape in json.loads(path.read_text())["tensors"].items()}
    size = module.published()[which]
    ours = {key: tuple(value.shape) for key, value in net.published(size.net.state_dict()).items()}
    if net is space_depth:
        ours["image_encoder.pos_embed"] = listed["image_encoder.pos_embed"]
    assert ours == listed


def test_the_published_keys_make_the_published_net(parity_dir):
    """The way a checkpoint goes: sizes from keys alone, the base brought from 1024 to 512."""
    for file, base_file, published in (
        ("samed_vit_b_rank4", "sam_vit_b", samed.published),
        ("ma_sam_vit_h", "sam_vit_h", ma_sam.published),
    ):
        paths = [parity_dir / "keys" / f"{name}.json" for name in (file, base_file)]
        if not all(path.exists() for path in paths):
            pytest.skip("no lists of the published keys")
        own, base = (
            {key: torch.empty(shape, device="meta") for key, shape in json.loads(path.read_text())["tensors"].items()}
            for path in paths
        )
        encoder = {key: value for key, value in base.items() if key.startswith("image_encoder.")}
        shapes = {key: tuple(value.shape) for key, value in {**closed_sam.resized(encoder, (32, 32)), **own}.items()}
        with torch.device("meta"):
            net = closed_sam.net_of(shapes, {})
            if lora.rank_of(shapes):
                lora.adapted(net.image_encoder, rank=lora.rank_of(shapes))
            else:
                fact.adapted(net.image_encoder, rank=fact.rank_of(shapes), hidden=fact.hidden_of(shapes))
        ours = {key: tuple(value.shape) for key, value in net.state_dict().items()}
        (size,) = published()
        assert ours == {key: tuple(value.shape) for key, value in size.net.state_dict().items()}


@pytest.mark.parametrize("module", [samed, ma_sam, med_sa], ids=lambda module: module.__name__.split(".")[-1])
def test_their_work_is_counted(module):
    for size in module.published():
        counts = {stage: flops.counted(call) for stage, call in size.stages.items()}
        assert counts["encoder"] > counts["decoder"] > 0


# fresh adapters


@torch.no_grad()
@pytest.mark.parametrize("kind", ["lora", "fact", "space_depth", "space_depth in depth"])
def test_a_fresh_adapter_changes_nothing(kind):
    torch.manual_seed(3)
    encoder = small_encoder()
    image = torch.randn(4, 3, 64, 64)
    before = encoder(image)
    if kind == "lora":
        lora.adapted(encoder, rank=2)
    elif kind == "fact":
        fact.adapted(encoder, rank=2, hidden=8, slices=2)
    else:
        space_depth.adapted(encoder, chunk=4 if kind.endswith("depth") else 0)
    assert torch.equal(encoder(image), before)


@torch.no_grad()
def test_slices_of_a_stack_see_their_neighbours_and_no_other_stack():
    torch.manual_seed(0)
    adapter = fact.SliceAdapter(6, hidden=16, slices=5)
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter)
    image = torch.randn(10, 2, 2, 6)
    before = adapter(image)
    image[1] = 3 * torch.randn(2, 2, 6)  # not a shift: the adapter's norm would take it away
    changed = (adapter(image) - before).abs().amax(dim=(1, 2, 3)) > 1e-6
    assert changed.tolist() == [True, True, True] + [False] * 7


# what every tensor is for


@pytest.mark.slow
@pytest.mark.parametrize(("name", "net_of"), [("samed", lora), ("ma_sam", fact)])
def test_every_tensor_of_a_closed_model_moves_an_answer(name, net_of, parity_dir):
    fixture = fixture_of(parity_dir, name)
    parity_of = CLOSED[name][1]
    model = parity_of.loaded(fixture)
    net = model.parts.net
    prepared, _ = parity_of.prepared_of(model, fixture.io["in.volume"])
    window = model.frame.window(prepared.grid, (prepared.grid.shape[0] // 2, 0, 0))
    embedding = net.embed(torch.from_numpy(model.frame.view(prepared, window))[None])
    said = net.classes(embedding)
    (said.low_res.sin().sum() + said.iou.square().sum()).backward()
    names = still(net)
    own = net_of.published({key: torch.zeros(0) for key in names})
    base = [key.replace(".qkv.qkv.", ".qkv.") for key in names if key.startswith("image_encoder.")]
    frozen = [key for key in base if not net_of.published({key: torch.zeros(0)})]
    assert unexplained(own, parity_of.UNUSED) == [] and unexplained(frozen, parity_of.BASE_UNUSED) == []


def test_the_sizes_of_sam_are_the_published_ones(parity_dir):
    for name in sam_sizes.SIZES:
        path = parity_dir / "keys" / f"sam_vit_{name}.json"
        if not path.exists():
            pytest.skip("no lists of the published keys")
        listed = {key: tuple(shape) for key, shape in json.loads(path.read_text())["tensors"].items()}
        with torch.device("meta"):
            net = sam_sizes.sam(name, 1024)
        assert {key: tuple(value.shape) for key, value in net.state_dict().items()} == listed


def test_the_channel_says_nothing_to_a_closed_model():
    grid = Grid((1, 12, 14), np.diag([3.0, 2.0, 1.5, 1.0])[[2, 1, 0, 3]])
    values = np.random.default_rng(0).normal(0, 200, (1, 12, 14)).astype(np.float32)
    frame = samed.SamedFrame(THREE, size=16)
    one, two = (frame.prepare(Volume.of(values, grid, (Channel(name),))).array for name in ("CT", ""))
    assert np.array_equal(one, two)
