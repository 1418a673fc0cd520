"""MeshNet: the net in slabs, the conformed space, and names. The official outputs are in tests/parity/meshnet.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segwise import anatomy, catalog
from segwise.errors import NoSuchStructure, PromptError, WeightsError
from segwise.geometry import Grid, Volume
from segwise.lifts.conform import conform, conformed_grid, limits
from segwise.models import meshnet
from segwise.nets import meshnet as nets
from segwise.prompt import Points, Prompt, Text

VARIANTS = tuple(meshnet.CARD.labels)


# ---- the net ----


@pytest.mark.parametrize("shape", [(5, 6, 7), (1, 4, 3), (13, 9, 8), (40, 5, 6)])
@pytest.mark.parametrize(
    ("activation", "norm", "dilations"), [("elu", False, (1, 2, 4, 1)), ("gelu", True, (3, 1)), ("relu", False, (16,))]
)
def test_slabs_equal_the_whole(shape, activation, norm, dilations):
    torch.manual_seed(0)
    net = nets.MeshNet(channels=5, classes=3, dilations=dilations, activation=activation, norm=norm).eval()
    image = torch.rand(1, 1, *shape)
    with torch.inference_mode():
        (whole,) = net(image)
    pieces = list(net.slabs(image))
    assert all(piece.shape[2] <= nets.PLANES for piece in pieces)
    torch.testing.assert_close(torch.cat(pieces, 2), whole, atol=2e-5, rtol=1e-5)


def test_slabs_leave_the_image_alone_and_repeat():
    net = nets.MeshNet(channels=4, classes=2, dilations=(2, 1), activation="elu").eval()
    image = torch.rand(1, 1, 9, 6, 7)
    before = image.clone()
    first, again = (torch.cat(list(net.slabs(image)), 2) for _ in range(2))
    assert torch.equal(first, again) and torch.equal(image, before)


def test_forward_has_gradients():
    net = nets.MeshNet(channels=3, classes=2, dilations=(1, 2), activation="elu")
    net(torch.rand(2, 1, 4, 5, 6))[0].sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_weights_of_another_net_are_refused():
    net = nets.MeshNet(channels=3, classes=2, dilations=(1,))
    good = {
        "model.0.weight": torch.rand(3, 1, 3, 3, 3),
        "model.0.bias": torch.rand(3),
        "model.2.weight": torch.rand(2, 3, 1, 1, 1),
        "model.2.bias": torch.rand(2),
    }
    nets.load_weights(net, good)
    assert torch.equal(net.last.bias, good["model.2.bias"])
    with pytest.raises(WeightsError, match=r"has 1 layers, expected 2"):
        nets.load_weights(net, {"model.0.weight": good["model.0.weight"]})
    with pytest.raises(WeightsError, match=r"model\.2\.weight is \(5, 3, 1, 1, 1\), expected \(2, 3, 1, 1, 1\)"):
        nets.load_weights(net, {**good, "model.2.weight": torch.rand(5, 3, 1, 1, 1)})
    with pytest.raises(WeightsError, match=r"model\.0\.bias is missing"):
        nets.load_weights(net, {k: v for k, v in good.items() if k != "model.0.bias"})


# ---- the conformed space ----


def test_conformed_grid_puts_voxel_128_at_half_the_shape():
    affine = np.array([[2.0, 0, 0, -7], [0, 0, 3, 5], [0, 1.5, 0, 11], [0, 0, 0, 1]])
    grid = Grid((40, 50, 30), affine)
    found = conformed_grid(grid)
    assert found.shape == (256, 256, 256) and found.axes == "LIA"
    np.testing.assert_allclose(found.spacing_mm, 1)
    np.testing.assert_allclose(found.mm([128, 128, 128]), grid.mm([20, 25, 15]))


def test_limits_leave_two_percent_of_the_nonzero_above():
    values = np.concatenate([np.zeros(500), np.arange(1, 1001)]).astype(np.float32)
    low, top = limits(values)
    assert low == 0 and 977 <= top <= 981  # 20 of 1000 above; bins of one, the lower edge of the bin before
    assert limits(np.full(5, 3.0)) == (3.0, 4.0)
    assert limits(np.array([-2.0, -1.0]))[0] == -2


def test_conform_keeps_voxels_of_a_grid_that_fits_and_is_8_bit():
    array = np.zeros((6, 8, 4), dtype=np.int16)
    array[2:5, 1:4, 1:3] = np.arange(18).reshape(3, 3, 2) + 10
    volume = Volume.of(array, Grid(array.shape, np.diag([1.0, 1, 1, 1])))  # 1 mm, axes R A S
    out = conform(volume)
    assert out.array.dtype == np.uint8 and out.array.shape == (1, 256, 256, 256)
    back = out.on(volume.grid, order=0).array[0]
    low, top = limits(array)
    assert np.array_equal(back, np.rint(np.clip((array - low) * 255 / (top - low), 0, 255)))
    assert out.array.sum() == back.sum()


def test_conform_is_black_outside_the_voxel_centres():
    affine = np.array([[-1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])  # to L, I, A
    array = np.full((1, 4, 6, 7), 9.0, dtype=np.float32)
    array[0, 0, 0, 0] = 0
    out = conform(Volume.of(array, Grid((4, 6, 7), affine))).array[0]
    low, high = (np.argwhere(out > 0).min(0), np.argwhere(out > 0).max(0) + 1)
    assert (high - low).tolist() == [3, 5, 6]  # up to the last voxel's centre, which is black
    assert out[126, 125, 125] == 128  # an axis of 7 is seen between its voxels: half of 0 and 255, rounded up


def test_conform_reads_what_is_not_finite_as_the_least():
    array = np.ones((4, 4, 4), dtype=np.float32) * 5
    array[0, 0, 0], array[1, 1, 1], array[2, 2, 2] = np.nan, np.inf, 9
    out = conform(Volume.of(array, Grid((4, 4, 4), np.eye(4))))
    assert np.isfinite(out.array).all()


# ---- names ----


def test_the_vocabulary_knows_every_label_by_its_common_name():
    for variant, labels in meshnet.CARD.labels.items():
        assert len(set(labels)) == len(labels), variant
        assert [anatomy.resolve(label).name for label in labels] == list(labels)
        assert all(anatomy.resolve(label).known for label in labels)


def test_card_and_arguments_agree():
    member = catalog.member("models", "meshnet")
    assert member.parameters["variant"].choices == VARIANTS == tuple(w.variant for w in meshnet.CARD.weights)
    assert member.card == meshnet.CARD
    sizes = {v: len(labels) + 1 for v, labels in meshnet.CARD.labels.items()}
    assert sizes["subcortical"] == 18 and sizes["model21_104class"] == 104 and sizes["model30chan50cls"] == 50


@pytest.mark.parametrize(
    ("words", "variant", "labels"),
    [
        ("Thalamus", "subcortical", ("thalamus",)),
        ("Left-Thalamus-Proper*", "model21_104class", ("left thalamus",)),
        ("thalamus", "model21_104class", ("left thalamus", "right thalamus")),
        ("brain stem", "subcortical", ("brainstem",)),
        ("ctx-lh-insula", "model21_104class", ("left insular cortex",)),
        ("GM", "model5_gw_ae", ("gray matter",)),
        ("brain", "mindgrab", ("brain",)),
    ],
)
def test_words_mean_labels(words, variant, labels):
    assert anatomy.among(words, meshnet.CARD.labels[variant]) == labels


def test_what_is_not_on_the_list_is_refused_with_a_hint():
    labels = meshnet.CARD.labels["subcortical"]
    with pytest.raises(NoSuchStructure, match=r'"left thalamus": .* "thalamus" only with both sides together'):
        anatomy.among("left thalamus", labels)
    with pytest.raises(NoSuchStructure, match=r'"cerebellum" is not among the 17 .*near: .*cerebellar'):
        anatomy.among("cerebellum", labels)
    with pytest.raises(
        NoSuchStructure, match=r'"liver" is not among the 17 structures of this model; it knows .* and 11 more$'
    ):
        anatomy.among("liver", labels)


def test_the_frame_takes_text():
    frame = meshnet.Conformed(meshnet.CARD.labels["subcortical"])
    grid = Grid((4, 4, 4), np.eye(4))
    assert frame.marks(Prompt((Text("caudate"),)), grid, None) == ("caudate",)
    with pytest.raises(PromptError, match="as text"):
        frame.marks(Prompt((Points([[0, 0, 0]], [True]),)), grid, None)
    assert frame.follow(np.zeros((4, 4, 4), dtype=bool), grid) == ()


def test_a_view_is_a_crop_of_the_prepared_volume():
    frame = meshnet.Conformed(("brain",))
    array = np.random.default_rng(0).integers(0, 90, (7, 6, 5)).astype(np.int16)
    prepared = frame.prepare(Volume.of(array, Grid(array.shape, np.diag([3.0, 2, 4, 1]))))
    assert prepared.array.dtype == np.float32 and prepared.array.min() == 0 and prepared.array.max() <= 1
    whole = frame.view(prepared, frame.window(prepared.grid, (128, 128, 128)))
    assert np.array_equal(whole, prepared.array)
    low, high = (100, 110, 120), (131, 140, 133)
    part = frame.view(prepared, prepared.grid.crop(low, high))
    assert np.array_equal(part, whole[:, 100:131, 110:140, 120:133])


def test_missing_weights_say_what_to_type(monkeypatch, tmp_path):
    monkeypatch.setenv("SEGWISE_WEIGHTS_DIR", str(tmp_path))
    with pytest.raises(WeightsError, match="segwise weights pull meshnet"):
        meshnet.load(variant="mindgrab")


def test_mindgrab_with_its_bias_is_the_default(weights_dir, monkeypatch):
    monkeypatch.setenv("SEGWISE_WEIGHTS_DIR", str(weights_dir))
    kept, dropped = meshnet.load(variant="mindgrab"), meshnet.load(variant="mindgrab", last_bias=False)
    assert kept.encoder != dropped.encoder
    image = torch.rand(1, 1, 6, 7, 8)
    with torch.inference_mode():
        shift = (kept.parts.net(image)[0] - dropped.parts.net(image)[0])[0, :, 0, 0, 0]
    np.testing.assert_allclose(shift, [1.5254, -1.5258], atol=1e-4)
