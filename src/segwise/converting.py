"""A model's weights in fewer bits, as a model folder, and what that changes: what `segwise convert` does.

An adapter is merged into the layers that it changes, so that a whole model is written that needs no adapter any more.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segwise import assemble, catalog
from segwise.distilling import CONFIG, OWN, WEIGHTS, config_of
from segwise.errors import SpecError
from segwise.geometry import Grid, Volume
from segwise.nets.contract import Marks
from segwise.nets.focus_unet import FocusUNet
from segwise.nets.sam import SamNet
from segwise.prompt import Box, Prompt
from segwise.segmenter import Learned, Parts
from segwise.spec import Spec, of_folder
from segwise.training.distilled import one_query, overlap
from segwise.weights import folders
from segwise.weights.narrow import Precision, narrowed

SHAPE = (24, 72, 64)  # of the phantom


@dataclass(frozen=True)
class Converted:
    """What fewer bits change.

    Attributes:
        path: the file.
        precision: "bf16" or "int8".
        n_bytes_before, n_bytes: of the tensors in float32, and of the file.
        mean, greatest: absolute difference of the logits of a phantom.
        deviation: of the logits in float32, to hold these against.
        agreement: DSC of both masks.
    """

    path: Path
    precision: str
    n_bytes_before: int
    n_bytes: int
    mean: float
    greatest: float
    deviation: float
    agreement: float


def convert(model: str, out: Path, precision: Precision) -> Converted:
    """Write a model folder with the weights in fewer bits; they are widened to float32 when it is loaded.

    Args:
        model: spec of a model with SAM's prompts or of `default`, with adapters that can be merged, without wrappers.
        out: the folder to be.
        precision: "bf16" or "int8".

    Raises:
        CatalogError: no such model. SpecError: it cannot be converted. WeightsError: `out` cannot be written, or
            holds something else.
    """
    folder = of_folder(out)
    info = assemble.model_info(model)
    folders.free(out, lambda there: there.trained.get("converted") == str(info.spec))
    built = assemble.build(info.spec)
    own = built.segmenter
    known = isinstance(own, Learned) and type(own.parts.net) in (SamNet, FocusUNet)
    if not known or not isinstance(own, Learned) or any(p.name in catalog.names("wrappers") for p in info.spec.plus):
        raise SpecError(
            f"{info.spec} cannot be written in fewer bits: expected sam, litemedsam, medsam or default, or a folder of "
            "one of them, with or without adapters, and without wrappers"
        )
    spec = Spec(info.spec.name, {key: value for key, value in info.spec.args.items() if key not in OWN})
    whole, biases = merged(info.spec, own.parts)
    config = config_of(whole.net, whole)
    wide = {name: value.detach().cpu() for name, value in whole.net.state_dict().items()}
    data, trained = _taught(info.spec)
    size = {"parameters": sum(value.numel() for value in whole.net.parameters())}
    folders.write(
        out,
        spec=str(spec),
        files={
            CONFIG: json.dumps(config | ({"biases": biases} if biases else {}), indent=1).encode(),
            WEIGHTS: narrowed(wide, precision),
        },
        title=f"{info.card.title}, {precision}",
        data=data,
        trained={**trained, "converted": str(info.spec), "weights": built.weights, "precision": precision, **size},
        vouched=not built.weights.startswith(("unknown", "random")),
    )
    narrow = assemble.segmenter(folder)
    assert isinstance(narrow, Learned)
    before, after = (logits(one) for one in (own, narrow))
    apart = np.abs(after - before)
    return Converted(
        path=out / WEIGHTS,
        precision=precision,
        n_bytes_before=sum(4 * value.numel() for value in wide.values()),
        n_bytes=(out / WEIGHTS).stat().st_size,
        mean=float(apart.mean()),
        greatest=float(apart.max()),
        deviation=float(before.std()),
        agreement=overlap(after > 0, before > 0),
    )


def merged(spec: Spec, parts: Parts) -> tuple[Parts, list[str]]:
    """The parts with every adapter folded into the layers that it changes, and the biases that came with that.

    Args:
        spec: of the whole model; its folders written out.
        parts: adapted.

    Raises:
        SpecError: an adapter added branches that no layer takes in; names it.
    """
    names = list(dict.fromkeys(plus.name for plus in reversed(spec.plus)))
    folding = {name: getattr(catalog.member("adapters", name).load(), "merge", None) for name in names}
    for merge in folding.values():
        parts = parts if merge is None else merge(parts)
    base = assemble.segmenter(spec.base)
    assert isinstance(base, Learned)
    own, published = set(parts.net.state_dict()), set(base.parts.net.state_dict())
    strange = sorted(key for key in own - published if not _is_bias(key, published))
    if strange or published - own:
        guilty = [name for name, merge in folding.items() if merge is None] or names
        raise SpecError(
            f"{spec} cannot be written as a whole model: {', '.join(guilty)} adds branches of its own (as "
            f"{(strange or sorted(published - own))[0]}) that no layer of {spec.name} takes in; keep its folder. lora, "
            "qlora, samed and ssf can be merged; bias, norm, decoder and full have nothing to merge"
        )
    return parts, sorted({*_before(spec), *(own - published)})


def _is_bias(key: str, published: set[str]) -> bool:
    return key.endswith(".bias") and f"{key.removesuffix('.bias')}.weight" in published


def _before(spec: Spec) -> list[str]:
    """Biases that a folder under the adapters was given when it was written."""
    path = Path(str(spec.args.get("checkpoint", ""))) / CONFIG
    said = json.loads(path.read_text(encoding="utf-8")) if spec.args.get("checkpoint") and path.is_file() else {}
    return list(said.get("biases", ()))


def _taught(spec: Spec) -> tuple[dict[str, Any], dict[str, Any]]:
    """On what the weights were trained, and how, as the folders in a spec say it; the last one in front."""
    places = [str(part.args["checkpoint"]) for part in (spec.base, *spec.plus) if "checkpoint" in part.args]
    found = [folders.read(Path(place)) for place in places if folders.is_folder(Path(place))]
    if not found:
        return {}, {}
    *before, last = found
    known = [dict(one.data) for one in before if one.data]
    return {**last.data, **({"before": known} if known else {})}, dict(last.trained)


def logits(model: Learned) -> Any:
    """float32: what a net answers, in float32, about an egg in noise with a box around it."""
    frame: Any = model.parts.frame
    affine = np.array([[0, 0, -1.0, 0], [0, -1.0, 0, 0], [2.0, 0, 0, 0], [0, 0, 0, 1]])
    places = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    middle, half = np.array(SHAPE) / 2, np.array(SHAPE) / 5
    egg = (((places - middle) / half) ** 2).sum(axis=-1) <= 1
    noise = np.random.default_rng(0).normal(100, 12, SHAPE)
    volume = frame.prepare(Volume.of((noise + 120 * egg).astype(np.float32), Grid(SHAPE, affine)))
    low, high = np.floor(middle - half).astype(int), np.ceil(middle + half).astype(int)
    if frame.shape[0] == 1:
        window = frame.window(volume.grid, (SHAPE[0] // 2, 0, 0))
        prompt = Prompt((Box.of(window, (0, *low[1:].tolist()), (1, *high[1:].tolist())),))
    else:
        window = frame.around(volume.grid, low, high)
        prompt = Prompt((Box.of(volume.grid, low.tolist(), high.tolist()),))
    marks: Marks = one_query(frame, prompt, window, 0)
    net = model.parts.net.float().eval()
    with torch.no_grad():
        decoded = net.decode(net.encode(torch.from_numpy(frame.view(volume, window))[None]), marks)
    return decoded.logits[0].numpy()
