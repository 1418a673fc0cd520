"""SAM's net beyond its parity (tests/parity/sam.py): which candidates it hands out, and queries in company."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from parity import sam as official
from parity.harness import Fixture
from segwise.models import sam
from segwise.nets.contract import Marks


@pytest.fixture(scope="module")
def fixture(parity_dir):
    if not (parity_dir / "sam" / "io.npz").exists():
        pytest.skip("no parity fixture of sam")
    return Fixture(parity_dir / "sam")


@pytest.fixture
def decode(fixture):
    """A function of candidates, case -> what the net answers."""
    model = sam.load(checkpoint=str(fixture.folder))
    features = torch.from_numpy(fixture.io["out.image_embedding"])
    window = official.picture(fixture.io["in.image"]).grid

    def answer(candidates, case):
        model.net.candidates = candidates
        with torch.no_grad():
            return model.net.decode(features, official.marks_of(fixture, case, model.frame, window))

    return answer


def test_candidates_that_do_not_fit_are_never_the_best(fixture, decode):
    lone, several = decode("auto", "A"), decode("auto", "B")
    assert torch.isneginf(lone.quality)[0].tolist() == [True, False, False, False]
    assert torch.isneginf(several.quality)[0].tolist() == [False, True, True, True]
    assert np.allclose(lone.low_res[0, 1:], fixture.io["out.A_low_res_logits"], atol=1e-4)
    assert np.allclose(several.low_res[0, :1], fixture.io["out.B_low_res_logits"], atol=1e-4)


def test_the_best_candidate_is_the_fitting_one_of_greatest_quality(fixture, decode):
    lone, several = decode("best", "A"), decode("best", "B")
    own = int(fixture.io["out.A_iou"].argmax())
    assert np.allclose(lone.low_res[0, 0], fixture.io["out.A_low_res_logits"][own], atol=1e-4)
    assert np.allclose(lone.quality[0], fixture.io["out.A_iou"][own], atol=1e-4)
    assert np.allclose(several.low_res[0], fixture.io["out.B_low_res_logits"], atol=1e-4)
    assert torch.isfinite(decode("best", "F").quality).all()


def test_logits_come_at_the_size_of_the_input_if_wanted(fixture):
    net = sam.load(checkpoint=str(fixture.folder)).net
    features = torch.from_numpy(fixture.io["out.image_embedding"])
    marks = Marks(torch.zeros(1, dtype=torch.int64), boxes=torch.tensor([[[0.0, 3, 4], [0, 30, 40]]]))
    with torch.no_grad():
        small = net.decode(features, marks).logits
        net.enlarge = True
        large = net.decode(features, marks).logits
    assert small.shape[-2:] == fixture.io["out.C_low_res_logits"].shape[-2:]
    assert large.shape[-2:] == net.prompt_encoder.size


def test_a_query_does_not_depend_on_its_company(fixture):
    model = sam.load(checkpoint=str(fixture.folder))
    embedding = fixture.io["out.image_embedding"]
    features = torch.from_numpy(np.concatenate([embedding, embedding * 2]))
    boxes = official.marks_of(fixture, "F", model.frame, official.picture(fixture.io["in.image"]).grid).boxes
    image = torch.arange(1, len(boxes) + 1) % 2
    with torch.no_grad():
        together = model.net.decode(features, Marks(image, boxes=boxes)).logits
        for i in range(len(boxes)):
            alone = model.net.decode(features, Marks(image[i : i + 1], boxes=boxes[i : i + 1])).logits
            assert torch.allclose(alone[0], together[i], atol=1e-5)
