"""Folders of specialists as a training leaves them, with tiny nets and random weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segwise.spec import Value

SMALL: dict[str, dict[str, Value]] = {  # model -> arguments of a tiny net
    "unet": {"features": "4-6-8"},
    "vnet": {"features": "4-6", "kernel": 3},
    "mednext": {"features": 4, "blocks": "1-1", "ratios": "2-2"},
    "transunet": {"features": "4-6-8", "depth": 1, "heads": 2, "width": 8},
    "resenc": {"features": "4-6", "blocks": "1-1"},
    "umamba": {"features": "4-6", "blocks": "1-1", "states": 2},
    "unetr": {"features": 4, "width": 12, "mlp": 12, "heads": 2},
    "swin-unetr": {"features": 12, "depths": "1-1-1-1"},
    "segresnet": {"features": 8, "down": "1-1", "up": "1"},
}
PATCH = {"swin-unetr": (32, 32, 64)}
LABELS = {"background": 0, "liver": 1, "spleen": 2}


def plan(
    name: str,
    *,
    patch: tuple[int, ...] | None = None,
    labels: Mapping[str, Any] = LABELS,
    channels: int = 1,
    **arguments: Value,
) -> dict[str, Any]:
    """What plan.json says of a tiny net."""
    configuration = {
        "patch_size": list(patch or PATCH.get(name, (16, 16, 32))),
        "spacing": [4.0, 2.0, 2.0],
        "normalization_schemes": ["ZScoreNormalization"] * channels,
        "use_mask_for_norm": [False] * channels,
    }
    return {
        "plans": {
            "transpose_forward": [0, 1, 2],
            "configurations": {"3d_fullres": configuration},
            "foreground_intensity_properties_per_channel": {},
        },
        "dataset": {"channel_names": {str(i): "MR" for i in range(channels)}, "labels": dict(labels)},
        "net": {"name": name, "arguments": {**SMALL[name], **arguments}},
    }


def written(folder: Path, said: Mapping[str, Any]) -> Path:
    """plan.json in a folder; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(json.dumps(said), encoding="utf-8")
    return folder / "plan.json"


def trained(folder: Path, name: str, *, seed: int = 0, vouched: bool = True, **given: Any) -> Path:
    """A folder with a plan, weights drawn from a seed and, if vouched for, a model.json that names their SHA-256."""
    from safetensors.torch import save_file

    from segwise import assemble
    from segwise.nets.planned import stored
    from segwise.spec import Spec

    path = written(folder, plan(name, **given))
    net = assemble.segmenter(Spec(name, {"plan": str(path), "untrained": seed})).parts.net  # type: ignore[attr-defined]
    save_file(stored(net), folder / "weights.safetensors")
    if vouched:
        sha = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
        said = {"segwise_model": 1, "spec": name, "files": {"weights.safetensors": sha}}
        (folder / "model.json").write_text(json.dumps(said), encoding="utf-8")
    return folder
