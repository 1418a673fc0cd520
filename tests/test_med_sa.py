"""Med-SA: where its points lie, its chunks, its files, what every tensor is for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import probes
from parity import med_sa as parity_of
from sam_makers import fixture_of, small_encoder, still, unexplained
from segwise.errors import PromptError, SpecError, WeightsError
from segwise.geometry import Grid
from segwise.lifts.chunks import Chunks
from segwise.lifts.orthogonal import Orthogonal
from segwise.lifts.propagate import Propagate
from segwise.lifts.slices import Slices
from segwise.models import med_sa
from segwise.nets import space_depth
from segwise.nets.contract import Marks
from segwise.prompt import Box, Points, Prompt
from segwise.segmenter import Ask, Parts
from segwise.store import FeatureStore


def test_med_sas_saved_format_and_back(parity_dir):
    fixture = fixture_of(parity_dir, "med_sa")
    tensors = torch.load(fixture.checkpoint, weights_only=True)["state_dict"]
    side = tensors["image_encoder.pos_embed"].shape[1]
    back = space_depth.published(space_depth.named(tensors, side))
    assert set(back) == set(tensors) and all(torch.equal(back[key], tensors[key]) for key in tensors)


@torch.no_grad()
def test_depth_mixes_the_slices_of_a_chunk_at_each_place():
    torch.manual_seed(0)
    encoder = small_encoder()
    space_depth.adapted(encoder, chunk=2)
    for name, parameter in encoder.named_parameters():
        if ".depth." in name:
            torch.nn.init.normal_(parameter)
    block = encoder.blocks[1]
    x = torch.randn(4, 4, 4, 24)
    before = block.attn._along_depth(x)
    x[0, 1, 2] += 1
    changed = (block.attn._along_depth(x) - before).abs().amax(dim=-1) > 1e-6
    assert [tuple(place) for place in changed.nonzero().tolist()] == [(0, 1, 2), (1, 1, 2)]
    sides = [space_depth.nearly_square(n) for n in (1, 2, 4, 6, 7, 9, 12, 16, 96)]
    assert sides == [1, 1, 1, 2, 1, 1, 3, 2, 8]  # a square number of slices is never laid out as the square


@torch.no_grad()
@pytest.mark.parametrize("apart", [True, False])
def test_windows_keep_to_themselves_if_told_so(apart):
    torch.manual_seed(0)
    encoder = small_encoder()
    space_depth.adapted(encoder, chunk=2, apart=apart)
    for name, parameter in encoder.named_parameters():
        if ".depth." in name:
            torch.nn.init.normal_(parameter)
    attn = encoder.blocks[0].attn
    x = torch.randn(8, 2, 2, 24)  # two slices of four windows
    before = attn._along_depth(x)
    x[1, 0, 1] += 1
    changed = (attn._along_depth(x) - before).abs().amax(dim=(1, 2, 3)) > 1e-6
    assert changed.nonzero().ravel().tolist() == ([1, 5] if apart else [0, 1])


def pointed(lift: str, plane: str, **fields: object) -> Slices | Chunks:
    frame = med_sa.MedSaFrame(plane=plane, size=96)
    parts = Parts(probes.Probe("image"), frame, None, "probe")
    return Chunks(parts, **fields) if lift == "chunks" else Slices(parts)


@pytest.mark.parametrize("axes", probes.orientations())
def test_med_sas_point_lies_in_place_in_every_orientation(axes):
    where = probes.grid(axes)
    volume, mask = probes.scene(where)
    prompt = probes.pointed(mask, where)
    plane = ("axial", "coronal", "sagittal")[sum(map(ord, axes)) % 3]
    found = probes.answered(pointed("slices", plane), "prompt", volume, prompt)
    middle = np.zeros_like(mask)
    middle[tuple(np.rint(prompt.on(where).points[0]).astype(int))] = True
    assert probes.off_centre_voxels(found, middle) <= 1
    assert (np.ptp(np.argwhere(found), axis=0) == 0).sum() == 1  # one slice


@pytest.mark.parametrize("axes", probes.orientations())
def test_a_chunk_shows_the_whole_block_in_every_orientation(axes):
    where = probes.grid(axes)
    volume, mask = probes.scene(where)
    found = probes.answered(pointed("chunks", "axial", chunk=41), "image", volume, probes.pointed(mask, where))
    assert probes.off_voxels(found, mask) <= 1


def test_a_chunk_lies_around_the_first_point_and_later_points_move_none():
    where = probes.grid("SPL", spacing_mm=(4.0, 5.0, 4.0))
    volume, _ = probes.scene(where)
    at = [Points(where.mm((place, 5, 6)), np.array([True])) for place in (9, 12, 2)]
    for spread, expected in ((True, [[8, 9, 10], [8, 9, 10, 11, 12, 13]]), (False, [[9], [9, 12]])):
        model = pointed("chunks", "axial", chunk=3, spread=spread)
        probed = model.rebuilt(replace(model.parts, net=probes.Probe("prompt")))
        state = probed.encode(volume, store=FeatureStore())
        for n, places in enumerate(expected, start=1):
            found = probed.segment(state, [Ask(Prompt(tuple(at[:n])))])[0].mask(where)
            assert np.flatnonzero(found.any(axis=(1, 2))).tolist() == places
    found = probed.segment(state, [Ask(Prompt((at[2], at[0])))])[0].mask(where)
    assert np.flatnonzero(found.any(axis=(1, 2))).tolist() == [2, 9]


def test_a_chunk_longer_than_the_volume_repeats_its_ends():
    where = probes.grid("SPL", spacing_mm=(8.0, 10.0, 20.0))
    volume, _ = probes.scene(where)
    model = pointed("chunks", "axial", chunk=11)
    found = probes.answered(model, "prompt", volume, Prompt((Points(where.mm((0, 4, 4)), np.array([True])),)))
    assert np.flatnonzero(found.any(axis=(1, 2))).tolist() == list(range(where.shape[0]))
    with pytest.raises(SpecError, match="at least 1"):
        pointed("chunks", "axial", chunk=0)


def test_med_sa_takes_positive_points_only_with_a_file(parity_dir):
    with pytest.raises(WeightsError, match=r"med-sa\(checkpoint=FILE\)"):
        med_sa.load()
    fixture = fixture_of(parity_dir, "med_sa")
    for lift, kind in (("slices", Slices), ("propagate", Propagate), ("orthogonal", Orthogonal), ("chunks", Chunks)):
        assert type(med_sa.load(checkpoint=str(fixture.folder), lift=lift)) is kind
    mixed, apart = (med_sa.load(checkpoint=str(fixture.folder), lift="chunks", apart=way) for way in (False, True))
    windowed = {m.attn.windows for m in apart.net.sam.image_encoder.blocks} != {1}
    assert (mixed.encoder != apart.encoder) is windowed and (mixed.digest != apart.digest) is windowed
    model = med_sa.load(checkpoint=str(fixture.folder), chunk=4)
    assert isinstance(model, Chunks) is bool(fixture.config["args"]["thd"])
    where = probes.grid("AIL", spacing_mm=(6.0, 6.0, 20.0))
    volume, mask = probes.scene(where)
    state = model.encode(volume, store=FeatureStore())
    with pytest.raises(PromptError, match="beside the target only"):
        model.segment(state, [Ask(Prompt((Points(where.centre_mm, np.array([False])),)))])
    asks = [Ask(probes.pointed(mask, where)), Ask(Prompt((Points(where.centre_mm, np.array([True])),)))]
    first = model.segment(state, asks[:1])[0]
    model.segment(state, asks[1:])
    again, together = model.segment(state, asks[:1])[0], model.segment(state, asks)
    assert np.array_equal(first.logits, again.logits)
    np.testing.assert_allclose(first.logits, together[0].logits, rtol=0, atol=1e-4)


def test_med_sa_follows_the_thickest_place():
    frame = med_sa.MedSaFrame(size=64)
    mask = np.zeros((1, 64, 64), dtype=bool)
    mask[0, 10:21, 30:41] = mask[0, 15, 30:60] = True
    marks = frame.follow(mask, Grid((1, 64, 64), np.eye(4)))
    assert marks.points is not None and marks.points[0, 0].tolist() == [0, 15, 35]
    assert not len(frame.follow(np.zeros_like(mask), Grid((1, 64, 64), np.eye(4))).image)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [0, 2])
def test_every_tensor_of_med_sa_moves_an_answer(chunk, parity_dir):
    fixture = fixture_of(parity_dir, "med_sa")
    tensors = torch.load(fixture.checkpoint, weights_only=True)["state_dict"]
    net = space_depth.net_of({key: tuple(v.shape) for key, v in tensors.items()}, fixture.config, chunk=chunk)
    net.load_state_dict(space_depth.named(tensors, net.sam.prompt_encoder.grid[0]))
    side = net.sam.prompt_encoder.size[0]
    features = net.encode(torch.randn(2, 3, 1, side, side, generator=torch.Generator().manual_seed(0)))
    points = torch.tensor([[[0, 9.0, 20.0]], [[0, 30.0, 31.0]]])
    found = net.decode(features, Marks(torch.arange(2), points=points, signs=torch.ones(2, 1)))
    (found.logits.sin().sum() + found.quality.square().sum()).backward()
    names = space_depth.published({key: torch.zeros(0) for key in still(net)})
    used = {} if not chunk else {r"\.Depth_Adapter\.": ""}
    listed = {key: reason for key, reason in parity_of.UNUSED.items() if key not in used}
    assert unexplained(names, listed) == []


def test_boxes_are_not_points():
    where = probes.grid("LPS")
    volume, _ = probes.scene(where)
    model = pointed("slices", "axial")
    state = model.encode(volume, store=FeatureStore())
    with pytest.raises(PromptError, match="says nothing"):
        model.segment(state, [Ask(Prompt((Box.of(where, (0, 0, 0), (1, 2, 2)),)))])
