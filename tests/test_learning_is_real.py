"""Slow: nets learn more than where organs lie and how bright they are, and nothing from labels of somebody else."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "learning.py"
NETS = ("unet", "unetr", "segresnet", "resenc")
CHANCE = 0.02  # of DSC

pytestmark = pytest.mark.slow


def run(out: Path, model: str, *more: str) -> dict[str, float]:
    """Mean DSC by arm."""
    table = out / "scores.csv"
    words = [sys.executable, str(BENCHMARK), str(out), "--models", model, "--csv", str(table), *more]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    found = defaultdict(list)
    with table.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found[row["model"]].append(float(row["DSC"]))
    return {arm: sum(values) / len(values) for arm, values in found.items()}


@pytest.mark.parametrize("model", ["unet", "sam(size=nano)+lora"])
def test_a_small_budget_beats_all_three_baselines(tmp_path, model):
    found = run(tmp_path, model)
    own = found.pop(model)
    assert len(found) == 3 and own > max(found.values()), found | {model: own}


@pytest.mark.parametrize("model", NETS)
def test_labels_of_somebody_else_teach_no_more_than_where_organs_lie(tmp_path, model):
    found = run(tmp_path, model, "--anywhere", "--exchanged")
    assert found[model] <= found["position prior"] + CHANCE, found


def test_right_labels_of_the_same_persons_teach_more(tmp_path):
    found = run(tmp_path, "unet", "--anywhere")
    own = found.pop("unet")
    assert own > max(found.values()) + 0.2, found | {"unet": own}
