"""The ledger: every prompt that a simulated user made, in world mm, replayed identically to every model.

A prompt is drawn once. Its key says all that decides it: the prompter with its version, the seed, the case, the digest
of the reference (so that a corrected label gets new prompts), the target, the round, and for later rounds the hash of
the mask whose error was shown and of the prompt so far. So first rounds are the same for every model, and equal
predictions get equal clicks.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from segwise.prompt import Prompt
from segwise.records import durable


@dataclass(frozen=True, kw_only=True)
class Key:
    """What decides a prompt.

    Attributes:
        prompter: spec; version: of its parts.
        seed: of the plan, 0, 1, 2 ...
        dataset, case, target: of what.
        reference: digest of the reference mask.
        round: from 0.
        mask: hash of the mask the error came from, "" in round 0.
        before: digest of the prompt so far, "" in round 0.
    """

    prompter: str
    version: str
    seed: int
    dataset: str
    case: str
    target: str
    reference: str
    round: int = 0
    mask: str = ""
    before: str = ""


class Ledger:
    """Prompts of a run, one file of JSON lines a case; several processes may write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[Path, dict[Key, dict[str, Any]]] = {}
        self._read: dict[Path, int] = {}

    def prompt(self, key: Key, make: Callable[[], Prompt | None]) -> Prompt | None:
        """The prompt of a key: the one written down, else a new one, which is written down first.

        `make` may say None (the target is absent, or the user is content); that is written down too.
        """
        path = self._path(key)
        if key not in self._known.setdefault(path, {}):
            self._refresh(path)
        if key not in self._known[path]:
            made = make()
            with durable.alone(self.folder / "lock"):
                if _torn(path):
                    durable.repair(path)
                self._refresh(path)
                if key not in self._known[path]:  # another process may have been faster: its prompt counts
                    self._write(path, key, made)
        entry = self._known[path][key]
        return None if entry["marks"] is None else Prompt.from_json(entry["marks"])

    def entries(self) -> list[dict[str, Any]]:
        """Everything written down: the fields of a key with `marks` and their `hash`."""
        return [e for path in sorted(self.folder.glob("*.jsonl")) for batch in durable.lines(path) for e in batch]

    def _write(self, path: Path, key: Key, made: Prompt | None) -> None:
        marks = None if made is None else made.to_json()
        entry = {**asdict(key), "marks": marks, "hash": "" if made is None else made.digest}
        with path.open("ab") as file:
            durable.append_line(file, [entry])
        self._refresh(path)

    def _refresh(self, path: Path) -> None:
        if not path.exists():
            return
        start, size = self._read.get(path, 0), path.stat().st_size
        known = self._known.setdefault(path, {})
        if size <= start:
            return
        with path.open("rb") as file:
            file.seek(start)
            whole = file.read(size - start).rfind(b"\n") + 1
        for batch in durable.lines(path, start):
            for entry in batch:
                key = Key(**{name: entry[name] for name in Key.__dataclass_fields__})
                known.setdefault(key, entry)
        self._read[path] = start + whole

    def _path(self, key: Key) -> Path:
        words = re.sub(r"[^A-Za-z0-9_-]+", "_", key.case)[:40]
        digest = hashlib.blake2b(f"{key.dataset}\x1f{key.case}".encode(), digest_size=4).hexdigest()
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f"{words}-{digest}.jsonl"


def _torn(path: Path) -> bool:
    """Whether the last line has no end: a process died while writing it."""
    if not path.exists() or not path.stat().st_size:
        return False
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) != b"\n"
