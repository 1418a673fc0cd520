"""`segwise train` on the toy: what is shown, what goes on, what is refused; and that every recipe keeps the rules."""

from __future__ import annotations

import ast
import dataclasses
import json
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import training_toy as toy
from segwise import __version__
from segwise.cli import app as program
from segwise.cli import train as command
from segwise.training import names, recipes
from segwise.training.loop import train

SHIPPED = names.names()
TOY = '''"""Sums of made-up numbers.

More of it.
"""
from training_toy import recipe
'''


@pytest.fixture
def segwise(monkeypatch, capfd, tmp_path):
    """Run the program with the toy beside the shipped recipes; (exit code, standard output, standard error)."""
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "toy_sums.py").write_text(TOY)
    monkeypatch.setattr(recipes, "__path__", [*recipes.__path__, str(folder)])

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["segwise", *map(str, words)])
        monkeypatch.delenv("SEGWISE_DEBUG", raising=False)
        code = 0
        try:
            program.main()
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capfd.readouterr()

    yield run
    sys.modules.pop("segwise.training.recipes.toy_sums", None)


def test_it_trains_in_pieces_and_says_how_far_it_is(segwise, tmp_path):
    out = tmp_path / "out"
    code, said, shown = segwise("train", "toy-sums", "-o", out, "--minutes", 0, "--steps", 12)
    assert code == 0, shown
    assert "repeat the command to go on" in said
    assert "of 12, loss " in shown
    code, said, shown = segwise("train", "toy-sums", "-o", out, "--steps", 12)
    assert code == 0, shown
    assert said.startswith("toy-sums: 12 steps in ") and "error" in said and "repeat" not in said
    assert str(out / "weights.pt") in said and str(out / "log.csv") in said
    assert "step 12 of 12, error " in shown
    known = torch.load(out / "weights.pt")["known"]
    assert known["command"] == "segwise train toy-sums --steps 12 --seed 0"
    assert known["versions"]["segwise"] == __version__ and set(known["versions"]) == {"segwise", "torch", "numpy"}
    assert str(tmp_path) not in str(known)


def test_json_is_data_only(segwise, tmp_path):
    code, said, _ = segwise("train", "toy-sums", "-o", tmp_path / "out", "--steps", 3, "--json")
    found = json.loads(said)
    assert code == 0
    assert (found["step"], found["finished"]) == (3, True)
    assert found["files"] == [str(tmp_path / "out" / "weights.pt")]
    assert set(found["measures"]) == {"valid_error"}


def test_recipes_are_listed_with_what_they_train(segwise):
    code, said, _ = segwise("list", "recipes", "--json")
    assert code == 0
    assert {"name": "toy-sums", "summary": "Sums of made-up numbers."} in json.loads(said)
    assert segwise("list", "recipe")[1].split() == list(names.names())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("toy-sum",), 'no recipe "toy-sum" (did you mean "toy-sums"?); there are: '),
        (("toy-sums", "--device", "abacus"), 'device "abacus" cannot be used'),
        (("toy-sums", "--seed", "-1"), "equal to 0"),
        (("toy-sums", "--steps", "0"), "equal to 1"),
    ],
)
def test_what_cannot_be_is_one_message(segwise, tmp_path, words, message):
    code, said, shown = segwise("train", *words, "-o", tmp_path / "out")
    assert (code, said) == (2, "")
    assert message in shown and "Traceback" not in shown
    assert not (tmp_path / "out").exists()


def test_other_settings_in_the_same_folder_are_one_message(segwise, tmp_path):
    assert segwise("train", "toy-sums", "-o", tmp_path / "out", "--steps", 3)[0] == 0
    code, _, shown = segwise("train", "toy-sums", "-o", tmp_path / "out", "--steps", 4)
    assert code == 2
    assert shown.count("error:") == 1
    assert "is of another training (steps 3 there, 4 asked); give another folder, or the same settings" in shown


def test_a_folder_that_cannot_be_is_one_message(segwise, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, shown = segwise("train", "toy-sums", "-o", tmp_path / "file" / "out")
    assert code == 2
    assert "cannot be written" in shown and shown.count("error:") == 1


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals go to the main thread")
def test_ctrl_c_keeps_what_was_done_and_says_so(segwise, tmp_path, monkeypatch):
    losses = toy.Guess.losses

    def pressed(self, batch, rng):
        signal.raise_signal(signal.SIGINT)
        yield from losses(self, batch, rng)

    with monkeypatch.context() as patch:
        patch.setattr(toy.Guess, "losses", pressed)
        code, said, shown = segwise("train", "toy-sums", "-o", tmp_path / "out", "--steps", 9)
    assert (code, said) == (130, "")
    assert "training has finished is kept: repeat to go on" in shown and "Traceback" not in shown
    assert 0 < torch.load(tmp_path / "out" / "last.pt")["step"] < 9
    assert segwise("train", "toy-sums", "-o", tmp_path / "out", "--steps", 9)[0] == 0


def test_words_are_in_the_unit_that_fits():
    assert command.words(1200, 3400, 90, {"loss": 0.123456, "valid_dsc": 0.81}) == (
        "step 1,200 of 3,400, dsc 0.81, loss 0.1235, about 90 s left"
    )
    assert command.words(1, 2, float("inf"), {}) == "step 1 of 2"
    assert command.words(1, 2, 600, {}) == "step 1 of 2, about 10 min left"
    assert command.words(1, 2, 9000, {}) == "step 1 of 2, about 2.5 h left"


def test_names_and_help_need_no_torch():
    code = (
        "import sys\nsys.modules['torch'] = sys.modules['numpy'] = None\nfrom segwise.cli.app import app\n"
        "sys.argv = ['segwise', *{}]\napp(standalone_mode=False)"
    )
    for words in (["train", "--help"], ["list", "recipes"]):
        done = subprocess.run(
            [sys.executable, "-c", code.format(words)], capture_output=True, text=True, check=False, encoding="utf-8"
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", SHIPPED)
def test_every_recipe_says_what_it_trains_and_takes_seed_and_steps(name):
    assert names.summary(name).endswith((".", "…")), f"{name}: its docstring begins with a sentence on what it trains"
    path = Path(recipes.__path__[0]) / f"{name.replace('-', '_')}.py"
    found = [n for n in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(n, ast.FunctionDef)]
    (made,) = (n for n in found if n.name == "recipe")
    assert [a.arg for a in made.args.kwonlyargs][:2] == ["seed", "steps"]
    assert not made.args.args


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_every_recipe_trains_a_batch_that_another_process_could_make(name, tmp_path):
    made = names.load(name, seed=0, steps=50)
    assert (made.name, made.settings.seed, made.settings.steps) == (name, 0, 50)
    there = pickle.loads(pickle.dumps(made.stream))  # what a maker gets
    assert pickle.dumps(there.batch(1)) == pickle.dumps(made.stream.batch(1)) != pickle.dumps(there.batch(2))
    made = dataclasses.replace(made, settings=dataclasses.replace(made.settings, makers=0))
    found = train(made, tmp_path, minutes=0)
    assert found.step > 0 and found.files and all(path.is_file() for path in found.files)
