"""What the official files hold, put through our training side, saved and loaded again: still the official outputs."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from parity.harness import DIFFERENT, EQUAL, Fixture, rows
from segwise.adapters import med_sa as adapter
from segwise.models import med_sa, nnunet, sam
from segwise.nets import fact, lora, space_depth
from segwise.nets.tuned import tuned
from segwise.segmenter import Parts
from segwise.weights import folders


def official(parity_dir: Path, name: str) -> Fixture:
    """The fixture of a model.

    Skips where there is none.
    """
    if not (parity_dir / name / "io.npz").exists():
        pytest.skip(f"no parity fixture of {name}")
    return Fixture(parity_dir / name)


def held(fixture: Fixture) -> int:
    """How many outputs are the official ones; none differs, none is left out."""
    table = list(rows(fixture))
    assert [line for line in table if line.status == DIFFERENT] == []
    assert [line for line in table if line.reason == "our code gives no such output"] == []
    return sum(line.status == EQUAL for line in table)


@pytest.mark.parametrize(("name", "net"), [("samed", lora), ("ma_sam", fact)])
def test_adapted_models_saved_in_their_official_format(name: str, net: Any, parity_dir: Path, tmp_path: Path) -> None:
    fixture = official(parity_dir, name)
    copy = tmp_path / name
    shutil.copytree(fixture.folder, copy)
    (copy / "checkpoint.pth").unlink()
    model = importlib.import_module(f"parity.{name}").loaded(fixture)
    torch.save(net.published(model.parts.net.state_dict()), copy / "checkpoint.pth")
    assert held(Fixture(copy)) > 3


def plain_sam(model: Any, config: dict[str, Any], folder: Path) -> Parts:
    """The base of an adapted net, by SAM's own loading code."""
    folder.mkdir()
    inside = {".attn.norm.": ".norm1.", ".attn.attn.": ".attn.", ".mlp.inner.": ".mlp."}
    tensors = {}
    for name, value in model.net.sam.state_dict().items():
        if not any(f".{word}." in name for word in ("attn.space", "attn.depth", "mlp.adapter")):
            key = name
            for ours, sams in inside.items() if name.startswith("image_encoder.blocks.") else ():
                key = key.replace(ours, sams)
            tensors[key] = value
    torch.save(tensors, folder / "checkpoint.pth")
    (folder / "config.json").write_text(json.dumps({**config, "image_size": config["args"]["image_size"]}))
    return sam.load(checkpoint=str(folder)).parts  # type: ignore[union-attr]


def test_med_sa_as_an_adapter_saved_and_loaded(parity_dir: Path, tmp_path: Path, monkeypatch: Any) -> None:
    fixture = official(parity_dir, "med_sa")
    whole = med_sa.load(checkpoint=str(fixture.folder))
    base = plain_sam(whole, fixture.config, tmp_path / "sam")
    hidden = whole.net.sam.image_encoder.blocks[0].mlp.adapter.D_fc1.out_features

    def through(chunk: int) -> Parts:
        parts = adapter.apply(base, released=True, chunk=chunk, hidden=hidden)
        parts.net.load_state_dict(whole.net.sam.state_dict())
        out = tmp_path / f"chunk{chunk}"
        folders.write(out, spec="sam+med-sa(released=true)", files={"adapter.safetensors": tuned(parts.net)})
        return adapter.apply(base, released=True, chunk=chunk, hidden=hidden, checkpoint=str(out))

    def loaded(fixture: Fixture, lift: str) -> Any:
        model = med_sa.load(checkpoint=str(fixture.folder), lift=lift)  # type: ignore[arg-type]
        parts = through(getattr(model, "chunk", 0))
        return model.rebuilt(Parts(space_depth.SpaceDepthNet(parts.net), model.frame, None, parts.weights))

    monkeypatch.setattr(importlib.import_module("parity.med_sa"), "loaded", loaded)
    assert held(fixture) > 3


def test_nnunets_net_saved_and_loaded(parity_dir: Path, tmp_path: Path, monkeypatch: Any) -> None:
    fixture = official(parity_dir, "nnunet")
    load = nnunet.load

    def through(**given: Any) -> Any:
        model = load(**given)
        net = model.parts.net
        own = dict(net.named_parameters())  # a tensor that has two names comes once
        folders.write(tmp_path / "saved", spec="resenc", files={"weights.safetensors": own})
        found = load_file(tmp_path / "saved" / "weights.safetensors")
        assert set(found) == set(own)
        with torch.no_grad():
            for name, value in own.items():
                value.zero_().copy_(found[name])
        return model

    monkeypatch.setattr(nnunet, "load", through)
    assert held(fixture) > 3
