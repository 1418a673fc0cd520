"""LiteMedSAM against what the official code computed on real slices (parity/litemedsam), stage by stage.

Tolerance: max difference <= max(1e-5, 1e-3 x standard deviation of the expected tensor); masks may differ in 3 pixels.
"""

from __future__ import annotations

import json
import re
from typing import ClassVar

import numpy as np
import pytest
import torch

from segwise.geometry import Grid, Volume
from segwise.lifts import grey
from segwise.lifts.propagate import Propagate
from segwise.lifts.slices import Slices
from segwise.models import litemedsam
from segwise.prompt import Box, Prompt
from segwise.segmenter import Ask, Parts, State
from segwise.store import FeatureStore

pytestmark = pytest.mark.weights
PIXELS = 3
SUBSAMPLED = {"patch_embed": (4, 8, 8), "neck": (4, 8, 8)}  # other stages are tokens [::16, ::4]


@pytest.fixture(scope="module")
def stored(parity_dir):
    path = parity_dir / "litemedsam" / "io.npz"
    if not path.exists():
        pytest.skip("no parity fixture of litemedsam")
    with np.load(path) as file:
        return dict(file)


@pytest.fixture(scope="module")
def net(weights_dir):
    return litemedsam.load().parts.net


def names(stored, ending):
    return sorted(m.group(1) for key in stored if (m := re.fullmatch(rf"in\.(.+)_{ending}", key)))


def near(found, expected):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= max(1e-5, 1e-3 * expected.std())


def lps(shape):
    """A grid of axial slices, rows to P, columns to L."""
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = 3, -0.9, -0.9, 1
    return Grid(shape, affine)


def prepared(array):
    """A volume whose grey levels are given, as `LiteFrame.prepare` returns it."""
    return Volume.of(array[None], lps(array.shape))


def xyxy(marks):
    return marks.boxes[:, :, 1:].flip(-1).reshape(-1, 4).numpy()


def box2d(grid, box):
    x0, y0, x1, y1 = (int(v) for v in box)
    return Prompt((Box.of(grid, (0, y0, x0), (1, y1 + 1, x1 + 1)),))


def stages(net, view):
    """Outputs of the encoder's parts and the embedding, of one view."""
    seen = {}
    encoder = net.image_encoder
    parts = {"patch_embed": encoder.patch_embed, "neck": encoder.neck}
    parts |= {f"layers{i}": layer for i, layer in enumerate(encoder.layers)}
    hooks = [m.register_forward_hook(lambda _m, _i, out, n=n: seen.update({n: out[0]})) for n, m in parts.items()]
    with torch.no_grad():
        features = net.encode(torch.from_numpy(view)[None])
    for hook in hooks:
        hook.remove()
    return seen, features


def test_parity_grey_levels(stored):
    assert names(stored, "raw")
    for name in names(stored, "raw"):
        ct = f"in.{name}_window" in stored
        between = stored[f"in.{name}_window" if ct else f"in.{name}_percentiles"]
        image = grey.levels(stored[f"in.{name}_raw"], tuple(between), zeros=not ct)
        assert np.array_equal(image, stored[f"in.{name}_image"])


def test_parity_view_and_boxes(stored):
    frame = litemedsam.LiteFrame()
    for name in names(stored, "image"):
        image, boxes = stored[f"in.{name}_image"], stored[f"in.{name}_boxes"]
        volume = prepared(image[None])
        window = frame.window(volume.grid, (0, 0, 0))
        assert np.array_equal(litemedsam.resized(image), stored[f"out.{name}_resized"])
        view = frame.view(volume, window)
        near(view[:, 0], np.repeat(stored[f"out.{name}_input"][None], 3, axis=0))
        marks = [frame.marks(box2d(window, box), window, None) for box in boxes]
        assert np.array_equal(np.concatenate([xyxy(m) for m in marks]), stored[f"out.{name}_box256"])


def test_parity_encoder_and_decoder(stored, net):
    frame = litemedsam.LiteFrame()
    near(net.prompt_encoder.places()[0, :, ::4, ::4].detach(), stored["out.image_pe_sub"])
    near(net.prompt_encoder.dense(None, 1)[0, :, 0, 0].detach(), stored["out.dense_vector"])
    for name in names(stored, "image"):
        image, boxes = stored[f"in.{name}_image"], stored[f"in.{name}_boxes"]
        volume = prepared(image[None])
        window = frame.window(volume.grid, (0, 0, 0))
        seen, features = stages(net, frame.view(volume, window))
        for stage, out in seen.items():
            if f"out.{name}_stage_{stage}" in stored:
                step = SUBSAMPLED.get(stage)
                part = out[:: step[0], :: step[1], :: step[2]] if step else out.flatten(1).T[::16, ::4]
                near(part, stored[f"out.{name}_stage_{stage}"])
        for suffix, step in (("sub", 4), ("sub2", 2)):
            if f"out.{name}_embedding_{suffix}" in stored:
                near(features[0, :, ::step, ::step], stored[f"out.{name}_embedding_{suffix}"])
        marks = frame.marks(Prompt(sum((box2d(window, box).marks for box in boxes), ())), window, None)
        with torch.no_grad():
            sparse = net.prompt_encoder.sparse(None, None, marks.boxes[:, :, 1:].flip(-1), len(boxes))
            decoded = net.decode(features, marks)
        near(sparse, stored[f"out.{name}_sparse"])
        near(decoded.logits[:, 0, 0], stored[f"out.{name}_low_res_logits"])
        near(decoded.quality, stored[f"out.{name}_iou"])
        logits = frame.restore(decoded.logits.numpy(), window)[:, 0, 0]
        if f"out.{name}_logits" in stored:
            near(logits, stored[f"out.{name}_logits"])
        masks = np.unpackbits(stored[f"out.{name}_masks"], count=logits.size).reshape(logits.shape).astype(bool)
        assert ((logits > 0) != masks).sum(axis=(1, 2)).max() <= PIXELS


def test_parity_slices_answer_the_official_masks(stored, net):
    lift = Slices(Parts(net, litemedsam.LiteFrame(), None, "parity"))
    for name in names(stored, "image"):
        image, boxes = stored[f"in.{name}_image"], stored[f"in.{name}_boxes"]
        volume = prepared(image[None])
        state = State(volume, volume.grid, FeatureStore())
        asks = [Ask(box2d(volume.grid, box)) for box in boxes]
        segs = np.zeros(image.shape, dtype=np.uint8)
        for i, prediction in enumerate(lift.segment(state, asks), start=1):
            segs[prediction.mask(volume.grid)[0]] = i
        assert (segs != stored[f"out.{name}_segs"]).sum() <= PIXELS * len(boxes)


class Watched(Propagate):
    """Notes each step."""

    steps: ClassVar[list] = []

    def _step(self, state, place, marks):
        step = super()._step(state, place, marks)
        self.steps.append((place, xyxy(marks)[0], step))
        return step


@pytest.mark.slow
def test_parity_propagation(stored, net):
    """About a second a slice: the official order, boxes, answers and masks of every step of every object."""
    assert names(stored, "volume")
    for name in names(stored, "volume"):
        volume = prepared(stored[f"in.{name}_volume"])
        state = State(volume, volume.grid, FeatureStore())
        segs = np.zeros(volume.grid.shape, dtype=np.uint8)
        Watched.steps.clear()
        numbers = []
        for number, box in enumerate(stored[f"in.{name}_boxes3d"], start=1):
            lift = Watched(Parts(net, litemedsam.LiteFrame(number=number), None, "parity"))
            x0, y0, z0, x1, y1, z1 = (int(v) for v in box)
            ask = Ask(Prompt((Box.of(volume.grid, (z0, y0, x0), (z1 + 1, y1 + 1, x1 + 1)),)))
            segs[lift.segment(state, [ask])[0].mask(volume.grid)] = number
            numbers += [number] * (len(Watched.steps) - len(numbers))
        order = np.array([(n, place) for n, (place, _, _) in zip(numbers, Watched.steps, strict=True)])
        assert np.array_equal(order, stored[f"out.{name}_object_and_slice_order"])
        assert np.array_equal([box for _, box, _ in Watched.steps], stored[f"out.{name}_box256"])
        near([step.piece.quality[0, 0] for *_, step in Watched.steps], stored[f"out.{name}_iou"])
        low_res = np.stack([step.piece.logits[0, 0, 0, ::8, ::8] for *_, step in Watched.steps])
        near(low_res, stored[f"out.{name}_low_res_logits_sub"])
        voxels = np.array([step.mask.sum() for *_, step in Watched.steps])
        assert np.abs(voxels - stored[f"out.{name}_voxels_per_step"]).max() <= PIXELS
        assert (segs != stored[f"out.{name}_segs"]).sum(axis=(1, 2)).max() <= PIXELS * max(numbers)


def test_parity_settings_are_the_official_ones(parity_dir):
    path = parity_dir / "litemedsam" / "config.json"
    if not path.exists():
        pytest.skip("no parity fixture of litemedsam")
    config = json.loads(path.read_text())
    assert litemedsam.CARD.weights[0].sha256 == config["weights"]["sha256"]
    assert config["image_size"] == litemedsam.SIZE
    assert config["propagation"]["box_shift_px_256"] == litemedsam.FOLLOW_PX
    assert list(grey.MR_PERCENTILES) == config["mr_percentiles"]
