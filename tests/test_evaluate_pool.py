"""Engines: the same outcomes from one process and from several; a worker that dies loses its job only."""

from __future__ import annotations

import functools
import os
import signal
import sys

import pytest

import members
import toys
from segwise import engine
from segwise.evaluate import compare
from segwise.records.run import Run

GROUPS = [engine.Group("a", (1, 2)), engine.Group("b", (3,)), engine.Group("a", (4, 0))]


def _double(job: int) -> int:
    if job == 3:
        raise ValueError("three")
    if job == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * job


def _double_calmly(job: int) -> int:
    return _double(job) if job < 4 else -1


def _setup(work):
    return work


def test_serial_gives_outcomes_and_failures():
    found = dict(engine.Serial().map(functools.partial(_setup, _double_calmly), GROUPS))
    assert {job: out for job, out in found.items() if job != 3} == {1: 2, 2: 4, 4: -1, 0: 0}
    assert found[3].reason == "ValueError: three" and "Traceback" in found[3].traceback


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_worker_that_dies_loses_its_job_only():
    found = dict(engine.Pool(2).map(functools.partial(_setup, _double), GROUPS))
    assert {job: out for job, out in found.items() if job not in (3, 4)} == {1: 2, 2: 4, 0: 0}
    assert found[3].reason == "ValueError: three"
    assert "was killed by signal 9; it may have run out of memory" in found[4].reason


def _count_threads(job: int) -> int:
    return int(os.environ["OMP_NUM_THREADS"])  # read by torch, numpy and scikit when they start


@pytest.mark.parametrize(("workers", "share"), [(2, 8), (32, 5)])
def test_workers_share_the_cores_instead_of_taking_all_each(monkeypatch, workers, share):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    found = dict(engine.Pool(workers).map(functools.partial(_setup, _count_threads), GROUPS))
    assert set(found.values()) == {share} and "OMP_NUM_THREADS" not in os.environ


def test_threads_that_the_user_chose_are_left_alone(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert set(dict(engine.Pool(2).map(functools.partial(_setup, _count_threads), GROUPS)).values()) == {3}


def test_a_pool_gives_the_records_of_one_process(tmp_path):
    with members.installed(tmp_path / "pkg", members.THREE):
        data = toys.make(tmp_path / "data")
        for name, workers in (("one", 1), ("two", 2)):
            compare.compare(
                data, ["closed", "stateful"], ["clicks(n=2)"], out=tmp_path / name, metrics=["overlap"], workers=workers
            )
        one, two = (
            {r.key: (r.status, r.prompt, r.mask, r.reason) for r in Run.read(tmp_path / name).records()}
            for name in ("one", "two")
        )
    assert one == two and any(status == "done" for status, *_ in one.values())


def test_stopping_in_the_middle_leaves_a_run_that_resumes(tmp_path):
    def stop(done, total, what):
        if done == 2:
            raise KeyboardInterrupt

    with members.installed(tmp_path / "pkg", members.THREE):
        found = compare.preview(
            compare.plan_of(["closed", "stateful"], ["box3d"], metrics=["overlap"]), toys.make(tmp_path / "data")
        )
        with pytest.raises(KeyboardInterrupt):
            compare.run(found, tmp_path / "run", progress=stop)
        assert len({r.task for r in Run.read(tmp_path / "run").records() if r.status == "done"}) == 2
        compare.run(found, tmp_path / "run")
    assert {t.id for t in found.tasks} == {r.task for r in Run.read(tmp_path / "run").records() if r.status == "done"}
