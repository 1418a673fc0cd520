"""What a training tells TensorBoard: every measure of log.csv, at the step that the row is of."""

from __future__ import annotations

import csv
import sys
import types
from typing import ClassVar

import pytest

import training_toy as toy
from segwise.training.loop import train


class Board:
    """In the place of TensorBoard's writer: what it was told."""

    made: ClassVar[list[Board]] = []

    def __init__(self, place, *, purge_step):
        self.place, self.purge_step, self.scalars, self.closed = place, purge_step, [], False
        Board.made.append(self)

    def add_scalar(self, key, value, step):
        assert not self.closed
        self.scalars.append((key, float(value), step))

    def close(self):
        self.closed = True


@pytest.fixture
def boards(monkeypatch):
    monkeypatch.setattr(Board, "made", [])
    fake = types.ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = Board
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    return Board.made


def rows(folder):
    """(measure, value, step) of every cell of log.csv."""
    with (folder / "log.csv").open(newline="", encoding="utf-8") as file:
        return [
            (key, float(value), int(row["step"]))
            for row in csv.DictReader(file)
            for key, value in row.items()
            if key not in ("batch", "step", "seconds") and value
        ]


def told(scalars):
    """As log.csv rounds them."""
    return sorted((key, float(f"{value:.6g}"), step) for key, value, step in scalars)


def test_every_measure_is_told_at_its_step(tmp_path, boards):
    train(toy.recipe(), tmp_path)
    (board,) = boards
    assert board.place == str(tmp_path / "tensorboard") and board.purge_step == 1 and board.closed
    assert told(board.scalars) == sorted(rows(tmp_path))
    keys = {key for key, _, _ in board.scalars}
    assert {"loss", "rate", "error0", "valid_error"} <= keys
    losses = [step for key, _, step in board.scalars if key == "loss"]
    assert losses == sorted(set(losses)) and losses[-1] == toy.STEPS  # once a batch, which stays one to three steps
    checks = [step for key, _, step in board.scalars if key == "valid_error"]
    assert checks[-1] == toy.STEPS and len(checks) < len(losses)


def test_what_stands_behind_the_last_column_is_dropped(tmp_path):
    train(toy.recipe(), tmp_path, minutes=0)
    log = tmp_path / "log.csv"
    lines = log.read_text().splitlines()
    log.write_text("\n".join([lines[0], f"{lines[1]},5,6", *lines[2:]]) + "\n")
    train(toy.recipe(), tmp_path)
    assert all(None not in row for row in csv.DictReader(log.open(newline="", encoding="utf-8")))


def test_what_stands_of_a_stopped_training_is_told_once(tmp_path, boards):
    train(toy.recipe(), tmp_path, minutes=0)
    train(toy.recipe(), tmp_path)
    first, second = boards
    last = max(step for _, _, step in first.scalars)
    assert second.purge_step == last + 1  # TensorBoard drops what an earlier piece wrote beyond the checkpoint
    assert min(step for _, _, step in second.scalars) > last
    assert told(first.scalars + second.scalars) == sorted(rows(tmp_path))


def test_without_tensorboard_there_is_the_csv_alone(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # an import of it fails
    train(toy.recipe(steps=3), tmp_path)
    assert rows(tmp_path) and not (tmp_path / "tensorboard").exists()


def test_the_real_one_reads_what_was_written(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed (pip install 'segwise[train]')")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(toy.recipe(steps=9), tmp_path, minutes=0)
    train(toy.recipe(steps=9), tmp_path)
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    found = [(key, event.value, event.step) for key in read.Tags()["scalars"] for event in read.Scalars(key)]
    wanted = sorted(rows(tmp_path), key=lambda one: (one[0], one[2]))
    found.sort(key=lambda one: (one[0], one[2]))
    assert [(key, step) for key, _, step in found] == [(key, step) for key, _, step in wanted]
    assert [value for _, value, _ in found] == pytest.approx([value for _, value, _ in wanted], rel=1e-5)
