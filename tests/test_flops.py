"""What nets compute: every model with a net tells its published sizes, each part counts, the table is fresh."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from segwise import catalog
from segwise.nets.flops import Published, counted, parameters

ROOT = Path(__file__).parent.parent
NETS = [
    name
    for name in catalog.names("models")
    if catalog.card("models", name).weights or "checkpoint" in catalog.member("models", name).parameters
]


def test_a_multiply_add_is_two_flops():
    net = torch.nn.Conv3d(2, 3, 3, padding=1, bias=False, device="meta")
    size = Published(
        label="",
        net=net,
        stages={"whole net": lambda: net(torch.empty(1, 2, 5, 6, 7, device="meta"))},
        per="",
        input="",
    )
    assert counted(size.stages["whole net"]) == 2 * (2 * 27) * 3 * 5 * 6 * 7
    assert parameters(net) == 2 * 3 * 27
    assert not any(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("name", NETS)
def test_every_model_with_a_net_tells_its_published_sizes(name):
    assert callable(getattr(catalog.member("models", name).load(), "published", None)), (
        "no published() -> list[Published]"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_every_part_of_a_published_net_computes(name):
    sizes = catalog.member("models", name).load().published()
    assert sizes and len({size.label for size in sizes}) == len(sizes)
    for size in sizes:
        assert size.per and size.input and size.stages
        assert parameters(size.net) > 0 and all(p.is_meta for p in size.net.parameters())
        for stage, call in size.stages.items():
            assert counted(call) > 0, stage


def test_the_table_names_every_model_with_a_net():
    page = (ROOT / "docs" / "reference" / "flops.md").read_text(encoding="utf-8")
    for name in NETS:
        assert f"| `{name}` |" in page, "make flops"


@pytest.mark.slow
def test_the_table_is_fresh():
    command = [sys.executable, str(ROOT / "docs" / "flops.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
