"""The log of a training: a CSV file, and TensorBoard's where it is installed."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = "log.csv"
FIRST = ("batch", "step", "seconds")


class Log:
    """One row a batch. Rows of batches after the checkpoint that a run goes on from are dropped.

    Args:
        out: folder of the training.
        keep: number of batches that stand.
    """

    def __init__(self, out: Path, *, keep: int) -> None:
        self._path = out / FILE
        self._columns, rows = _read(self._path)
        self._rows = [row for row in rows if int(row["batch"]) <= keep]
        self._rewrite()
        self._board = _board(out)

    def write(self, batch: int, step: int, seconds: float, measures: Mapping[str, float]) -> None:
        """Append a row; a measure that is new gets a column of its own."""
        row = {"batch": batch, "step": step, "seconds": f"{seconds:.1f}"}
        row |= {key: f"{value:.6g}" for key, value in measures.items()}
        new = [key for key in row if key not in self._columns]
        self._rows.append(row)
        if new:
            self._columns += new
            self._rewrite()
        else:
            with self._path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerow(row)
        if self._board is not None:
            for key, value in measures.items():
                self._board.add_scalar(key, value, step)

    def close(self) -> None:
        """Nothing more comes."""
        if self._board is not None:
            self._board.close()

    def _rewrite(self) -> None:
        with self._path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(self._rows)


def _read(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    if not path.is_file():
        return list(FIRST), []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = [row for row in reader if (row.get("batch") or "").isdigit()]
        return list(reader.fieldnames or FIRST), rows


def _board(out: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(out / "tensorboard"))
