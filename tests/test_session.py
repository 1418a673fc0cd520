"""A session is a list of rounds: say, undo, replay."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays

import members
import toys
from segwise import assemble
from segwise.errors import FileError, PromptError
from segwise.evaluate import inventory
from segwise.geometry import Volume
from segwise.prompt import Box, Points, Prompt
from segwise.session import Packed, Session
from segwise.spec import seed_of
from segwise.store import FeatureStore


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    folder = tmp_path_factory.mktemp("session")
    with members.installed(folder / "pkg", members.THREE):
        yield inventory.find(toys.make(folder / "data", n=1))[1][0].volume()


def _session(volume, model="stateful", seed=3):
    return Session(assemble.segmenter(model), volume, store=FeatureStore(), seed=seed)


def _box(volume, low, high):
    return Prompt((Box.of(volume.grid, low, high),))


def _click(prompt, volume, index):
    return prompt.also(Points(volume.grid.mm(index), np.array([True])))


def _same(a, b):
    assert np.array_equal(a.logits, b.logits) and a.grid == b.grid and np.array_equal(a.quality, b.quality)


def test_many_targets_are_said_in_one_round(volume):
    session = _session(volume)
    liver, spleen = _box(volume, (1, 1, 1), (4, 4, 5)), _box(volume, (2, 5, 1), (5, 8, 4))
    answers = session.say({"liver": liver, "spleen": spleen})
    assert list(answers) == ["liver", "spleen"] and len(session.rounds) == 1
    _same(session.latest("liver"), answers["liver"])
    masks = session.masks()
    assert masks["spleen"].array.dtype == bool and masks["spleen"].grid == volume.grid
    assert masks["liver"].array[0, 2, 2, 2] and not masks["liver"].array[0, 2, 6, 2]
    assert session.latest("heart") is None


def test_a_round_goes_on_from_the_one_before(volume):
    session = _session(volume)
    box = _box(volume, (1, 1, 1), (4, 4, 5))
    first = session.say({"liver": box})["liver"]
    second = session.say({"liver": _click(box, volume, (2, 2, 2))})["liver"]
    assert (first.carry, second.carry) == (1, 2)


def test_undo_takes_back_one_targets_last_round(volume):
    session = _session(volume)
    liver, spleen = _box(volume, (1, 1, 1), (4, 4, 5)), _box(volume, (2, 5, 1), (5, 8, 4))
    session.say({"liver": liver, "spleen": spleen})
    session.say({"liver": _click(liver, volume, (2, 2, 2))})
    session.say({"spleen": _click(spleen, volume, (3, 6, 2))})
    session.undo("liver")
    assert [list(r.prompts) for r in session.rounds] == [["liver", "spleen"], ["spleen"]]
    session.undo("liver")
    assert [list(r.prompts) for r in session.rounds] == [["spleen"], ["spleen"]]
    with pytest.raises(PromptError, match='nothing was said about "liver"'):
        session.undo("liver")
    assert set(session.masks()) == {"spleen"}


def test_a_click_after_an_undo_equals_the_same_click_on_a_fresh_session(volume):
    box = _box(volume, (1, 1, 1), (4, 4, 5))
    click = _click(box, volume, (2, 2, 2))
    session = _session(volume)
    session.say({"liver": box})
    session.say({"liver": _click(box, volume, (3, 3, 3))})
    session.undo("liver")
    fresh = _session(volume)
    fresh.say({"liver": box})
    _same(session.say({"liver": click})["liver"], fresh.say({"liver": click})["liver"])


def test_replay_says_the_same_rounds_to_another_model(volume):
    box = _box(volume, (1, 1, 1), (4, 4, 5))
    session = _session(volume)
    session.say({"liver": box})
    session.say({"liver": _click(box, volume, (2, 2, 2))})
    again = session.replay(assemble.segmenter("stateful"))
    _same(again.latest("liver"), session.latest("liver"))
    other = session.replay(assemble.segmenter("stateful(width=5)"))
    assert [r.prompts for r in other.rounds] == [r.prompts for r in session.rounds]
    assert not np.array_equal(other.latest("liver").logits, session.latest("liver").logits)


def test_rounds_cannot_be_changed_from_outside(volume):
    session = _session(volume)
    said = {"liver": _box(volume, (1, 1, 1), (4, 4, 5))}
    answers = session.say(said)
    said.clear()
    answers.clear()
    assert list(session.rounds[0].prompts) == ["liver"] and session.latest("liver") is not None


def test_a_prompt_that_does_not_go_on_is_refused_and_changes_nothing(volume):
    session = _session(volume)
    session.say({"liver": _box(volume, (1, 1, 1), (4, 4, 5))})
    with pytest.raises(PromptError, match="a round may only append marks"):
        session.say({"liver": _box(volume, (1, 1, 1), (4, 4, 4))})
    with pytest.raises(PromptError, match="nothing was said"):
        session.say({})
    outside = Prompt((Points(np.array([[1e4, 0, 0]]), np.array([True])),))
    with pytest.raises(PromptError, match="nothing positive"):
        session.say({"spleen": outside})
    assert len(session.rounds) == 1


def test_the_seed_of_an_ask_comes_from_session_target_and_prompt(volume):
    asked = []

    class Spy:
        digest = encoder = "spy"

        def __init__(self, inner):
            self.inner = inner

        def encode(self, volume, *, store):
            return self.inner.encode(volume, store=store)

        def segment(self, state, asks):
            asked.extend(asks)
            return self.inner.segment(state, asks)

    box = _box(volume, (1, 1, 1), (4, 4, 5))
    Session(Spy(assemble.segmenter("stateful")), volume, store=FeatureStore(), seed=3).say({"liver": box})
    assert asked[0].seed == seed_of(3, "liver", box.digest) and asked[0].previous is None


# ---- redo, switch, accept, and the file that keeps a session ----


class Counting:
    """A model that counts how many asks it answered."""

    def __init__(self, inner):
        self.inner, self.asks = inner, 0
        self.digest, self.encoder = inner.digest, inner.encoder

    def encode(self, volume, *, store):
        return self.inner.encode(volume, store=store)

    def segment(self, state, asks):
        self.asks += len(asks)
        return self.inner.segment(state, asks)


def _clicked(volume, n, **more):
    """A session with a box and n clicks on the liver."""
    model = Counting(assemble.segmenter("stateful"))
    session = Session(model, volume, store=FeatureStore(), seed=3, model="stateful", **more)
    prompt = _box(volume, (1, 1, 1), (4, 4, 5))
    session.say({"liver": prompt})
    for i in range(n):
        prompt = _click(prompt, volume, (1 + i % 3, 2, 2))
        session.say({"liver": prompt})
    return session, model


def test_redo_says_again_what_was_undone(volume):
    session, _ = _clicked(volume, 2)
    last = session.latest("liver")
    assert (session.undo(), session.undo("liver")) == ("liver", "liver")
    assert len(session.rounds) == 1
    assert (session.redo(), session.redo("liver")) == ("liver", "liver")
    _same(session.latest("liver"), last)
    with pytest.raises(PromptError, match="nothing to redo"):
        session.redo()


def test_a_new_word_ends_what_can_be_redone_of_its_target_only(volume):
    session, _ = _clicked(volume, 1)
    spleen = _box(volume, (2, 5, 1), (5, 8, 4))
    session.say({"spleen": spleen})
    session.undo("liver")
    session.undo("spleen")
    session.say({"spleen": _box(volume, (2, 4, 1), (5, 8, 4))})
    with pytest.raises(PromptError, match="nothing to redo of spleen"):
        session.redo("spleen")
    assert session.redo() == "liver"


def test_old_predictions_are_dropped_and_come_back_bit_by_bit(volume):
    session, model = _clicked(volume, 6)
    kept = [i for i, spoken in enumerate(session.rounds) if spoken.predictions]
    assert kept == [5, 6]
    fresh, _ = _clicked(volume, 2)
    asks = model.asks
    for _ in range(4):
        session.undo("liver")
    assert model.asks == asks  # nothing is asked before it is needed
    _same(session.latest("liver"), fresh.latest("liver"))
    assert model.asks == asks + 3


def test_switch_says_everything_to_another_model_and_keeps_what_is_accepted(volume):
    session, _ = _clicked(volume, 1)
    session.say({"spleen": _box(volume, (2, 5, 1), (5, 8, 4))})
    before = {name: found.array for name, found in session.masks().items()}
    session.accept("spleen")
    session.switch(assemble.segmenter("stateful(width=3)"), model="stateful(width=3)")
    after = {name: found.array for name, found in session.masks().items()}
    assert np.array_equal(after["spleen"], before["spleen"])
    assert not np.array_equal(after["liver"], before["liver"])
    session.resume("spleen")
    assert not np.array_equal(session.masks()["spleen"].array, before["spleen"])


def test_a_model_that_cannot_use_the_prompts_leaves_the_session_as_it_was(volume):
    session, _ = _clicked(volume, 1)
    mask = session.masks()["liver"].array
    with pytest.raises(Exception, match=r"closed|index|know"):
        session.switch(assemble.segmenter("closed"))
    assert session.model == "stateful" and np.array_equal(session.masks()["liver"].array, mask)


def test_an_accepted_target_stays(volume):
    session, _ = _clicked(volume, 1)
    session.accept("liver")
    for deed in (lambda: session.undo("liver"), lambda: session.say({"liver": session.prompt("liver")})):
        with pytest.raises(PromptError, match='"liver" is accepted'):
            deed()
    session.resume("liver")
    assert session.undo("liver") == "liver" and session.accepted == ()
    with pytest.raises(PromptError, match='"liver" is not accepted'):
        session.resume("liver")
    with pytest.raises(PromptError, match="nothing to accept"):
        session.accept("heart")


def test_a_session_is_reopened_as_it_was(volume, tmp_path):
    path = tmp_path / "kept.json"
    session, _ = _clicked(volume, 3, autosave=path)
    session.say({"spleen": _box(volume, (2, 5, 1), (5, 8, 4))})
    session.undo("liver")
    session.accept("spleen")
    model = Counting(assemble.segmenter("stateful"))
    copy = tmp_path / "copy.json"  # two sessions on one file are refused
    copy.write_bytes(path.read_bytes())
    again = Session.reopen(copy, model, volume, store=FeatureStore())
    assert [r.prompts for r in again.rounds] == [r.prompts for r in session.rounds]
    assert again.accepted == ("spleen",) and again.model == "stateful"
    for name, found in session.masks().items():
        assert np.array_equal(again.masks()[name].array, found.array)
    assert model.asks == 0  # masks come from the file
    click = _click(again.prompt("liver"), volume, (3, 3, 3))
    _same(again.say({"liver": click})["liver"], session.say({"liver": click})["liver"])
    assert session.undo("liver") == again.undo("liver") == "liver"


def test_the_file_holds_no_path_and_no_image(volume, tmp_path):
    path = tmp_path / "kept.json"
    _clicked(volume, 1, autosave=path)
    text = path.read_text()
    assert str(tmp_path) not in text and path.name not in text
    assert len(text) < 4000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], "not JSON"),
        (lambda text: text.replace('"seed": 3', '"seed": 4'), "damaged"),
        (lambda text: '{"a": 1}', "no session file"),
        (lambda text: text.replace('"segwise_session": 1', '"segwise_session": 9'), "newer Segwise"),
        (lambda text: "[" * 100000, "not JSON"),
    ],
)
def test_a_file_that_is_no_session_is_said(volume, tmp_path, change, message):
    path = tmp_path / "kept.json"
    _clicked(volume, 1, autosave=path)
    path.write_text(change(path.read_text()))
    with pytest.raises(FileError, match=message):
        Session.reopen(path, assemble.segmenter("stateful"), volume, store=FeatureStore())


def test_another_scan_or_model_is_said(volume, tmp_path):
    path = tmp_path / "kept.json"
    _clicked(volume, 1, autosave=path)
    other = Volume.of(volume.array + 1, volume.grid, volume.channels)
    with pytest.raises(FileError, match="another scan"):
        Session.reopen(path, assemble.segmenter("stateful"), other, store=FeatureStore())
    with pytest.raises(FileError, match='another model "stateful"'):
        Session.reopen(path, assemble.segmenter("stateful(width=5)"), volume, store=FeatureStore())
    with pytest.raises(FileError, match="cannot be read"):
        Session.reopen(tmp_path / "none.json", assemble.segmenter("stateful"), volume, store=FeatureStore())


def test_a_crash_while_the_file_is_written_loses_nothing(volume, tmp_path, monkeypatch):
    path = tmp_path / "kept.json"
    session, _ = _clicked(volume, 1, autosave=path)
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(FileError, match="No space left"):
        session.undo()
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["kept.json"]


@given(arrays(bool, array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=9)))
def test_a_packed_mask_is_the_mask(mask):
    packed = Packed.from_json(json.loads(json.dumps(Packed.of(mask).to_json())))
    assert np.array_equal(packed.mask(), mask)


def test_a_packed_mask_that_lies_is_refused():
    held = Packed.of(np.ones((2, 3, 4), dtype=bool)).to_json()
    with pytest.raises(ValueError, match="does not lie"):
        Packed.from_json({**held, "high": [2, 3, 5]})


def test_two_programs_on_one_file_do_not_undo_each_other(volume, tmp_path):
    path = tmp_path / "kept.json"
    _clicked(volume, 1, autosave=path)
    first, second = (
        Session.reopen(path, assemble.segmenter("stateful"), volume, store=FeatureStore()) for _ in range(2)
    )
    box = _box(volume, (2, 5, 1), (5, 8, 4))
    first.say({"spleen": box})
    with pytest.raises(FileError, match="changed by another program"):
        second.say({"cyst": box})
    again = Session.reopen(path, assemble.segmenter("stateful"), volume, store=FeatureStore())
    assert "spleen" in again.names and "cyst" not in again.names
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(FileError, match="is there already"):
        Session(assemble.segmenter("stateful"), volume, store=FeatureStore(), autosave=path)


def test_what_is_accepted_is_not_said_to_the_next_model(volume, tmp_path):
    path = tmp_path / "kept.json"
    session, _ = _clicked(volume, 2, autosave=path)
    session.say({"spleen": _box(volume, (2, 5, 1), (5, 8, 4))})
    session.accept("liver")
    accepted = session.masks()["liver"].array
    session.switch(assemble.segmenter("box-fill"), model="box-fill")  # takes no clicks
    assert np.array_equal(session.masks()["liver"].array, accepted) and session.masks()["spleen"].array.sum() == 27
    changed = Session.reopen(path, assemble.segmenter("stateful"), volume, store=FeatureStore(), model="stateful")
    assert changed.model == "stateful" and np.array_equal(changed.masks()["liver"].array, accepted)
    changed.resume("liver")
    assert changed.accepted == () and np.array_equal(changed.masks()["liver"].array, accepted)


def test_what_a_killed_program_left_is_swept_away(volume, tmp_path):
    path, old, new = (tmp_path / name for name in ("kept.json", ".kept.json.a.tmp", ".kept.json.b.tmp"))
    for left in (old, new):
        left.write_text("half")
    os.utime(old, (0, 0))
    _clicked(volume, 1, autosave=path)
    assert path.exists() and new.exists() and not old.exists()
