"""TOML → `Scenario`: what a site assumes about prices, people and cases. An error names the file and the key.

title = "Small hospital"
dated = "2026-11"
currency = "EUR"

[assumptions]
click_s = { value = 3, low = 1.5, high = 6, source = "assumption: ..." }

Every assumption has a value, the range that the sensitivity tries, and where it comes from. A scenario states all of
them; a file with `base = "small-hospital"` states only what differs from a shipped one.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segwise.errors import PlanError

FOLDER = Path(__file__).parent / "scenarios"
HEAD = ("title", "dated", "currency", "base", "assumptions")
FIELDS = ("value", "low", "high", "source")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What an assumption is.

    Attributes:
        meaning: in words, with the unit.
        least, most: bounds that make sense.
        whole: it is a count.
        about: whose it is: "site", "reader", "generalist", "specialist", "queue".
    """

    meaning: str
    about: str
    least: float = 0.0
    most: float = math.inf
    whole: bool = False


KINDS: Mapping[str, Kind] = {
    "years": Kind(meaning="years that are planned for", about="site", least=0.1, most=30),
    "cases_per_year": Kind(meaning="cases a year", about="site", least=1),
    "targets_per_case": Kind(meaning="structures to segment in a case", about="site", least=1),
    "hardware_price": Kind(meaning="price of the machine that runs the model", about="site"),
    "upkeep_share": Kind(meaning="upkeep of the machine a year, share of its price", about="site", most=1),
    "power_w": Kind(meaning="power of the machine while it computes, W", about="site"),
    "energy_price_kwh": Kind(meaning="price of a kWh", about="site"),
    "speed_factor": Kind(
        meaning="how many times faster this machine is than the one of the run", about="site", least=1e-3, most=1e4
    ),
    "engineer_wage_hour": Kind(meaning="cost of an engineer's hour", about="site"),
    "setup_hours": Kind(meaning="an engineer's hours to bring a model into use", about="site"),
    "wage_hour": Kind(meaning="cost of a reader's hour", about="reader"),
    "accept_dsc": Kind(meaning="DSC from which the reader is satisfied", about="reader", least=0.01, most=1),
    "click_s": Kind(meaning="a reader's seconds for a click, finding the place included", about="reader"),
    "box_s": Kind(meaning="a reader's seconds for a box", about="reader"),
    "stroke_s": Kind(meaning="a reader's seconds for a scribble", about="reader"),
    "review_s": Kind(meaning="seconds to look through a mask after each answer", about="reader"),
    "repair_minutes": Kind(meaning="minutes to mend by hand a mask just below good enough", about="reader"),
    "redo_below": Kind(meaning="DSC at and below which a mask is drawn anew, not mended", about="reader", most=1),
    "hand_minutes": Kind(meaning="minutes to draw a target by hand", about="reader", least=1e-6),
    "wait_share": Kind(meaning="share of an answer's seconds in which the reader waits idle", about="reader", most=1),
    "ahead_share": Kind(
        meaning="share of reading and encoding that is done before the reader comes", about="reader", most=1
    ),
    "pretraining_price": Kind(meaning="price of pre-training the generalist", about="generalist"),
    "pretraining_share": Kind(meaning="share of that price borne here", about="generalist", most=1),
    "tuning_cases": Kind(meaning="cases drawn by hand to fine-tune the generalist", about="generalist"),
    "tuning_hours": Kind(meaning="machine hours of a fine-tuning", about="generalist"),
    "training_cases": Kind(meaning="cases drawn by hand to train the specialist", about="specialist"),
    "training_hours": Kind(meaning="machine hours of a training", about="specialist"),
    "trainings": Kind(meaning="trainings over all years (scanners and protocols change)", about="site", least=1),
    "readers": Kind(meaning="readers who work at once", about="queue", least=1, most=1000, whole=True),
    "machines": Kind(
        meaning="requests that the machine answers at once", about="queue", least=1, most=1000, whole=True
    ),
    "arrivals_per_hour": Kind(meaning="cases that arrive in an hour", about="queue", least=0.01, most=200),
    "shift_hours": Kind(meaning="hours of a shift", about="queue", least=0.1, most=24),
    "variation": Kind(meaning="standard deviation of a reader's seconds, share of the mean", about="queue", most=3),
    "judgement_sd": Kind(meaning="error of the reader's judgement of DSC, standard deviation", about="queue", most=0.5),
}


@dataclass(frozen=True, kw_only=True)
class Assumption:
    """A value, the range that is tried, and where it comes from."""

    value: float
    low: float
    high: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What a site assumes.

    Attributes:
        name: of the file.
        base: the shipped scenario that it is or begins with; "" if it states everything itself.
        title, dated: in words; when its defaults were written down.
        currency: of all prices.
        assumptions: by the keys of `KINDS`, all of them.
    """

    name: str
    title: str
    dated: str
    currency: str
    assumptions: Mapping[str, Assumption]
    base: str = ""

    def __getitem__(self, key: str) -> float:
        return self.assumptions[key].value

    @property
    def horizon(self) -> float:
        """Cases in all the years."""
        return self["years"] * self["cases_per_year"]

    def with_value(self, key: str, value: float) -> Scenario:
        """The same with another value of one assumption."""
        return replace(self, assumptions={**self.assumptions, key: replace(self.assumptions[key], value=value)})


def shipped() -> tuple[str, ...]:
    """Names of the scenarios that come along."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def read(name: str | Path, *, called: str = "") -> Scenario:
    """A shipped scenario by its name, or a file; `called` is its name where the file has another.

    Raises:
        PlanError: no such scenario, not TOML, or a key that is unknown, missing or out of bounds.
    """
    path = FOLDER / f"{name}.toml" if str(name) in shipped() else Path(name)
    if path.suffix != ".toml":
        close = difflib.get_close_matches(str(name), shipped(), n=1)
        hint = f'; did you mean "{close[0]}"?' if close else ""
        raise PlanError(f'no scenario "{name}"{hint}; there are {", ".join(shipped())}, or give a .toml file')
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"{path.name}: not TOML: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{path}: cannot be read ({error}); expected a scenario in TOML") from error
    return build(content, name=called or path.stem, source=path.name)


def build(content: Mapping[str, Any], *, name: str, source: str) -> Scenario:
    """A scenario from values; `source` begins the messages.

    Raises:
        PlanError: a key is unknown, missing or out of bounds.
    """
    for key in content:
        if key not in HEAD:
            raise PlanError(f"{source}: {key}: no such field; there are {', '.join(HEAD)}")
    base = _base(content.get("base", ""), f"{source}: base")
    given = content.get("assumptions", {})
    if not isinstance(given, Mapping):
        raise PlanError(f"{source}: assumptions: {given!r} is not a table")
    own = {key: _assumption(key, value, f"{source}: {key}") for key, value in given.items()}
    known = {**(base.assumptions if base else {}), **own}
    missing = [key for key in KINDS if key not in known]
    if missing:
        raise PlanError(f"{source}: {', '.join(missing)}: missing; state them, or begin with base = one of {shipped()}")
    words = {key: str(content.get(key) or (getattr(base, key) if base else "")) for key in ("dated", "currency")}
    for key, value in words.items():
        if not value:
            raise PlanError(f'{source}: {key}: nothing came, expected words such as "2026-11" or "EUR"')
    begun = str(content.get("base") or (name if name in shipped() else ""))
    return Scenario(name=name, title=str(content.get("title") or name), assumptions=known, base=begun, **words)


def _base(value: Any, where: str) -> Scenario | None:
    """The scenario that another begins with; a file begins with a shipped one, so that none begins with itself."""
    if value == "":
        return None
    if value not in shipped():
        raise PlanError(f"{where}: {value!r}, expected one of {', '.join(shipped())}")
    return read(value)


def _assumption(key: str, value: Any, where: str) -> Assumption:
    if key not in KINDS:
        close = difflib.get_close_matches(key, KINDS, n=1)
        hint = f'; did you mean "{close[0]}"?' if close else f"; there are {', '.join(KINDS)}"
        raise PlanError(f"{where}: no such assumption{hint}")
    table = value if isinstance(value, Mapping) else {"value": value}
    for field in table:
        if field not in FIELDS:
            raise PlanError(f"{where}.{field}: no such field; there are {', '.join(FIELDS)}")
    middle = _number(key, table.get("value"), f"{where}.value")
    source = str(table.get("source") or "").strip() or "the user's own figure, no source given"
    low = _number(key, table.get("low", middle), f"{where}.low")
    high = _number(key, table.get("high", middle), f"{where}.high")
    if not low <= middle <= high:
        raise PlanError(f"{where}: {low:g} to {high:g} does not hold its value {middle:g}")
    return Assumption(value=middle, low=low, high=high, source=source)


def _number(key: str, value: Any, where: str) -> float:
    kind = KINDS[key]
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not good or not kind.least <= value <= kind.most or (kind.whole and value != int(value)):
        most = "" if math.isinf(kind.most) else f" and at most {kind.most:g}"
        what = "a whole number" if kind.whole else "a number"
        raise PlanError(f"{where}: {value!r} is not {what} of at least {kind.least:g}{most} ({kind.meaning})")
    return float(value)
