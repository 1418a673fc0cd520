"""Gradients in bfloat16 are those of float32, also where an image is no larger than a kernel (oneDNN's are not)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import labelled_cases
from segwise import api
from segwise.learn import Who
from segwise.training.labelled import Budget
from segwise.training.precision import autocast, sound


def gradients(kernel, size, stride, precision):
    """Of a convolution's image and weights, of values that bfloat16 holds exactly."""
    torch.manual_seed(0)
    image = torch.randn(2, 32, *size).bfloat16().float().requires_grad_()
    weight = torch.randn(32, 32, *kernel).bfloat16().float().requires_grad_()
    with sound(precision, "cpu"):
        with autocast(precision, "cpu"):
            found = F.conv3d(image, weight, None, stride, [k // 2 for k in kernel])
        wanted = torch.randn(found.shape, generator=torch.Generator().manual_seed(1)).bfloat16().float()
        (found.float() * wanted).sum().backward()
    assert image.grad is not None and weight.grad is not None
    return image.grad, weight.grad


@pytest.mark.parametrize(
    ("kernel", "size", "stride"),
    [
        ((3, 3, 3), (2, 8, 8), (1, 1, 1)),
        ((3, 3, 3), (2, 8, 8), (1, 2, 2)),
        ((3, 3, 3), (8, 1, 1), (2, 2, 2)),
        ((3, 1, 1), (2, 8, 8), (1, 1, 1)),
        ((1, 3, 3), (4, 1, 1), (1, 2, 2)),
        ((5, 5, 5), (4, 4, 4), (2, 2, 2)),
        ((5, 5, 5), (3, 8, 8), (1, 1, 1)),
        ((3, 3, 3), (8, 8, 8), (1, 1, 1)),
    ],
)
def test_a_convolution_has_the_gradients_of_float32(kernel, size, stride):
    for own, wanted in zip(
        gradients(kernel, size, stride, "bf16"), gradients(kernel, size, stride, "fp32"), strict=True
    ):
        assert own.isfinite().all() and (own - wanted).abs().max() <= 0.02 * wanted.abs().max()


@pytest.mark.parametrize("name", ["unet", "resenc", "segresnet", "vnet"])
def test_a_thin_patch_trains_a_specialist_of_its_usual_width(tmp_path, name):
    """The coarsest maps of a patch of 16 slices have one or two."""
    labelled_cases.write(tmp_path / "data", 2)
    budget = Budget(steps=2, size=1, precision="bf16")
    made = api.specialist(name, Who(data=tmp_path / "data"), tmp_path / "out", budget, patch=(16, 32, 32))
    objective, batch = made.recipe.objective, made.recipe.stream.batch(0)
    found = []
    for precision in ("bf16", "fp32"):
        objective.net.train().zero_grad()
        torch.manual_seed(0)
        with sound(precision, "cpu"), autocast(precision, "cpu"):
            loss, _ = next(objective.losses(batch, np.random.default_rng(0)))
        with sound(precision, "cpu"):
            loss.backward()
        found.append([p.grad.flatten() for p in objective.net.parameters() if p.grad is not None])
    own, wanted = (torch.cat(one) for one in found)
    assert own.isfinite().all()
    assert torch.cosine_similarity(own, wanted, dim=0) > 0.95
    assert (own - wanted).norm() < 0.3 * wanted.norm()
