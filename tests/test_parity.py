"""Every stored output of every official implementation, as our code computes it (tests/parity, one file a model)."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from parity import __main__ as command
from parity.harness import DIFFERENT, EQUAL, SKIPPED, Fixture, Near, Row, Skip, fixtures, models, row, rows


@pytest.mark.parametrize("name", models())
def test_our_outputs_are_the_official_ones(name, parity_dir, monkeypatch):
    monkeypatch.setenv("SEGWISE_PARITY_SLOW", "0")
    _check(name, parity_dir)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["litemedsam", "meshnet"])
def test_slow_outputs_are_the_official_ones(name, parity_dir, weights_dir, monkeypatch):
    monkeypatch.setenv("SEGWISE_PARITY_SLOW", "1")
    _check(name, parity_dir)


def _check(name, parity_dir):
    folder = parity_dir / name
    if not (folder / "io.npz").exists():
        pytest.skip(f"no parity fixture of {name}")
    table = list(rows(Fixture(folder)))
    assert [line for line in table if line.status == DIFFERENT] == []
    assert all(line.reason for line in table if line.status == SKIPPED)
    written = [line for line in table if line.reason == "our code gives no such output"]
    assert written == []


def test_every_fixture_has_a_comparison(parity_dir):
    assert {fixture.name for fixture in fixtures()} <= set(models())


def test_a_row_says_what_differs():
    expected = np.array([0.0, 1.0, 2.0], dtype=np.float32)
    assert row("m", "k", expected + 5e-4, expected).status == EQUAL
    assert row("m", "k", expected + 5e-3, expected).status == DIFFERENT
    assert row("m", "k", expected * np.nan, expected).status == DIFFERENT
    assert row("m", "k", expected[:2], expected).reason == "shape (2,), expected (3,)"
    assert row("m", "k", Near(expected + 5e-3, 1e-2, "rounded"), expected).status == EQUAL
    assert row("m", "k", Skip("a draw"), expected) == Row("m", "k", SKIPPED, reason="a draw")


def test_a_mask_may_differ_in_three_pixels():
    expected = np.zeros(50, dtype=bool)
    for n, status in ((3, EQUAL), (4, DIFFERENT)):
        assert row("m", "k", np.arange(50) < n, expected).status == status


def test_the_table_is_written(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "stranger"
    folder.mkdir()
    np.savez(folder / "io.npz", **{"in.a": np.zeros(2), "out.b": np.zeros(2), "out.c": np.ones(3)})
    monkeypatch.setenv("SEGWISE_PARITY_DIR", str(tmp_path))
    assert command.main(["--csv", str(tmp_path / "t.csv"), "--markdown", str(tmp_path / "t.md")]) == 0
    with (tmp_path / "t.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert [line["key"] for line in lines] == ["out.b", "out.c"]
    assert {line["status"] for line in lines} == {SKIPPED} and all(line["reason"] for line in lines)
    assert "stranger" in capsys.readouterr().out
    assert "| stranger | 0 | 0 | 2 | – |" in (tmp_path / "t.md").read_text()


def test_a_broken_model_leaves_the_lines_of_the_others(tmp_path, monkeypatch):
    for name in ("sam", "stranger"):  # the first has no checkpoint
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "io.npz", **{"out.b": np.zeros(2)})
    monkeypatch.setenv("SEGWISE_PARITY_DIR", str(tmp_path))
    assert command.main(["--csv", str(tmp_path / "t.csv")]) == 1
    with (tmp_path / "t.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert [line["status"] for line in lines] == [DIFFERENT, SKIPPED]
    assert lines[0]["reason"].startswith("our code broke: WeightsError: ")


def test_no_fixture_at_all_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SEGWISE_PARITY_DIR", str(tmp_path))
    assert command.main([]) == 2
    assert "SEGWISE_PARITY_DIR" in capsys.readouterr().err
