"""Specs → objects: adapters, wrappers, composed prompters, and what goes wrong."""

from __future__ import annotations

import numpy as np
import pytest

import members
import toys
from segwise import assemble
from segwise.errors import CatalogError, SpecError
from segwise.evaluate import inventory, references
from segwise.prompt import Box, Text

LEARNED = '''
"""A learned model without torch: its net is a number."""

from segwise.card import ModelCard
from segwise.segmenter import Learned, Parts, Prediction, State

CARD = ModelCard(title="Tiny", summary="Learned.", family="generalist", takes=("box",), labels=None)


class Tiny(Learned):
    def __init__(self, parts):
        self.parts = parts
        self.digest, self.encoder = f"tiny-{parts.net}", "tiny"

    def rebuilt(self, parts):
        return Tiny(parts)

    def encode(self, volume, *, store):
        return State(volume, volume.grid, store)

    def segment(self, state, asks):
        raise AssertionError("this test only builds it")


def load(*, net: int = 1) -> Tiny:
    return Tiny(Parts(net, None, None, f"sha{net}"))
'''
ADAPTER = '''
"""Adds to the net."""

import dataclasses

from segwise.card import AdapterCard
from segwise.segmenter import Parts

CARD = AdapterCard(title="More", summary="More.")


def apply(parts: Parts, *, by: int = 10) -> Parts:
    return dataclasses.replace(parts, net=parts.net + by, weights=f"{parts.weights}+{by}")
'''
WRAPPER = '''
"""Says that it wraps."""

from segwise.card import WrapperCard
from segwise.segmenter import Segmenter

CARD = WrapperCard(title="Outer", summary="Outer.")


class Outer(Segmenter):
    def __init__(self, inner, n):
        self.inner, self.n = inner, n
        self.digest, self.encoder = f"outer({inner.digest},{n})", inner.encoder

    def encode(self, volume, *, store):
        return self.inner.encode(volume, store=store)

    def segment(self, state, asks):
        return self.inner.segment(state, asks)


def wrap(segmenter: Segmenter, *, n: int = 2) -> Segmenter:
    return Outer(segmenter, n)
'''


@pytest.fixture
def installed(tmp_path):
    extra = {"models/tiny.py": LEARNED, "adapters/more.py": ADAPTER, "wrappers/outer.py": WRAPPER}
    with members.installed(tmp_path / "pkg", {**members.THREE, **extra}):
        yield tmp_path


def test_adapters_then_wrappers_in_the_order_written(installed):
    built = assemble.build("tiny(net=2)+more+more(by=100)+outer(n=3)")
    assert built.segmenter.digest == "outer(tiny-112,3)"
    assert built.weights == "sha2+10+100"
    assert dict(built.info.given) == {"net": 2, "+more.by": 100, "+outer.n": 3}
    assert dict(built.info.resolved) == {"net": 2, "+more.by": 100, "+outer.n": 3}
    assert assemble.segmenter("tiny").digest == "tiny-1"
    assert assemble.build("stateful").weights == ""


def test_what_does_not_compose_is_refused(installed):
    with pytest.raises(SpecError, match="more adapts the net of a learned model, and there is none before it"):
        assemble.build("stateful+more")
    with pytest.raises(SpecError, match="put adapters before wrappers"):
        assemble.build("tiny+outer+more")
    with pytest.raises(CatalogError, match='no adapter or wrapper "mor"; did you mean more'):
        assemble.model_info("tiny+mor")
    with pytest.raises(SpecError, match='outer has no argument "m"'):
        assemble.model_info("tiny+outer(m=1)")


def test_the_labels_of_a_variant(tmp_path):
    source = members.CLOSED.replace(
        'labels={"": ("liver", "spleen", "thalamus")}', 'labels={"a": ("liver",), "b": ("spleen", "thalamus")}'
    ).replace("def load()", 'def load(*, variant: str = "a")')
    with members.installed(tmp_path, {"models/closed.py": source}):
        assert assemble.model_info("closed").labels == ("liver",)
        assert assemble.model_info("closed(variant=b)").labels == ("spleen", "thalamus")


def test_composed_prompters_all_speak_first_and_the_last_goes_on(installed):
    case = inventory.find(toys.make(installed / "data", n=1, empty="spleen"))[1][0]
    grid = case.volume().grid
    found = references.targets(case, ("liver", "spleen", "thalamus"), grid)
    both = assemble.prompter("box3d+name")
    said = both.first(found["liver"], 0)
    assert [type(mark) for mark in said.marks] == [Box, Text] and said.marks[1].words == "liver"
    assert both.next(found["liver"], said, np.zeros(grid.shape, bool), 0) is None
    assert both.first(found["spleen"], 0) is None
    assert both.info.gives == {"box", "text"} and both.info.version == "1+1" and not both.info.draws
    clicks = assemble.prompter("box3d+clicks(n=2)")
    said = clicks.first(found["liver"], 0)
    more = clicks.next(found["liver"], said, np.zeros(grid.shape, bool), 0)
    assert said.kinds == {"box", "points"} and more.since(said)
    left, right = found["thalamus"].parts
    assert (left.name, right.name) == ("left thalamus", "right thalamus")
    assert np.array_equal(found["thalamus"].mask, left.mask | right.mask)


def test_a_metric_says_all_its_arguments(installed):
    metric = assemble.metric("surface(tolerance_mm=3)")
    assert str(metric.spec).startswith("surface(") and "tolerance_mm=3.0" in str(metric.spec)
    with pytest.raises(SpecError, match="metrics do not compose"):
        assemble.metric("overlap+surface")
