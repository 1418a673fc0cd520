"""The write path of a run folder: whole files, checked lines, journals, and the folder itself."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from segwise.errors import RunError
from segwise.evaluate.masks import Masks
from segwise.geometry import Grid
from segwise.records import durable
from segwise.records.run import Journal, Run
from segwise.records.types import Record, Score, Task, record_of

TASK = Task(
    model="m", prompter="p", dataset="d", layout="pair", root="here", case="c", subject="s", seed=0, targets=("t",)
)


def _record(number: int = 0, status: str = "done", **facts: object) -> Record:
    return record_of(TASK, "t", number, status, **facts)


def test_a_task_is_known_by_what_it_is_not_by_where_its_data_lie():
    assert dataclasses.replace(TASK, root="there", targets=("t", "u"), subject="x").id == TASK.id
    assert dataclasses.replace(TASK, seed=1).id != TASK.id
    assert dataclasses.replace(TASK, model="m2").id != TASK.id


def test_lines_come_back_and_a_torn_last_one_is_dropped(tmp_path):
    path = tmp_path / "a.jsonl"
    with path.open("ab") as file:
        durable.append_line(file, [{"a": 1}, {"b": "ü"}])
        durable.append_line(file, [{"c": 3}])
    whole = path.read_bytes()
    assert [json.loads(line)["items"] for line in whole.splitlines()] == [[{"a": 1}, {"b": "ü"}], [{"c": 3}]]
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole)):
        path.write_bytes(whole[:cut])
        assert list(durable.lines(path)) == [[{"a": 1}, {"b": "ü"}]], cut
        assert durable.repair(path) == cut - first
        assert path.read_bytes() == whole[:first]
    assert durable.repair(tmp_path / "none") == 0


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(durable.line_of([{"a": 1}]).replace(b"1", b"2") + durable.line_of([{"b": 1}]))
    with pytest.raises(RunError, match=r"a.jsonl: line 1 is damaged"):
        list(durable.lines(path))


def test_a_journal_rolls_and_compacts(tmp_path):
    journal = Journal(tmp_path / "j", segment_bytes=60)
    for i in range(5):
        journal.append([{"key": i % 2, "value": i}])
    assert len(journal.segments()) == 5
    assert [item["value"] for item in journal.items()] == [0, 1, 2, 3, 4]
    journal.compact([{"key": 0, "value": 4}, {"key": 1, "value": 3}])
    assert [path.name for path in journal.segments()] == ["000006.jsonl"]
    assert journal.items() == [{"key": 0, "value": 4}, {"key": 1, "value": 3}]
    journal.append([{"key": 2, "value": 5}])
    assert [item["value"] for item in Journal(tmp_path / "j", segment_bytes=1).items()] == [4, 3, 5]


def test_a_compaction_cut_short_is_finished_on_opening(tmp_path):
    journal = Journal(tmp_path, segment_bytes=1)
    journal.append([{"value": 1}])
    journal.append([{"value": 2}])
    old = {path.name: path.read_bytes() for path in journal.segments()}
    journal.compact([{"value": 2}])
    for name, data in old.items():  # as if killed before the old segments were dropped
        (tmp_path / name).write_bytes(data)
    (tmp_path / ".000009.jsonl.x.tmp").write_bytes(b"half")
    journal.open()
    assert [path.name for path in tmp_path.iterdir()] == ["000003.jsonl"]
    assert journal.items() == [{"value": 2}]


def test_records_come_back_with_what_they_share(tmp_path):
    record = _record(provenance={"card": {"title": "M"}, "versions": {"python": "3"}, "reference": "r"})
    with Run.write(tmp_path / "run") as run:
        run.describe({"plan": {}})
        run.add([record, dataclasses.replace(record, target="u")])
        run.add_scores([Score(task="t", target="t", round=0, measure="DSC", metric="overlap", value=None, reason="x")])
    read = Run.read(tmp_path / "run")
    assert read.records() == [record, dataclasses.replace(record, target="u")]
    assert [score.reason for score in read.scores()] == ["x"]
    assert len(list((tmp_path / "run/shared").iterdir())) == 1
    assert "title" not in (tmp_path / "run/records/000001.jsonl").read_text()


def test_the_last_attempt_of_a_target_counts(tmp_path):
    with Run.write(tmp_path) as run:
        run.describe({"plan": {}})
        run.add([_record(0), _record(1), _record(2, "failed")])
        run.add([_record(0), _record(1, mask="new")])
        assert [(r.round, r.mask) for r in run.records()] == [(0, ""), (1, "new")]
        run.compact()
        assert [(r.round, r.mask) for r in run.records()] == [(0, ""), (1, "new")]


def test_only_one_process_writes_and_a_dead_one_does_not_block(tmp_path):
    with Run.write(tmp_path) as run:
        run.describe({"plan": {}})
        with pytest.raises(RunError, match="being written by another process"):
            Run.write(tmp_path)
    (tmp_path / "lock").write_text("left behind")
    Run.write(tmp_path).close()


def test_folders_that_are_not_runs_are_refused(tmp_path):
    with pytest.raises(RunError, match=r"is not a run folder: it has no run\.json"):
        Run.read(tmp_path)
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(RunError, match=r"holds photo\.jpg but no run\.json: it is not a run folder"):
        Run.write(tmp_path)
    with pytest.raises(RunError, match="is a file, expected a folder"):
        Run.write(tmp_path / "photo.jpg")
    (tmp_path / "run.json").write_text('{"format": 0}')
    with pytest.raises(RunError, match="format is 0, expected 1"):
        Run.write(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(RunError, match=r"run\.json is damaged"):
        Run.read(tmp_path)


def test_masks_come_back_without_their_case(tmp_path):
    grid = Grid((5, 6, 7), np.diag([2.0, 3.0, 4.0, 1.0]))
    mask = np.zeros(grid.shape, dtype=bool)
    mask[1:3, 2:5, 6] = True
    masks = Masks(tmp_path)
    address = masks.put(mask, grid)
    assert masks.put(mask.copy(), grid) == address
    back, place = masks.get(address)
    assert np.array_equal(back, mask) and place == grid
    other = Grid(grid.shape, np.diag([2.0, 3.0, 5.0, 1.0]))
    assert masks.put(mask, other) != address
    assert masks.put(np.roll(mask, -1, 2), grid) != address
    empty, _ = masks.get(masks.put(np.zeros_like(mask), grid))
    assert not empty.any()


def test_a_damaged_mask_is_an_error(tmp_path):
    grid = Grid((5, 6, 7), np.eye(4))
    masks = Masks(tmp_path / "masks")
    address = masks.put(np.ones(grid.shape, dtype=bool), grid)
    path = next(tmp_path.rglob("*.mask"))
    path.write_bytes(path.read_bytes().replace(b'"low": [0', b'"low": [1'))
    with pytest.raises((RunError, ValueError)):
        masks.get(address)
    with pytest.raises(RunError, match="cannot be read"):
        masks.get("0" * 32)
