"""The folder of a run: plan, records, scores, masks, ledger and crops; append-only, safe against `kill -9`.

RUN/run.json           what was asked (plan, data, command, versions), replaced whole
RUN/lock               held by the one process that writes
RUN/records/*.jsonl    segments of records, one task a line with its checksum; the last of a key counts
RUN/scores/*.jsonl     the same for scores
RUN/shared/*.json      what many records have in common (card, versions, digests), by content
RUN/ledger/*.jsonl     prompts, in world mm (evaluate.ledger)
RUN/masks/ab/*.mask    masks by content (evaluate.masks)
RUN/crops/*.npz        small pictures for the report
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from segwise.errors import RunError
from segwise.records import durable
from segwise.records.types import OWN_PROVENANCE, Record, Score

FORMAT = 1
SEGMENT_BYTES = 4 << 20  # a segment larger than this is followed by a new one


class Journal:
    """A folder of append-only segments; a line is a batch that counts wholly or not at all."""

    def __init__(self, folder: Path, *, segment_bytes: int) -> None:
        self.folder = folder
        self.segment_bytes = segment_bytes

    def segments(self) -> list[Path]:
        """Files in the order written."""
        return sorted(self.folder.glob("[0-9]*.jsonl"))

    def items(self) -> list[dict[str, Any]]:
        """All items, oldest first."""
        while True:
            segments = self.segments()
            try:
                batches = [batch for path in segments for batch in durable.lines(path)]
            except FileNotFoundError:  # merged away by the writer since we looked
                continue
            return [item for batch in batches for item in batch if "replaces" not in item]

    def open(self) -> None:
        """Make it fit for appending: finish a compaction that was cut short, drop a torn line and stray files."""
        for stray in self.folder.glob(".*.tmp"):
            stray.unlink()
        segments = self.segments()
        for path in segments:
            self._drop_replaced(path)
        if segments:
            durable.repair(segments[-1])

    def append(self, items: Sequence[dict[str, Any]]) -> None:
        """Append a batch; on disk when this returns."""
        if not items:
            return
        segments = self.segments()
        path = segments[-1] if segments else self.folder / "000001.jsonl"
        if path.exists() and path.stat().st_size >= self.segment_bytes:
            path = self._next(path)
        fresh = not path.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            durable.append_line(file, list(items))
        if fresh:
            durable.sync_folder(self.folder)
            durable.step("segment.created")

    def compact(self, kept: Sequence[dict[str, Any]]) -> None:
        """Replace all segments by one that holds what is to be kept."""
        segments = self.segments()
        if len(segments) < 2 and len(self.items()) == len(kept):
            return
        merged = self._next(segments[-1])
        head: list[dict[str, Any]] = [{"replaces": [path.name for path in segments]}]
        data = b"".join(durable.line_of([item]) for item in kept)
        durable.write_whole(merged, durable.line_of(head) + data)
        durable.step("compact.merged")
        self._drop_replaced(merged)

    def _drop_replaced(self, path: Path) -> None:
        with path.open("rb") as file:
            first = file.readline()
        if b'"replaces"' not in first[:80]:
            return
        for item in next(iter(durable.lines(path)), []):
            for name in item["replaces"]:
                (self.folder / name).unlink(missing_ok=True)
                durable.step("compact.dropped")

    def _next(self, path: Path) -> Path:
        return self.folder / f"{int(path.stem) + 1:06d}.jsonl"


class Run:
    """A run folder. `Run.read` looks; `Run.write` is the one writer, a context manager that holds the lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ledger = path / "ledger"
        self.crops = path / "crops"
        self._records = Journal(path / "records", segment_bytes=SEGMENT_BYTES)
        self._scores = Journal(path / "scores", segment_bytes=SEGMENT_BYTES)
        self._lock = durable.Lock(path / "lock")

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """A run to look at; another process may be writing it.

        Raises:
            RunError: not a run folder, or one of another format.
        """
        run = cls(Path(path))
        run.about()
        return run

    @classmethod
    def write(cls, path: Path | str) -> Self:
        """A run to write, new or old. Use as a context manager.

        Raises:
            RunError: the folder holds other things, is of another format, or another process is writing it.
        """
        run = cls(Path(path))
        others = fit(run.path)
        if not run._lock.take(wait=False):
            raise RunError(f"{run.path} is being written by another process; wait for it or give another folder")
        try:
            if others:
                run.about()
            for journal in (run._records, run._scores):
                journal.open()
        except BaseException:
            run.close()
            raise
        return run

    def close(self) -> None:
        """Give the lock back."""
        self._lock.give()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def about(self) -> dict[str, Any]:
        """What was asked: plan, data, command, versions.

        Raises:
            RunError: not a run folder, or one of another format.
        """
        path = self.path / "run.json"
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise RunError(f"{self.path} is not a run folder: it has no run.json; see: segwise compare") from None
        except ValueError as error:
            raise RunError(f"{path} is damaged: {error}") from error
        if not isinstance(about, dict):
            raise RunError(f"{path} is damaged: {type(about).__name__} came, expected an object {{...}}")
        if about.get("format") != FORMAT:
            raise RunError(f"{path}: format is {about.get('format')}, expected {FORMAT}; run it again in a new folder")
        return dict(about)

    def describe(self, about: dict[str, Any]) -> None:
        """Write what was asked, replacing what stood there."""
        text = json.dumps({"format": FORMAT, **about}, indent=1, ensure_ascii=False, sort_keys=True)
        if not (self.path / "run.json").exists() or (self.path / "run.json").read_text(encoding="utf-8") != text:
            durable.write_whole(self.path / "run.json", text.encode())

    def records(self) -> list[Record]:
        """The last record of each (task, target, round), in the order they first came.

        When a target was tried again, rounds of the earlier attempt that the later one did not reach are gone. So is
        what says that the case cannot be read, once a target of it was tried.
        """
        latest: dict[tuple[str, str, int], Record] = {}
        shared: dict[str, dict[str, Any]] = {}
        for item in self._records.items():
            record = Record(**{**item, "provenance": self._whole(item["provenance"], shared)})
            if record.round == 0:
                _forget_rounds(latest, record)
            if record.target:
                latest.pop((record.task, "", 0), None)
            latest[record.key] = record
        return list(latest.values())

    def scores(self) -> list[Score]:
        """The last score of each (task, target, round, measure, metric)."""
        latest = {
            (i["task"], i["target"], i["round"], i["measure"], i["metric"]): Score(**i) for i in self._scores.items()
        }
        return list(latest.values())

    def add(self, records: Sequence[Record]) -> None:
        """Append what became of a task: all of it counts, or none."""
        self._records.append([self._thin(record) for record in records])

    def add_scores(self, scores: Sequence[Score]) -> None:
        """Append scores."""
        self._scores.append([dataclasses.asdict(score) for score in scores])

    def compact(self) -> None:
        """Merge segments and drop what was superseded."""
        self._records.compact([self._thin(record) for record in self.records()])
        self._scores.compact([dataclasses.asdict(score) for score in self.scores()])

    def _thin(self, record: Record) -> dict[str, Any]:
        """A record as stored: what many have in common lies in a file of its own, written first."""
        common = {key: value for key, value in record.provenance.items() if key not in OWN_PROVENANCE}
        own = {key: value for key, value in record.provenance.items() if key in OWN_PROVENANCE}
        if common:
            text = json.dumps(common, sort_keys=True, ensure_ascii=False)
            digest = hashlib.blake2b(text.encode(), digest_size=10).hexdigest()
            if not self._shared(digest).exists():
                durable.write_whole(self._shared(digest), text.encode())
            own["shared"] = digest
        return {**dataclasses.asdict(record), "provenance": own}

    def _whole(self, own: dict[str, Any], shared: dict[str, dict[str, Any]]) -> dict[str, Any]:
        digest = own.get("shared")
        if digest is None:
            return own
        if digest not in shared:
            try:
                shared[digest] = json.loads(self._shared(digest).read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise RunError(
                    f"{self._shared(digest)} cannot be read: {error}; its records lost their card; copy the whole "
                    "folder again, or run it again in a new one"
                ) from error
        return {**shared[digest], **{key: value for key, value in own.items() if key != "shared"}}

    def _shared(self, digest: str) -> Path:
        return self.path / "shared" / f"{digest}.json"


def fit(path: Path) -> bool:
    """Whether there is something in a folder that can be that of a run; nothing is made or changed.

    Raises:
        RunError: it is a file, or the folder holds other things.
    """
    if path.exists() and not path.is_dir():
        raise RunError(f"{path} is a file, expected a folder for the run")
    found = [p.name for p in path.iterdir()] if path.exists() else []
    others = [name for name in found if name != "lock" and not name.endswith(".tmp")]
    if others and not (path / "run.json").exists():
        raise RunError(
            f"{path} holds {', '.join(sorted(others)[:3])} but no run.json: it is not a run folder; give an empty or a "
            "new one"
        )
    return bool(others)


def _forget_rounds(latest: dict[tuple[str, str, int], Record], record: Record) -> None:
    later = 1
    while (record.task, record.target, later) in latest:
        del latest[record.task, record.target, later]
        later += 1
