"""Where nnU-Net's package is: in an environment of its own, or in this one; and how a stage runs there.

Its dependencies bring torchvision, which beside a CPU build of torch from elsewhere breaks other imports: so it may
live apart, and it always runs in a process of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from segwise.errors import TrainingError
from segwise.nnunet_package.driver import MARK

VARIABLE, BESIDE = "SEGWISE_NNUNET_ENV", ".nnunet-env"
INSTALL = "pip install torch==2.13.0 torchvision==0.28.0 nnunetv2"
SHOWN = 12  # last lines of a stage that failed
_ASK = "from importlib.metadata import version; print(version('nnunetv2'))"
Told = Callable[[Mapping[str, Any]], None]


def python_of(env: Path | None, out: Path) -> tuple[Path, str]:
    """The interpreter that has nnU-Net, and nnU-Net's version.

    Args:
        env: an environment's folder or its Python; None: that of SEGWISE_NNUNET_ENV, else OUT/.nnunet-env, else the
            running Python.
        out: folder of the training.

    Raises:
        TrainingError: nnU-Net is not there; says what to type.
    """
    named = env or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    if named is None and (out / BESIDE).is_dir():
        named = out / BESIDE
    python = Path(sys.executable) if named is None else _python(named.expanduser())
    version = _version(python) if python is not None else ""
    if python is None or not version:
        where = f"{named} has no nnunetv2" if named is not None else "nnU-Net's package (nnunetv2) is not installed"
        raise TrainingError(
            f"{where}; make an environment for it: python -m venv nnunet-env && nnunet-env/bin/{INSTALL} - in one "
            f"command - then give --nnunet-env nnunet-env, or set {VARIABLE}"
        )
    return python, version


def _python(place: Path) -> Path | None:
    """Absolute and not resolved: a link in an environment's folder is what makes it that environment."""
    candidates = (place, place / "bin" / "python", place / "Scripts" / "python.exe")
    return next((path.absolute() for path in candidates if path.is_file() and os.access(path, os.X_OK)), None)


def _version(python: Path) -> str:
    try:
        done = subprocess.run(
            [str(python), "-c", _ASK], capture_output=True, text=True, timeout=60, check=False, env=_variables({})
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _variables(more: Mapping[str, str]) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    return kept | dict(more)


def run(
    python: Path, stage: str, said: Mapping[str, Any], *, variables: Mapping[str, str], log: Path, told: Told
) -> None:
    """One stage in a process of its own; its output goes to a log, what it marks to `told`.

    Args:
        python: the interpreter.
        stage: "plan", "preprocess" or "train".
        said: what the stage is to know.
        variables: of its environment, beside ours.
        log: file that its lines are appended to.
        told: gets every marked line.

    Raises:
        TrainingError: the stage failed; with its last lines.
    """
    words = [str(python), str(Path(__file__).with_name("driver.py")), stage, json.dumps(dict(said))]
    last: deque[str] = deque(maxlen=SHOWN)
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,  # nnU-Net asks questions where something is odd
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=_variables(variables),
            start_new_session=True,
        )
        assert process.stdout is not None
        try:
            _listen(process.stdout, file, last, told)
            code = process.wait()
        finally:
            _end(process)
    if code:
        why = " (killed: out of memory?)" if code == -9 else ""
        lines = "\n  ".join(line for line in last if line.strip())
        raise TrainingError(f"nnU-Net's {stage} ended with exit code {code}{why}; all it said is in {log}:\n  {lines}")


def _listen(lines: IO[str], file: IO[str], last: deque[str], told: Told) -> None:
    for line in lines:
        if line.startswith(MARK):
            told(json.loads(line.removeprefix(MARK)))
            continue
        file.write(line)
        file.flush()
        last.append(line.rstrip())


def _end(process: subprocess.Popen[str]) -> None:
    """Nobody of the process's group is left: its own workers outlive a kill otherwise."""
    with contextlib.suppress(ProcessLookupError, PermissionError, AttributeError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)
        return
    process.kill()
