"""The forecast of `training_memory.py` held against trainings that run here, on the CPU.

    python benchmarks/training_memory_held.py DATA [--model SPEC] [--batch 1] [--recompute] [--precision fp32]

Every training has a process of its own: what it holds before the first step (the program, the weights, the cases) is
subtracted from its greatest memory after one step, and after the validation at the end, which the forecast leaves out.
The nets are the real ones: the models' own files, but random weights of the published size for `sam`, whose memory is
the same.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from training_memory import GB, asked, held, kept, needs

from segwise import assemble, learn
from segwise.learn import Who
from segwise.nets import mobile_sam, sam_sizes
from segwise.segmenter import Learned
from segwise.spec import Spec, parse
from segwise.training.labelled import Budget
from segwise.training.memory import STATUS, memory_gb

MODELS = ("litemedsam+lora", "litemedsam+decoder", "sam(size=mobile)+norm")
STEPS = 3


def now_gb() -> float:
    """Memory of this process."""
    told = dict(line.split(":", 1) for line in STATUS.read_text(encoding="utf-8").splitlines() if ":" in line)
    return int(told["VmRSS"].split()[0]) * 1024 / GB


def found(model: str, folder: Path) -> Spec:
    """The spec, with random weights of its published size for SAM."""
    spec = parse(model)
    size = str(spec.args.get("size"))
    if spec.name != "sam" or size not in ("mobile", *sam_sizes.SIZES):
        return spec
    how: dict[str, Any] = {"candidates": "best", "enlarge": False}
    net = mobile_sam.mobile_sam(**how) if size == "mobile" else sam_sizes.sam(size, 1024, **how)
    file = folder / "checkpoint.pth"
    torch.save(net.state_dict(), file)
    return Spec("sam", {"checkpoint": str(file)}, spec.plus)


def forecast(spec: Spec, budget: Budget) -> tuple[float, float]:
    """(GB of a training beside the weights that are loaded, GB of the weights)."""
    own = assemble.segmenter(spec)
    assert isinstance(own, Learned)
    parts = own.parts
    net, shape = parts.net.to("meta"), parts.frame.shape
    image, marks = asked((3, *shape), False)
    one = kept(net, image, marks)
    many = one._replace(all=budget.size * one.all, checkpointed=budget.size * one.checkpointed)
    total = needs(net, many, bf16=budget.precision == "bf16", checkpointed=budget.recompute)
    return total - held(net) / GB, held(net) / GB


def measure(model: str, data: Path, budget: Budget) -> None:
    """Train a few steps in this process; print forecast and measurement."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        spec = found(model, folder)
        expected, weights = forecast(spec, budget)
        made = learn.adaptation(str(spec), Who(data=data), folder / "out", budget)
        before, after = now_gb(), []
        learn.train(made, folder / "out", progress=lambda *_: after.append(memory_gb()))
        step, whole = after[0] - before, memory_gb() - before
        cells = (weights, expected, step, step / expected, whole, memory_gb())
        print(f"| `{model}` | {' | '.join(f'{cell:.2f}' for cell in cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", action="append")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--here", action="store_true", help="in this process, without a heading")
    args = parser.parse_args()
    how: dict[str, Any] = {"size": args.batch, "recompute": args.recompute, "precision": args.precision}
    budget = Budget(steps=STEPS, validate_every=STEPS, augment=False, **how)
    if args.here:
        measure(args.model[0], args.data, budget)
        return
    print("| model | weights, GB | forecast beside them | measured, a step | ratio | with validation | whole process |")
    print("|---|---|---|---|---|---|---|")
    for model in args.model or MODELS:
        words = [sys.executable, __file__, *sys.argv[1:], "--here"]
        for one in args.model or ():
            at = words.index(one)
            del words[at - 1 : at + 1]
        sys.stdout.flush()
        subprocess.run([*words, "--model", model], check=False)


if __name__ == "__main__":
    main()
