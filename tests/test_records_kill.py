"""`kill -9` at every step of the write path and at random moments, then resume: the records are those of an undisturbed
run, no task is repeated, none is lost."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sys
import time
from functools import partial

import pytest

import members
import toys
from segwise.evaluate import compare
from segwise.records import durable, run
from segwise.records.run import Run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
CLICKS = "clicks(n=2)"
TIMINGS = ("seconds", "peak_bytes")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kill")
    with members.installed(folder / "pkg", members.THREE):
        yield toys.make(folder / "data", n=1)


def _run(data, out, prompter="box3d"):
    plan = compare.plan_of(
        ["stateful"], [prompter], metrics=["overlap"], targets=["left thalamus", "right thalamus", "thalamus"]
    )
    compare.run(compare.preview(plan, data), out)


@pytest.fixture(autouse=True, scope="module")
def _quick():
    """fsync guards against a lost machine, not against a killed process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        patch.setattr(run, "SEGMENT_BYTES", 1500)  # several segments and a compaction
        yield


def _child(work) -> int:
    """Runs in a child; the signal that killed it, 0 if none."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def _contents(out):
    """Everything a run holds but for timings, and how often each key was stored."""
    read = Run.read(out)
    records = {r.key: {k: v for k, v in vars(r).items() if k not in TIMINGS} for r in read.records()}
    scores = {(s.task, s.target, s.round, s.measure): s for s in read.scores()}
    ledger = sorted(
        json.dumps(entry, sort_keys=True)
        for path in (out / "ledger").glob("*.jsonl")
        for batch in durable.lines(path)
        for entry in batch
    )
    n_stored = [len(list(journal.items())) for journal in (read._records, read._scores)]
    return records, scores, ledger, n_stored


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory, _quick):
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    counted = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "step", counted.append)
        _run(data, out)
    return _contents(out), counted


def test_the_write_path_has_steps_of_every_kind(undisturbed):
    assert set(undisturbed[1]) >= {
        *("whole.created", "whole.half", "whole.synced", "whole.renamed"),
        *("append.begin", "append.torn", "append.written", "append.synced"),
        *("segment.created", "compact.merged", "compact.dropped"),
    }


def test_killed_at_every_step(data, undisturbed, tmp_path):
    expected, steps = undisturbed
    for n, name in enumerate(steps):
        out = tmp_path / str(n)

        assert _child(partial(_dying, data, out, n)) == signal.SIGKILL, name
        assert _child(partial(_run, data, out)) == 0
        assert _contents(out) == expected, f"killed at step {n}, {name}"


def _dying(data, out, at):
    count = itertools.count()

    def step(_):
        if next(count) == at:
            os.kill(os.getpid(), signal.SIGKILL)

    durable.step = step
    _run(data, out)


def test_killed_at_twenty_random_moments(data, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "SEGMENT_BYTES", 1 << 20)  # nothing is merged, so what was stored twice would be seen
    _run(data, tmp_path / "undisturbed", CLICKS)
    expected = _contents(tmp_path / "undisturbed")
    assert expected[3] == [len(expected[0]), len(expected[1])]
    start = time.perf_counter()
    _child(lambda: _run(data, tmp_path / "timed", CLICKS))
    whole = time.perf_counter() - start
    rng = random.Random(7)
    for n in range(20):
        out = tmp_path / str(n)
        for _ in range(3):  # killed thrice in a row
            child = os.fork()
            if child == 0:
                try:
                    _run(data, out, CLICKS)
                finally:
                    os._exit(0)
            time.sleep(rng.uniform(0, whole))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        assert _child(partial(_run, data, out, CLICKS)) == 0
        assert _contents(out) == expected, f"moment {n}"
