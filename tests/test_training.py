"""The loop on a toy: exact resume, several losses a batch, what stops it and what it says then."""

from __future__ import annotations

import ast
import csv
import errno
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import training_toy as toy
from segwise import catalog
from segwise.errors import TrainingError
from segwise.records import durable
from segwise.training import ahead, checkpoint, loop, precision
from segwise.training.contract import Settings
from segwise.training.loop import scheduled, train

TOY = Path(toy.__file__)
ROOM = Path(loop.__file__).parent
LOOP = ("ahead", "checkpoint", "contract", "log", "loop", "names", "precision", "together", "whole")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole")
    train(toy.recipe(), out)
    return out


def _kept(out):
    return torch.load(out / "last.pt", weights_only=True)


def _rows(out):
    with (out / "log.csv").open(newline="", encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def _same(a, b):
    """Bit-equal but for the clock: weights, their average, the optimiser; and every row of the log."""
    one, two = _kept(a), _kept(b)
    one.pop("seconds"), two.pop("seconds")
    flat = [torch.utils._pytree.tree_flatten(x) for x in (one, two)]
    assert flat[0][1] == flat[1][1]
    for x, y in zip(flat[0][0], flat[1][0], strict=True):
        assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y
    assert _rows(a) == _rows(b)


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
def test_killed_at_three_random_steps_it_comes_to_the_same_bits(whole, tmp_path):
    steps = sorted(random.SystemRandom().sample(range(1, toy.STEPS), 3))
    done = subprocess.run(
        [sys.executable, str(TOY), str(tmp_path / "out"), *map(str, steps)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"killed at {steps}: {done.stderr}"
    _same(whole, tmp_path / "out")


def test_pieces_of_a_time_budget_come_to_the_same_bits(whole, tmp_path):
    ends = [train(toy.recipe(), tmp_path, minutes=0) for _ in range(2)]
    assert [end.finished for end in ends] == [False, False]
    assert ends[0].step < ends[1].step < toy.STEPS
    assert train(toy.recipe(), tmp_path).finished
    _same(whole, tmp_path)
    again = train(toy.recipe(), tmp_path)  # nothing is left to do
    assert (again.step, again.finished) == (toy.STEPS, True)
    assert again.measures == {"valid_error": _kept(whole)["measures"]["valid_error"]}
    _same(whole, tmp_path)


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals go to the main thread")
def test_ctrl_c_ends_the_batch_first_and_loses_nothing(whole, tmp_path):
    def press(n):
        if n == 8:
            signal.raise_signal(signal.SIGINT)

    shown = []
    with pytest.raises(KeyboardInterrupt):
        train(toy.recipe(objective=toy.Guess(press)), tmp_path, progress=lambda *state: shown.append(state[0]))
    assert _kept(tmp_path)["step"] > shown[-1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    train(toy.recipe(), tmp_path)
    _same(whole, tmp_path)


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals go to the main thread")
def test_a_second_ctrl_c_does_not_wait_and_spoils_nothing(whole, tmp_path):
    def press(n):
        if n == 20:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(toy.recipe(objective=toy.Guess(press)), tmp_path)
    assert _kept(tmp_path)["step"] < 20
    train(toy.recipe(), tmp_path)
    _same(whole, tmp_path)


def test_batches_made_ahead_are_those_made_here():
    here, there = (ahead.batches(toy.Sums(3), 2, ahead=3, makers=makers) for makers in (0, 1))
    for _ in range(6):
        a, b = next(here), next(there)
        assert all(np.array_equal(a[key], b[key]) for key in "xy")
    there.close()
    here.close()


class Broken(toy.Sums):
    def batch(self, index):
        os._exit(9)


def test_a_maker_that_dies_is_one_message(tmp_path):
    with pytest.raises(TrainingError, match=r"killed.*repeat to go on"):
        train(toy.recipe(stream=Broken(0), makers=1), tmp_path)


ORPHAN = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import training_toy as toy
from segwise.training import ahead
if __name__ == "__main__":
    made = ahead.batches(toy.Sums(0), 0, ahead=2, makers=1)
    next(made)
    import multiprocessing
    print(multiprocessing.active_children()[0].pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_makers_end_with_a_training_that_is_killed(tmp_path):
    script = tmp_path / "orphan.py"
    script.write_text(ORPHAN.format(tests=str(TOY.parent)))
    said = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=60).stdout
    # the pipe of the captured output ends only when the maker, which shares it, has ended
    with pytest.raises(ProcessLookupError):
        for _ in range(50):
            os.kill(int(said), 0)
            threading.Event().wait(0.1)


def test_a_batch_stays_for_several_steps_and_the_schedule_cuts_the_last(whole):
    rows = _rows(whole)
    steps = [int(row["step"]) for row in rows]
    stays = np.diff([0, *steps])
    assert set(stays) == {1, 2, 3}
    assert steps[-1] == toy.STEPS
    for row, stay in zip(rows[:-1], stays, strict=False):
        assert [bool(row[f"error{k}"]) for k in range(3)] == [k < stay for k in range(3)]


def test_validation_stands_where_it_was_made(whole):
    rows = _rows(whole)
    made = [int(row["batch"]) for row in rows if row["valid_error"]]
    assert made == sorted({*range(3, len(rows) + 1, 3), len(rows)})


class Slope:
    """One weight whose gradient is one."""

    def __init__(self, scale=1.0):
        self.net = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.net.weight)
        self.scale, self.before = scale, []

    def losses(self, batch, rng):
        self.before.append(float(self.net.weight.detach()))
        yield self.net.weight.sum() * self.scale, {}

    def validate(self):
        return {"weight": float(self.net.weight)}


def test_the_average_follows_its_formula_and_is_what_is_validated(tmp_path):
    objective = Slope()
    train(toy.recipe(objective=objective, steps=30, average=0.7, validate_every=30), tmp_path)
    last, mean = float(_kept(tmp_path)["net"]["weight"]), 0.0
    for step, weight in enumerate([*objective.before[1:], last], start=1):
        keep = min(0.7, (1 + step) / (10 + step))
        mean = keep * mean + (1 - keep) * weight
    kept = _kept(tmp_path)
    assert float(kept["averaged"]["weight"]) == pytest.approx(mean, rel=1e-5)
    assert kept["measures"]["valid_weight"] == pytest.approx(mean, rel=1e-5)
    assert float(torch.load(tmp_path / "weights.pt")["net"]["weight"]) == pytest.approx(mean, rel=1e-5)


def test_the_rate_rises_along_a_line_and_falls_along_half_a_cosine():
    settings = Settings(steps=110, rate=2.0, warmup=10, floor=0.1)
    assert [scheduled(s, settings) for s in (0, 4, 9, 10)] == pytest.approx([0.2, 1.0, 2.0, 2.0])
    assert scheduled(60, settings) == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))
    assert scheduled(110, settings) == scheduled(500, settings) == pytest.approx(0.2)


def test_the_time_left_is_of_the_pace_after_the_first_batch(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    run = loop._begun(toy.recipe(), "cpu")
    clock, limited = loop._Clock(run, 100, None), loop._Clock(run, 100, minutes=1)
    now[0] = 130.0  # makers begin
    assert (clock.left(3), limited.left(3)) == (float("inf"), 30.0)
    now[0] = 140.0
    assert (clock.left(8), limited.left(8)) == (92 * 2.0, 20.0)
    assert (clock.left(100), limited.over(), clock.total()) == (0.0, False, 40.0)
    now[0] = 170.0
    assert (limited.left(9), limited.over(), clock.over()) == (0.0, True, False)


def test_weights_decay_only_where_they_have_two_axes():
    groups = loop._begun(toy.recipe(decay=0.3), "cpu").optimizer.param_groups
    assert [(g["weight_decay"], {p.ndim for p in g["params"]}) for g in groups] == [(0.3, {2}), (0.0, {1})]


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_keeps_the_last_checkpoint(tmp_path, scale):
    train(toy.recipe(), tmp_path, minutes=0)
    before = (tmp_path / "last.pt").read_bytes()

    class Bad(toy.Guess):
        def losses(self, batch, rng):
            for loss, said in super().losses(batch, rng):
                yield loss * scale, said

    with pytest.raises(TrainingError, match=r"loss is (nan|inf) at step \d+.*checkpoint is kept"):
        train(toy.recipe(objective=Bad()), tmp_path)
    assert (tmp_path / "last.pt").read_bytes() == before


def test_a_gradient_that_is_no_number_changes_no_weight(tmp_path):
    class Root(Slope):
        def losses(self, batch, rng):
            yield self.net.weight.sum().square().sqrt(), {}  # at 0: the loss is 0, its gradient nan

    objective = Root()
    with pytest.raises(TrainingError, match="gradient is nan at step 0"):
        train(toy.recipe(objective=objective), tmp_path)
    assert float(objective.net.weight.detach()) == 0.0


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"steps": 61}, "steps 60 there, 61 asked"),
        ({"rate": 0.5}, "rate 0.001 there, 0.5 asked"),
        ({"seed": 4}, "seed 0 there, 4 asked"),
        ({"version": "2"}, "version 1 there, 2 asked"),
        ({"objective": Slope()}, "of another net"),
    ],
)
def test_another_training_in_the_folder_is_refused(whole, other, said):
    before = (whole / "last.pt").read_bytes()
    with pytest.raises(TrainingError, match=said):
        train(toy.recipe(**other), whole)
    assert (whole / "last.pt").read_bytes() == before


def test_what_two_pieces_may_differ_in(whole, tmp_path):
    train(toy.recipe(), tmp_path, minutes=0)
    train(toy.recipe(keep_every=1, ahead=2, threads=1), tmp_path)
    _same(whole, tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", "half"])
def test_an_unreadable_checkpoint_is_one_message(whole, tmp_path, content):
    good = (whole / "last.pt").read_bytes()
    (tmp_path / "last.pt").write_bytes(good[: len(good) // 2] if content == "half" else content)
    with pytest.raises(TrainingError, match=r"last\.pt is no checkpoint that can be read; remove it"):
        train(toy.recipe(), tmp_path)


def test_one_process_at_a_time(tmp_path):
    lock = durable.Lock(tmp_path / "lock")
    assert lock.take(wait=False)
    with pytest.raises(TrainingError, match="another process is training"):
        train(toy.recipe(), tmp_path)
    lock.give()


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"cannot be written .*give another folder"):
        train(toy.recipe(), tmp_path / "file" / "out")


@pytest.mark.parametrize("moment", ["writing", "syncing", "renaming"])
def test_a_full_disk_leaves_the_checkpoint_before(whole, tmp_path, monkeypatch, moment):
    train(toy.recipe(), tmp_path, minutes=0)
    before = (tmp_path / "last.pt").read_bytes()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if moment == "writing":
            patch.setattr(checkpoint, "_pickle", full)
        elif moment == "syncing":
            patch.setattr(checkpoint.os, "fsync", full)
        else:
            patch.setattr(checkpoint.Path, "replace", full)
        with pytest.raises(TrainingError, match=r"No space left on device.*last checkpoint is kept"):
            train(toy.recipe(), tmp_path)
    assert (tmp_path / "last.pt").read_bytes() == before
    assert not list(tmp_path.glob(".*"))
    train(toy.recipe(), tmp_path)
    _same(whole, tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on files")
def test_torchs_own_word_for_a_full_disk_is_understood(tmp_path):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with (tmp_path / "x").open("wb") as file, pytest.raises(OSError, match="too large"):
            checkpoint._pickle({"a": torch.zeros(100_000)}, file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


class Watched(Slope):
    """Says what the net answers in each round, in bf16, and whether a first look without gradients spoils them."""

    def __init__(self):
        super().__init__()
        self.answers = []

    def losses(self, batch, rng):
        x = torch.ones(1, 1)
        for _ in range(3):
            with torch.no_grad():
                self.net(x)
            y = self.net(x)
            self.answers.append((y.dtype, float(y.detach()), float(self.net.weight.detach())))
            yield y.float().sum(), {}
            assert self.net.weight.grad is not None


def test_bf16_uses_the_newest_weights_and_keeps_their_gradients(tmp_path):
    objective = Watched()
    train(toy.recipe(objective=objective, steps=3, rate=0.5, warmup=0, precision="bf16"), tmp_path)
    assert {dtype for dtype, _, _ in objective.answers} == {torch.bfloat16}
    for _, said, weight in objective.answers:
        assert said == pytest.approx(weight, rel=2**-7)
    assert len({said for _, said, _ in objective.answers}) == 3


def test_auto_is_bf16_where_the_device_has_it(monkeypatch):
    assert precision.has_bf16("cpu") == (
        "AVX512" in torch.backends.cpu.get_cpu_capability() and torch.cpu._is_avx512_bf16_supported()
    )
    assert not precision.has_bf16("meta")
    for has in (True, False):
        monkeypatch.setattr(precision, "has_bf16", lambda device, has=has: has)
        for asked, used in (("auto", has), ("bf16", True), ("fp32", False)):
            with precision.autocast(asked, "cpu"):
                assert torch.is_autocast_enabled("cpu") == used


def test_a_device_that_is_not_there_is_one_message(tmp_path):
    for device in ("abacus", *(() if torch.cuda.is_available() else ("cuda",))):
        with pytest.raises(TrainingError, match=f'device "{device}" cannot be used .*cpu always can'):
            train(toy.recipe(), tmp_path, device=device)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_trains_and_a_cpu_goes_on(tmp_path):
    made = toy.recipe(precision="auto")
    assert not train(made, tmp_path, minutes=0, device="cuda").finished
    assert train(toy.recipe(precision="auto"), tmp_path, device="cuda").step == toy.STEPS
    weights = torch.load(tmp_path / "weights.pt", map_location=None)["net"]
    assert {value.device.type for value in weights.values()} == {"cpu"}
    assert train(toy.recipe(precision="auto"), tmp_path).finished


class Line:
    """A line without any draw, one step a batch."""

    def __init__(self):
        torch.manual_seed(0)
        self.net = nn.Linear(3, 1)

    def losses(self, batch, rng):
        x, y = (torch.from_numpy(batch[key]) for key in "xy")
        yield (self.net(x) - y).square().mean(), {"draw": float(rng.random())}

    def validate(self):
        return {"bias": float(self.net.bias)}


def test_two_batches_gathered_are_one_of_twice_the_size(tmp_path):
    class Doubled(toy.Sums):
        def batch(self, index):
            two = [toy.Sums.batch(self, 2 * index + j) for j in (0, 1)]
            return {key: np.concatenate([one[key] for one in two]) for key in "xy"}

    own = {"steps": 12, "warmup": 1}
    train(toy.recipe(objective=Line(), gather=2, **own), tmp_path / "two")
    train(toy.recipe(objective=Line(), stream=Doubled(0), **own), tmp_path / "one")
    two, one = (_kept(tmp_path / name)["net"] for name in ("two", "one"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value)
    with pytest.raises(TrainingError, match="batches a step"):
        train(toy.recipe(objective=Line(), **own), tmp_path / "two")


def test_gathered_batches_that_stay_longer_go_on_without_the_others(tmp_path):
    found = train(toy.recipe(gather=3), tmp_path)
    assert found.finished and found.step == toy.STEPS


def test_two_processes_come_to_what_one_with_two_batches_a_step_comes_to(tmp_path):
    """Each has one of the two; gradients are averaged, only the first one writes, and both stop together."""
    script = tmp_path / "two.py"
    script.write_text(
        "import sys; from pathlib import Path; import test_training, training_toy as toy\n"
        "from segwise.training.loop import train\n"
        "for minutes in (0, None):\n"
        "    made = toy.recipe(objective=test_training.Line(), steps=12, warmup=1)\n"
        "    train(made, Path(sys.argv[1]), minutes=minutes)\n"
    )
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script), str(tmp_path / "two")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([sys.executable, *run], env=env, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    train(toy.recipe(objective=Line(), steps=12, warmup=1, gather=2), tmp_path / "one")
    two, one = (_kept(tmp_path / name)["net"] for name in ("two", "one"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value)
    rows = (tmp_path / "two" / "log.csv").read_text().splitlines()
    assert len(rows) == 13


def test_the_loop_knows_no_model():
    names = {name for kind in ("models", "wrappers", "adapters") for name in catalog.names(kind)}
    for path in (ROOM / f"{name}.py" for name in LOOP):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value not in names, f"{path.name}, line {node.lineno} names {node.value}"
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("segwise"):
                room = f"{node.module}.{node.names[0].name}".split(".")[1]
                if node.module == "segwise.nets.half":  # whether a device has bf16: no net
                    continue
                assert room in {"errors", "records", "training", "__version__"}, f"{path.name} imports {node.module}"


def test_a_polynomial_schedule_falls_as_nnunets():
    settings = Settings(steps=100, rate=1.0, warmup=0, floor=0.0, schedule="poly")
    assert scheduled(0, settings) == 1.0
    assert scheduled(50, settings) == pytest.approx(0.5**0.9)
    assert scheduled(100, settings) == 0.0
