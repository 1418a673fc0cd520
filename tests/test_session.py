"""A session is a list of rounds: say, undo, replay."""

from __future__ import annotations

import numpy as np
import pytest

import members
import toys
from segwise import assemble
from segwise.errors import PromptError
from segwise.evaluate import inventory
from segwise.prompt import Box, Points, Prompt
from segwise.session import Session
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
