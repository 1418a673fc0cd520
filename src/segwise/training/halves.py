"""Trained weights as a small file: half precision, safetensors, with what is known of the run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn


def save(
    path: Path, net: nn.Module, known: Mapping[str, Any], *, config: Mapping[str, Any] | None = None
) -> list[Path]:
    """Write the weights of a net as float16 under its own key names; a crash leaves the file before.

    Args:
        path: the file, in a folder that is there.
        net: what is saved.
        known: of the run: seed, steps, versions, command; kept in the file's header.
        config: what no key of the net tells, for `config.json` beside it.

    Returns:
        The files written, the weights first.
    """
    from safetensors.torch import save_file

    tensors = {key: value.detach().cpu().to(torch.float16).contiguous() for key, value in net.state_dict().items()}
    half = path.with_name(f".{path.name}.half")
    save_file(tensors, str(half), metadata={"segwise": json.dumps(dict(known), default=str, sort_keys=True)})
    half.replace(path)
    if config is None:
        return [path]
    beside = path.with_name("config.json")
    beside.write_text(json.dumps(dict(config), indent=1) + "\n", encoding="utf-8")
    return [path, beside]
