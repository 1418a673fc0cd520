"""The log of a training: a CSV file, and TensorBoard's where it is installed."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segwise.records import durable
from segwise.training.checkpoint import written

FILE = "log.csv"
FIRST = ("batch", "step", "seconds")


class Silence:
    """The log of a process that writes none."""

    def write(self, batch: int, step: int, seconds: float, measures: Mapping[str, float]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Log:
    """One row a batch. Rows of batches after the checkpoint that a run goes on from are dropped.

    Args:
        out: folder of the training.
        keep: number of batches that stand.
        step: optimiser steps that stand.

    Raises:
        TrainingError: the disk is full, or the folder cannot be written.
    """

    def __init__(self, out: Path, *, keep: int, step: int) -> None:
        self._out, self._path = out, out / FILE
        self._columns, rows = _read(self._path)
        self._rows = [row for row in rows if int(row["batch"]) <= keep]
        self._rewrite()
        self._board = _board(out, step)

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
            with written(self._out), self._path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerow(row)
        if self._board is not None:
            for key, value in measures.items():
                self._board.add_scalar(key, value, step)

    def close(self) -> None:
        """Nothing more comes."""
        if self._board is not None:
            self._board.close()

    def _rewrite(self) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns)
        writer.writeheader()
        writer.writerows(self._rows)
        with written(self._out):
            durable.write_whole(self._path, text.getvalue().encode())


def _read(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    if not path.is_file():
        return list(FIRST), []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        columns = list(reader.fieldnames or FIRST)
        rows = [{key: row[key] for key in columns} for row in reader if (row.get("batch") or "").isdigit()]
        return columns, rows  # what stands behind the last column is no measure


def _board(out: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)
