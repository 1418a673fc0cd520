"""What runs in the Python of nnU-Net's environment: one stage of its work. Imports nothing of Segwise.

Called as `python driver.py STAGE JSON`. nnU-Net's own classes run; a training's length is set on its own trainer, so
that the checkpoint is one of `nnUNetTrainer` and nnUNetv2_predict takes it as it is. What a program is to read stands
on lines that begin with MARK.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

MARK = "@segwise "
SET, PLANS = "1", "nnUNetPlans"


class Enough(Exception):
    """The time is up; the last epoch is saved."""


def plan(said: dict[str, Any]) -> None:
    """Fingerprint and plans; nothing is prepared."""
    from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import plan_and_preprocess_entry

    words = ["-d", SET, "-npfp", "1", "--no_pp", "--verify_dataset_integrity"]
    sys.argv = ["nnUNetv2_plan_and_preprocess", *words, "-c", said["configuration"] or "3d_fullres"]
    plan_and_preprocess_entry()


def preprocess(said: dict[str, Any]) -> None:
    """The cases of one configuration."""
    from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import preprocess_entry

    sys.argv = ["nnUNetv2_preprocess", "-d", SET, "-c", said["configuration"], "-np", "1"]
    preprocess_entry()


def train(said: dict[str, Any]) -> None:
    """Train to the end of the budget, or until the minutes are over; go on where a checkpoint stands."""
    import torch
    from nnunetv2.run import run_training as own
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    torch.set_num_threads(int(said["threads"]))
    torch.manual_seed(int(said["seed"]))
    _shortened(nnUNetTrainer, said)
    kind = own.get_trainer_from_args
    given: dict[str, Any] = {"plans_identifier": PLANS, "device": torch.device(said["device"])}
    if "continue_training" in inspect.signature(kind).parameters:
        given["continue_training"] = bool(said["again"])
    trainer = kind(SET, said["configuration"], 0, "nnUNetTrainer", **given)
    own.maybe_load_checkpoint(trainer, bool(said["again"]), False)
    finished = True
    try:
        trainer.run_training()
    except Enough:
        finished = False
    folder = Path(trainer.output_folder)
    kept = folder / ("checkpoint_final.pth" if finished else "checkpoint_latest.pth")
    _exported(kept, Path(said["into"]))
    _say(finished=finished, epoch=int(trainer.current_epoch))


def _shortened(trainer: Any, said: dict[str, Any]) -> None:
    """Length and rate on nnU-Net's own trainer; a checkpoint every epoch; each epoch is told."""
    begin, end = trainer.__init__, trainer.on_epoch_end
    until = time.monotonic() + 60 * said["minutes"] if said["minutes"] is not None else None

    @functools.wraps(begin)  # nnU-Net reads its signature
    def begun(self: Any, *args: Any, **named: Any) -> None:
        begin(self, *args, **named)
        self.num_epochs, self.save_every = said["epochs"], 1
        self.num_iterations_per_epoch = said["iterations"]
        self.num_val_iterations_per_epoch = max(1, said["iterations"] // 5)
        self.initial_lr = said["rate"] or self.initial_lr

    def ended(self: Any) -> None:
        end(self)
        _say(epoch=int(self.current_epoch), loss=_last(self, "train_losses"), valid_dsc=_last(self, "mean_fg_dice"))
        if until is not None and time.monotonic() >= until and self.current_epoch < self.num_epochs:
            for loader in (self.dataloader_train, self.dataloader_val):
                getattr(loader, "_finish", lambda: None)()
            raise Enough

    trainer.__init__, trainer.on_epoch_end = begun, ended


def _last(trainer: Any, key: str) -> float:
    kept = getattr(trainer.logger, "my_fantastic_logging", None)  # before 2.7
    return float(kept[key][-1] if kept is not None else trainer.logger.get_value(key, step=-1))


def _exported(checkpoint: Path, into: Path) -> None:
    """The checkpoint without what only a training needs: a third of its size."""
    import torch

    content = torch.load(checkpoint, map_location="cpu", weights_only=False)  # written by this very program
    wanted = ("network_weights", "init_args", "trainer_name", "inference_allowed_mirroring_axes", "current_epoch")
    kept = {key: content[key] for key in wanted if key in content}
    kept["init_args"] = {key: value for key, value in kept["init_args"].items() if key != "device"}
    part = into.with_name(f".{into.name}.part")
    torch.save(kept, part)
    part.replace(into)


def _say(**what: Any) -> None:
    print(MARK + json.dumps(what), flush=True)


def _end_with_parent() -> None:
    """A Segwise that is killed leaves no training behind: the whole group of processes ends with it."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(1)
    if hasattr(os, "killpg"):
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.path.pop(0)  # our own folder: its names are nobody's modules here
    {"plan": plan, "preprocess": preprocess, "train": train}[sys.argv[1]](json.loads(sys.argv[2]))
