"""Specs: what people type, and its canonical form."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from segwise.errors import SpecError
from segwise.records.types import Record, to_line
from segwise.spec import Spec, parse, seed_of, seen_from

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)
VALUES = st.one_of(st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False, allow_infinity=False), WORDS)
NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True)
ARGS = st.dictionaries(st.from_regex(r"[a-z_][a-z0-9_]{0,6}", fullmatch=True), VALUES, max_size=4)


@given(st.lists(st.tuples(NAMES, ARGS), min_size=1, max_size=3))
@example([("a", {"_": '"'}), ("b", {"x": '\\"+('})])
def test_written_and_read_again_a_spec_is_the_same(parts):
    specs = [Spec(name, args) for name, args in parts]
    spec = Spec(specs[0].name, specs[0].args, tuple(specs[1:]))
    again = parse(str(spec))
    assert str(again) == str(spec)
    assert dict(again.args) == dict(spec.args)


def test_the_order_of_arguments_and_blanks_do_not_matter():
    spec = parse(" sam( size=b ,lift = propagate)+ lora(rank=4) + flips ")
    assert str(spec) == "sam(lift=propagate, size=b)+lora(rank=4)+flips"
    assert spec == parse("sam(lift=propagate,size=b)+lora(rank=4)+flips")
    assert spec.base == parse("sam(size=b,lift=propagate)")


def test_values_get_their_types():
    args = parse('m(a=1, b=1.5, c=true, d=x/y.pth, e="a, b", f=none, g=1e-3)').args
    assert dict(args) == {"a": 1, "b": 1.5, "c": True, "d": "x/y.pth", "e": "a, b", "f": None, "g": 1e-3}
    assert args["a"] is not True


@pytest.mark.parametrize(
    "text", ["", "(", "m(", "m(a)", "m(a=1", "m(a=1)x", "m(a=1, a=2)", "+m", "m+", 'm(a="x)', "m(=1)"]
)
def test_what_is_not_a_spec_is_refused_with_the_text(text):
    with pytest.raises(SpecError, match=r"expected|given twice|is not"):
        parse(text)


@pytest.mark.parametrize("word", ["inf", "-inf", "nan", "NaN", "Infinity", "1e999", "9" * 5000])
def test_numbers_are_finite(word):
    with pytest.raises(SpecError, match=r"width is .*, expected a finite number"):
        parse(f"m(width={word})")
    assert parse(f'm(width="{word}")').args["width"] == word


def test_text_is_utf8():
    with pytest.raises(SpecError, match=r"where is .*, expected text in UTF-8"):
        parse("m(where=/a/\udcff)")
    with pytest.raises(SpecError, match=r"where is .*, expected text in UTF-8"):
        parse('m(where="\udcff")')


@given(WORDS)
def test_what_is_parsed_can_be_recorded(word):
    for text in (f"m(a={word})", str(Spec("m", {"a": word}))):
        try:
            args = dict(parse(text).args)
        except SpecError:
            continue
        record = Record(
            task="t", target="liver", round=0, status="done", model=text, prompter="", dataset="", case="", subject="",
            seed=0, given=args, resolved=args,
        )  # fmt: skip
        assert json.loads(to_line(record).encode())["given"] == args


@pytest.mark.parametrize(
    ("here", "given", "kept"),
    [
        ("work", "./o/first+lora(rank=2)", "../o/first+lora(rank=2)"),
        ("work", "sam(size=nano)+lora", "sam(size=nano)+lora"),
        ("c++ (work)", "./o/first+lora", "./o/first+lora"),  # no spec could name the way
    ],
)
def test_a_path_in_a_spec_is_seen_from_a_folder(tmp_path, monkeypatch, here, given, kept):
    (tmp_path / here).mkdir()
    monkeypatch.chdir(tmp_path / here)
    out = tmp_path / here / "second" if here == "work" else tmp_path / "elsewhere"
    assert str(seen_from(out, parse(given))) == kept and parse(kept)


def test_files_in_a_spec_are_named_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.pth").touch()
    assert str(tmp_path) in str(seen_from(tmp_path / "out", parse("sam(checkpoint=net.pth)+lora")))
    assert str(seen_from(tmp_path / "out", parse("sam(checkpoint=gone.pth)+lora"))) == "sam(checkpoint=gone.pth)+lora"


def test_seeds_are_stable_and_differ():
    assert seed_of("case", "liver", 0) == seed_of("case", "liver", 0) == 2361759424333474496
    assert len({seed_of("case", "liver", i) for i in range(50)}) == 50
    assert seed_of("ab", "c") != seed_of("a", "bc")
    assert 0 <= seed_of("x") < 2**63
