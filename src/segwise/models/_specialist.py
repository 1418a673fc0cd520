"""What our own specialists share: a folder with its plan, weights, and nnU-Net's preprocessing around any net.

A trained specialist is a folder: `plan.json` says the preprocessing, the labels and the net, `weights.safetensors`
holds its tensors, `model.json` says what the training was. plan.json holds {"plans": as nnU-Net's plans.json with the
configuration 3d_fullres, "dataset": as its dataset.json, "net": {"name": …, "arguments": {…}}}, and may hold
"inference_allowed_mirroring_axes" as X
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from segwise import weights
from segwise.card import ModelCard
from segwise.errors import SpecError, WeightsError
from segwise.lifts.tiles import Tiling
from segwise.lifts.windows import Windows
from segwise.models._planned import PlannedFrame, Recipe, recipe, resolved
from segwise.nets import planned
from segwise.nets.flops import Published
from segwise.nets.planned import PlannedNet
from segwise.segmenter import Parts

PLAN, WEIGHTS, CONFIGURATION = "plan.json", "weights.safetensors", "3d_fullres"
Value = bool | int | str | None
_LIMIT = 10_000_000  # bytes of a plan.json
Build = Callable[..., PlannedNet]  # (*, channels, classes, patch, and the net's own arguments with their defaults)


def opened(
    name: str,
    card: ModelCard,
    build: Build,
    *,
    checkpoint: str | None,
    plan: str | None,
    untrained: int | None,
    arguments: Mapping[str, Value],
) -> Windows:
    """A specialist: trained, from its folder, or fresh, from a plan and a seed.

    Args:
        name: the model, as in specs.
        card: its card.
        build: makes the net; its keyword arguments beyond channels, classes and patch are the model's, with defaults.
        checkpoint: the folder, or the weights file in it.
        plan: a plan.json, for a net with fresh weights.
        untrained: the seed of fresh weights.
        arguments: of the net as the spec gives them, None where it does not: then plan.json says, else the default.

    Raises:
        SpecError: checkpoint and plan together or only half of plan and untrained; an argument that contradicts
            plan.json; a patch that the net cannot see.
        WeightsError: none is given, or the files are missing, damaged or of another model.
    """
    if checkpoint is not None and (plan is not None or untrained is not None):
        raise SpecError(f"{name}: checkpoint= is a trained model, plan= and untrained= make a fresh one; give one way")
    if checkpoint is None and (plan is None) != (untrained is None):
        raise SpecError(f"{name}: a fresh net needs both: {name}(plan=PLAN.json, untrained=SEED)")
    if checkpoint is None and plan is None:
        raise WeightsError(
            f"{name} has no public weights: it is trained on your own cases. Type: segwise train {name} DATA, then use "
            f"{name}(checkpoint=FOLDER)"
        )
    file = None if checkpoint is None else _file(Path(checkpoint).expanduser())
    said = _said(Path(str(plan)).expanduser() if file is None else file.with_name(PLAN))
    chosen = _arguments(name, build, said.get("net"), arguments, trained=file is not None)
    found = _recipe(said)
    net = _net(name, build, found, chosen, untrained or 0)
    net.origin = {"name": name, "arguments": chosen}
    if file is None:
        digest = f"random {untrained} {_written(name, chosen)}"
    else:
        held = weights.opened(name, card, checkpoint=str(file))
        weights.fill(
            net, planned.spread(net, held.tensors), what=f"{_written(name, chosen)} of the plan.json beside them"
        )
        digest = held.digest
    parts = Parts(net.eval(), PlannedFrame(found), found.labels, digest)
    return Windows(parts, Tiling.nnunet(found.patch), mirror=found.mirror, paint=found.paint)


def sizes(build: Build, *given: tuple[str, int, Mapping[str, Value]]) -> list[Published]:
    """Sizes on the meta device: (label, side of a cubic patch, arguments of the net) each; 1 channel, 14 classes."""
    found = []
    for label, side, arguments in given:
        net = (
            build(channels=1, classes=14, patch=(side,) * 3, **arguments).eval().to("meta")
        )  # MONAI cannot begin there
        image = torch.empty(1, 1, side, side, side, device="meta")
        stages = {"whole net": lambda net=net, image=image: net(image)}
        shape = f"1×{side}×{side}×{side}, 14 classes"
        found.append(Published(label=label, net=net, stages=stages, per="patch", input=shape))
    return found


def _file(path: Path) -> Path:
    """The weights file of a folder, or the file itself."""
    if path.is_dir() and not (path / WEIGHTS).is_file():
        raise WeightsError(
            f"{path} has no {WEIGHTS}; expected a folder that `segwise train` wrote, with {PLAN} and {WEIGHTS}"
        )
    return path / WEIGHTS if path.is_dir() else path


def _said(path: Path) -> Mapping[str, Any]:
    """What plan.json says."""
    expected = 'expected {"plans": …, "dataset": …, "net": …}, as `segwise train` writes it'
    try:
        if path.stat().st_size > _LIMIT:
            raise WeightsError(f"{path} has {path.stat().st_size:,} bytes, expected at most {_LIMIT:,}: no plan")
        said = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}; {expected}") from error
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise WeightsError(f"{path} is not JSON: {reason}; {expected}") from error
    if not isinstance(said, dict) or not all(isinstance(said.get(key), dict) for key in ("plans", "dataset")):
        raise WeightsError(f"{path} holds no plans and dataset; {expected}")
    return said


def _recipe(said: Mapping[str, Any]) -> Recipe:
    """The preprocessing and the labels.

    Raises:
        WeightsError: what nnU-Net's plans must say is not there, or is nothing that is known here.
    """
    plans = said["plans"]
    try:
        found = recipe(plans, said["dataset"], resolved(plans, CONFIGURATION), said)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(
            f"{PLAN}: the configuration {CONFIGURATION} cannot be read ({type(error).__name__}: {error}); expected "
            "spacing, patch_size, normalization_schemes and use_mask_for_norm as nnU-Net's plans have them"
        ) from error
    if len(found.patch) != 3 or found.patch[0] < 2:
        raise WeightsError(f"{PLAN}: patch_size is {list(found.patch)}, expected three sides: these nets are 3D")
    return found


def _arguments(name: str, build: Build, net: Any, given: Mapping[str, Value], *, trained: bool) -> dict[str, Value]:
    """Arguments of the net: those of plan.json, else those given, else the defaults."""
    parameters = inspect.signature(build).parameters
    found: dict[str, Value] = {key: p.default for key, p in parameters.items() if p.default is not p.empty}
    own = net.get("arguments", {}) if isinstance(net, dict) else {}
    if isinstance(net, dict) and net.get("name") != name:
        raise WeightsError(
            f"{PLAN} is of the model {net.get('name')}, not of {name}; type {net.get('name')}(…) instead"
        )
    if trained and not isinstance(net, dict):
        raise WeightsError(f'{PLAN} names no net; expected "net": {{"name": "{name}", "arguments": {{…}}}}')
    if not isinstance(own, dict) or (strange := sorted(set(own) - set(found))):
        came = ", ".join(strange) if isinstance(own, dict) else own
        raise WeightsError(f"{PLAN}: arguments of {name}: {came}; it has {', '.join(found)}")
    for key, value in own.items():
        if type(value) is not type(found[key]):
            raise WeightsError(f"{PLAN}: {key} of {name} is {value!r}, expected as {found[key]!r}")
    said = {key: value for key, value in given.items() if value is not None}
    for key, value in said.items():
        if key in own and own[key] != value:
            raise SpecError(f"{name}: {key} is {value!r}, but its {PLAN} says {own[key]!r}; leave {key} out")
        if trained and key not in own and found[key] != value:
            raise SpecError(f"{name}: {key} is {value!r}, but it was trained with {found[key]!r}; leave {key} out")
    return {**found, **said, **own}


def _net(name: str, build: Build, found: Recipe, arguments: Mapping[str, Value], seed: int) -> PlannedNet:
    """The net with weights drawn from a seed; the global generator is as before.

    Raises:
        SpecError: the arguments make no net, or it cannot see the plan's patch.
    """
    heads = len(found.labels) + (found.paint is None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            net = build(channels=len(found.schemes), classes=heads, patch=found.patch, **arguments)
            planned.fitting(found.patch, net.multiple)
        except SpecError as error:
            raise SpecError(f"{name}: {error}") from error
        except (ValueError, TypeError, RuntimeError) as error:
            raise SpecError(
                f"{_written(name, arguments)} makes no net: {' '.join(str(error).split())[:160]}"
            ) from error
    return net


def _written(name: str, arguments: Mapping[str, Value]) -> str:
    return f"{name}({', '.join(f'{key}={value}' for key, value in sorted(arguments.items()))})"
