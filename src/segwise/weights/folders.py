"""Model folders: what a training leaves behind, a `model.json` that says what is in it, and files of tensors beside it.

    {"segwise_model": 1, "spec": "litemedsam+lora(rank=4)", "files": {"adapter.safetensors": "SHA-256"},
     "title": "…", "data": {"dataset": "…", "subjects": {"train": ["…"], "val": ["…"]}}, "trained": {…}}

`segwise compare -m ./DIR` takes such a folder like any model. The spec says what the tensors belong to: its last
adapter (`adapter.safetensors`), or a model without adapters (`checkpoint.pth`, whatever its format). `model.json` is
written last, so a folder is whole or is none.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segwise.errors import WeightsError
from segwise.weights.local import digest
from segwise.weights.tensors import tensors

CARD_FILE = "model.json"
ADAPTER_FILE = "adapter.safetensors"
CHECKPOINT = "last.pt"  # of a training
FORMAT = 1
_LIMIT = 10_000_000  # bytes of a model.json
_WANTED = "expected a folder that segwise train or segwise adapt wrote"


@dataclass(frozen=True)
class ModelFolder:
    """What a model folder says of itself.

    Attributes:
        path: the folder.
        spec: what it holds the trained tensors of, without them.
        files: name in the folder -> SHA-256.
        title: how people call it, "" as the base.
        data: "dataset", and "subjects" with "train" and "val"; "pretrained" with the same of an encoder's training;
            "before" with those of the trainings that it went on from, where several were merged into one.
        trained: how: steps, seconds, seeds, versions, the command.
    """

    path: Path
    spec: str
    files: Mapping[str, str]
    title: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    trained: Mapping[str, Any] = field(default_factory=dict)

    @property
    def dataset(self) -> str:
        """Name of the data set it was trained on, "" if it does not say."""
        return str(self.data.get("dataset") or "")

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of all data sets that it has seen, with labels or without."""
        listed = self.data.get("before")
        before = listed if isinstance(listed, list | tuple) else ()
        own = (_mapping(self.data.get("pretrained")), *map(_mapping, before))
        names = (self.dataset, *(str(one.get("dataset") or "") for one in own))
        return tuple(dict.fromkeys(filter(None, names)))

    @property
    def listed(self) -> bool:
        """Whether `datasets` and generated persons are all that these tensors learned from, beside those of its model.

        Not where a data set has no name, and not of what a teacher with weights of its own handed on.
        """
        before = self.data.get("pretrained")
        named = (self.dataset or self.generated) and (not before or _mapping(before).get("dataset"))
        return bool(named) and "checkpoint=" not in str(self.trained.get("teacher", ""))

    @property
    def pretrained(self) -> str:
        """On whose scans its encoder was trained without labels, in words; "" if on nobody's."""
        said = _mapping(self.data.get("pretrained"))
        people = _mapping(said.get("subjects")).get("train")
        who = tuple(map(str, people)) if isinstance(people, list | tuple) else ()
        n = f"{len(who)} subject{'s' if len(who) != 1 else ''}"
        return f"{said.get('dataset') or 'data that it does not name'}: {n} ({', '.join(who)})" if said else ""

    @property
    def subjects(self) -> tuple[str, ...]:
        """Whose scans it was trained on."""
        listed = self.data.get("subjects")
        named = listed.get("train") if isinstance(listed, Mapping) else None
        return tuple(map(str, named)) if isinstance(named, list | tuple) else ()

    @property
    def generated(self) -> int:
        """How many generated persons it was trained on."""
        n = self.data.get("generated")
        return n if isinstance(n, int) and not isinstance(n, bool) and n > 0 else 0

    def check(self) -> None:
        """Hold every file against its digest.

        Raises:
            WeightsError: one is missing or has other bytes.
        """
        for name, sha in self.files.items():
            path = self.path / name
            if not path.is_file():
                raise WeightsError(f"{path} is not there, and {CARD_FILE} names it: copy the whole folder again")
            if digest(path) != sha:
                raise WeightsError(
                    f"{path} is not the file that {CARD_FILE} names (its SHA-256 is {digest(path)[:12]}…, expected "
                    f"{sha[:12]}…): copy the whole folder again, or train again; remove {CARD_FILE} and give the file "
                    "as checkpoint=FILE if you changed it yourself"
                )


def write(
    folder: Path,
    *,
    spec: str,
    files: Mapping[str, Mapping[str, Any] | bytes | None],
    title: str = "",
    data: Mapping[str, Any] | None = None,
    trained: Mapping[str, Any] | None = None,
    vouched: bool = True,
) -> ModelFolder:
    """A model folder, made or made anew. A process that is killed leaves the old one, or one that `read` refuses.

    Args:
        folder: made if need be.
        spec: of the model, without `checkpoint=` on the trained part.
        files: name -> tensors by name (written as safetensors), bytes as they are, or None for a file that lies there
            already.
        title, data, trained: as in `ModelFolder`.
        vouched: name the files; not where they were made from weights that nobody knows, which then stay unknown.

    Raises:
        WeightsError: the folder cannot be written, or a file that should lie there does not.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            if content is not None:
                whole(folder / name, content if isinstance(content, bytes) else packed(content))
        lost = [name for name in files if not (folder / name).is_file()]
        if lost:
            raise WeightsError(f"{folder / lost[0]} should lie there before {CARD_FILE} names it")
        shas = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files if vouched}
        said = {"segwise_model": FORMAT, "spec": spec, "files": shas, "title": title}
        said |= {"data": dict(data or {}), "trained": dict(trained or {})}
        whole(folder / CARD_FILE, json.dumps(said, indent=1, ensure_ascii=False, allow_nan=False).encode())
    except OSError as error:
        raise WeightsError(f"{folder} cannot be written ({error.strerror or error}); give another folder") from error
    return read(folder)


def free(folder: Path, mine: Callable[[ModelFolder], bool]) -> None:
    """Nothing, if a model may be written into a folder: it holds none and no training, or one like it.

    Args:
        folder: to be.
        mine: whether a model that is there already is of the same make, and may be made anew.

    Raises:
        WeightsError: something else is there.
    """
    if not (folder / CARD_FILE).exists() and not (folder / CHECKPOINT).exists():
        return
    there = read(folder) if is_folder(folder) else None
    if there is None or (folder / CHECKPOINT).exists() or not mine(there):
        what = f"the model {there.spec}" if there else "a training" if (folder / CHECKPOINT).exists() else CARD_FILE
        raise WeightsError(f"{folder} holds {what} already, which would be lost; give another folder")


def is_folder(path: Path) -> bool:
    """Whether a place is a model folder that can be read; not one with another program's model.json."""
    try:
        read(path)
    except WeightsError:
        return False
    return True


def read(folder: Path) -> ModelFolder:
    """What a model folder says; its files are looked for, not read (`ModelFolder.check`).

    Raises:
        WeightsError: there is none, its model.json is damaged or of a newer Segwise, or a file is missing.
    """
    folder = folder.expanduser()
    path = folder / CARD_FILE
    if not folder.is_dir():
        raise WeightsError(f"{folder} is {'no folder' if folder.exists() else 'not there'}; {_WANTED}")
    if not path.is_file():
        raise WeightsError(f"{folder} holds no {CARD_FILE}; {_WANTED}")
    found = _parsed(path)
    files = {str(name): str(sha) for name, sha in found["files"].items()}
    for name in files:
        if Path(name).name != name or name in ("", ".", ".."):
            raise WeightsError(f'{path}: files names "{name}", expected names of files in this folder')
        if not (folder / name).is_file():
            raise WeightsError(f"{folder / name} is not there, and {CARD_FILE} names it: copy the whole folder again")
    return ModelFolder(
        folder,
        found["spec"],
        files,
        title=str(found.get("title") or ""),
        data=_mapping(found.get("data")),
        trained=_mapping(found.get("trained")),
    )


def stated(path: Path) -> bool:
    """Whether the model.json beside a file names it with the very bytes that it has; False beside another program's.

    Raises:
        WeightsError: it names other bytes.
    """
    try:
        folder = read(path.parent)
    except WeightsError:
        return False
    if path.name not in folder.files:
        return False
    folder.check()
    return True


@dataclass(frozen=True)
class Adapter:
    """The tensors of an adapter.

    Attributes:
        tensors: by the names of the adapted net.
        digest: SHA-256 of the file; begins with "unknown" if no model.json beside it states it.
    """

    tensors: dict[str, Any] = field(repr=False)
    digest: str


def adapter(checkpoint: str) -> Adapter:
    """What an adapter trained: a model folder, a folder with adapter.safetensors, or such a file.

    Raises:
        WeightsError: there is none, it is damaged, or not the one that model.json names.
    """
    path = Path(checkpoint).expanduser()
    if path.is_dir():
        if not (path / ADAPTER_FILE).is_file():
            raise WeightsError(f"{path} is a folder without {ADAPTER_FILE}; {_WANTED}, or a file of an adapter")
        path = path / ADAPTER_FILE
    if not path.is_file():
        raise WeightsError(f"{path} is not there; {_WANTED}, or a file of an adapter")
    sha = digest(path) if stated(path) else f"unknown:{digest(path)}"
    return Adapter(tensors(path), sha)


def _parsed(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LIMIT:
            raise WeightsError(f"{path} has {path.stat().st_size:,} bytes, expected at most {_LIMIT:,}; {_WANTED}")
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise WeightsError(
            f"{path} is damaged ({type(error).__name__}: {error}); copy the whole folder again"
        ) from error
    if not isinstance(found, dict) or not isinstance(found.get("segwise_model"), int):
        raise WeightsError(f"{path} is not Segwise's: segwise_model is missing; {_WANTED}")
    if found["segwise_model"] > FORMAT:
        raise WeightsError(
            f"{path} is of a newer Segwise (format {found['segwise_model']}, this one reads {FORMAT}): update Segwise"
        )
    if not isinstance(found.get("spec"), str) or not isinstance(found.get("files"), dict):
        raise WeightsError(f"{path} is damaged: spec or files is missing; copy the whole folder again")
    return found


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, dict) else {}


def packed(content: Mapping[str, Any]) -> bytes:
    """Tensors by name as the bytes of a safetensors file."""
    from safetensors.torch import save

    return bytes(save({name: value.detach().cpu().contiguous() for name, value in content.items()}))


def whole(path: Path, data: bytes) -> None:
    """A file that appears whole or not at all."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
