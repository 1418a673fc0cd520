"""Folders of pre-trained encoders: what `segwise pretrain` leaves behind and `segwise train MODEL DATA --from` takes.

    {"segwise_pretrained": 1, "spec": "unetr", "files": {"encoder.safetensors": "SHA-256", "plan.json": "SHA-256"},
     "masking": {"ratio": 0.6, …}, "data": {"dataset": "…", "subjects": {"train": ["…"], …}}, "trained": {…}}

plan.json is a specialist's, with one label that stands for none; encoder.safetensors holds the tensors of the encoder
by the names that the model has for them. It is no model: nothing answers. `pretrained.json` is written last, so a
folder is whole or is none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segwise.errors import WeightsError
from segwise.weights.folders import packed, whole
from segwise.weights.local import digest
from segwise.weights.tensors import tensors

FILE, ENCODER, PLAN = "pretrained.json", "encoder.safetensors", "plan.json"
FORMAT = 1
_LIMIT = 10_000_000  # bytes of a JSON file
_WANTED = "expected a folder that segwise pretrain wrote"


@dataclass(frozen=True)
class Pretrained:
    """What such a folder says.

    Attributes:
        path: the folder.
        spec: the model whose encoder it is.
        plan: content of plan.json; its "net" has the model's name and all arguments.
        sha: SHA-256 of the encoder's file.
        masking: ratio, target and unit.
        data: "dataset", and "subjects" by part.
        trained: steps, seconds, seed, versions, the command.
    """

    path: Path
    spec: str
    plan: Mapping[str, Any] = field(repr=False)
    sha: str
    masking: Mapping[str, Any]
    data: Mapping[str, Any]
    trained: Mapping[str, Any]

    @property
    def net(self) -> Mapping[str, Any]:
        """Name and arguments of the model."""
        return dict(self.plan["net"])

    def checked(
        self, name: str, arguments: Mapping[str, Any], patch: Sequence[float] | None, spacing_mm: Sequence[float] | None
    ) -> Pretrained:
        """Itself, if it is of this model and nothing else is asked for.

        Args:
            name: of the model.
            arguments: of its net, those that the user gives.
            patch, spacing_mm: (d, h, w) as the user gives them, or None.

        Raises:
            WeightsError: it is of another model, or made with other arguments, patch or spacing.
        """
        own = self.net["arguments"]
        if name != self.net.get("name") or any(own.get(key) != value for key, value in arguments.items()):
            its, asked = _written(self.net["name"], own), _written(name, arguments)
            raise WeightsError(
                f"{self.path} holds an encoder of {its}, asked is {asked}; expected the same model and arguments"
            )
        plans = self.plan["plans"]
        said = plans["configurations"]["3d_fullres"]
        for what, wanted, key in (("patch", patch, "patch_size"), ("spacing", spacing_mm, "spacing")):
            seen = [said[key][i] for i in plans["transpose_backward"]]
            if wanted is not None and list(wanted) != seen:
                raise WeightsError(
                    f"the encoder of {self.path} has seen a {what} of {seen} (d, h, w), asked is {list(wanted)}: leave "
                    f"--{what} out, or pre-train with it"
                )
        return self

    def relabelled(self, names: Sequence[str], channels: Sequence[str], whose: str) -> dict[str, Any]:
        """The plan of a specialist that learns structures with this encoder.

        Args:
            names: of the structures.
            channels: modality of each channel of a case.
            whose: the case, for the message.

        Raises:
            WeightsError: the encoder has seen other channels.
        """
        dataset = self.plan["dataset"]
        seen = tuple(dataset["channel_names"].values())
        if tuple(channels) != seen:
            came, its = (", ".join(c or "?" for c in listed) for listed in (channels, seen))
            raise WeightsError(
                f"{whose} has the channels {came}, the encoder of {self.path} has seen {its}; expected the same: "
                "pre-train on scans of this kind"
            )
        labels = {"background": 0, **{name: i for i, name in enumerate(names, start=1)}}
        return {**self.plan, "dataset": {**dataset, "labels": labels}}

    def saw(self, dataset: str, subjects: Sequence[str]) -> tuple[str, ...]:
        """Those of some subjects of a data set that the encoder was trained on."""
        own = self.data.get("subjects")
        listed = own.get("train") if isinstance(own, Mapping) else None
        people = set(listed) if isinstance(listed, list) and self.data.get("dataset") == dataset else set()
        return tuple(subject for subject in subjects if subject in people)

    def encoder(self) -> dict[str, Any]:
        """The tensors, by the model's own names.

        Raises:
            WeightsError: the file is damaged.
        """
        return tensors(self.path / ENCODER)


def write(
    folder: Path,
    *,
    spec: str,
    encoder: Mapping[str, Any],
    plan: bytes,
    masking: Mapping[str, Any],
    data: Mapping[str, Any],
    trained: Mapping[str, Any],
) -> list[Path]:
    """The folder, made or made anew; its files.

    Raises:
        WeightsError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        contents = {ENCODER: packed(encoder), PLAN: plan}
        for name, content in contents.items():
            whole(folder / name, content)
        shas = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        said = {"segwise_pretrained": FORMAT, "spec": spec, "files": shas, "masking": dict(masking)}
        said |= {"data": dict(data), "trained": dict(trained)}
        whole(folder / FILE, json.dumps(said, indent=1, ensure_ascii=False, allow_nan=False).encode())
    except OSError as error:
        raise WeightsError(f"{folder} cannot be written ({error.strerror or error}); give another folder") from error
    return [folder / name for name in (ENCODER, PLAN, FILE)]


def read(folder: Path) -> Pretrained:
    """What a folder holds; its files are held against their digests.

    Raises:
        WeightsError: there is none, it is of a newer Segwise, or a file is missing, damaged or another one.
    """
    folder = folder.expanduser()
    if not (folder / FILE).is_file():
        raise WeightsError(f"{folder} holds no {FILE}; {_WANTED}")
    said = _json(folder / FILE)
    if not isinstance(said.get("segwise_pretrained"), int) or not isinstance(said.get("files"), dict):
        raise WeightsError(f"{folder / FILE} is damaged or not Segwise's; {_WANTED}")
    if said["segwise_pretrained"] > FORMAT:
        raise WeightsError(f"{folder / FILE} is of a newer Segwise (format {said['segwise_pretrained']}): update it")
    for name in (ENCODER, PLAN):
        if not (folder / name).is_file() or digest(folder / name) != said["files"].get(name):
            raise WeightsError(
                f"{folder / name} is missing or not the file that {FILE} names; copy the whole folder again, or "
                "pre-train again"
            )
    plan = _json(folder / PLAN)
    net = plan.get("net")
    if not isinstance(net, dict) or not isinstance(net.get("arguments"), dict):
        raise WeightsError(f"{folder / PLAN} names no net; {_WANTED}")
    parts = {key: dict(said.get(key) or {}) for key in ("masking", "data", "trained")}
    return Pretrained(folder, str(said.get("spec", "")), plan, str(said["files"][ENCODER]), **parts)


def _written(name: str, arguments: Mapping[str, Any]) -> str:
    inside = ", ".join(f"{key}={value}" for key, value in arguments.items())
    return f"{name}({inside})" if inside else name


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LIMIT:
            raise WeightsError(f"{path} has {path.stat().st_size:,} bytes, expected at most {_LIMIT:,}; {_WANTED}")
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is damaged ({type(error).__name__}); copy the whole folder again") from error
    if not isinstance(found, dict):
        raise WeightsError(f"{path} is damaged: no JSON object; copy the whole folder again")
    return found
