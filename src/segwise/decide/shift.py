"""A shift as a discrete-event simulation: cases arrive, readers take them one by one, a machine answers their marks.

The whole model: cases arrive at random (Poisson); each is a subject drawn from the run with some of its targets.
What can be prepared is prepared by the machine on arrival; what asks nothing of a person is answered then too. A free
reader takes the case that waits longest. For each target the reader marks (`effort.marking_s`), waits for the answer
(the machine serves requests in order, as long as was measured), looks, and judges its DSC with an error; content, the
next target follows, else the next recorded correction. Where the recorded rounds end, the last answer is mended by hand
or drawn anew (`mending`). A person's seconds are log-normal around the assumed ones. Rounds are replayed as recorded:
how a person would react to other answers is not known.

Source of the method: Law, Simulation Modeling and Analysis, chapter 1 (single-server queue) and 9 (replications).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import simpy

from segwise.decide.effort import marking_s, waiting_s
from segwise.decide.measured import Measured, Play
from segwise.decide.mending import mending_s
from segwise.decide.scenario import Scenario

DEADLINES_S = (0.3, 1.0, 3.0)


@dataclass(eq=False, kw_only=True)
class Shift:
    """What happened in one shift; filled while it runs.

    Attributes:
        hours: its length.
        latencies_s: from a mark to its mask, the queue at the machine included.
        n_in_time: cases that were done when it ended.
        minutes: a reader's minutes of each case that was begun.
        waits_s: how long each of them waited for a reader.
        turnaround_s: from arrival to done, of each of them.
        reached: of each finished target, whether the reader was content without mending.
        final: of each finished target, DSC of the last answer; None where it is undefined.
        in_time: by deadline, of each finished target: DSC of the last answer before the first one that came too late, 0
            if that was the first.
        reader_s, machine_s: seconds in which they were busy, all together.
    """

    hours: float
    n_in_time: int = 0
    latencies_s: list[float] = field(default_factory=list)
    minutes: list[float] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    turnaround_s: list[float] = field(default_factory=list)
    reached: list[bool] = field(default_factory=list)
    final: list[float] = field(default_factory=list)
    in_time: dict[float, list[float]] = field(default_factory=lambda: {d: [] for d in DEADLINES_S})
    reader_s: float = 0.0
    machine_s: float = 0.0


def simulate(
    arm: Measured | None, scenario: Scenario, *, wanted: float, seed: int, persons: Sequence[str] = ()
) -> Shift:
    """One shift.

    Args:
        arm: who answers; None: everything is drawn by hand.
        scenario: people, machine and arrivals.
        wanted: DSC from which the reader is content.
        seed: of everything drawn.
        persons: subjects that cases are drawn from, with repetition; () for all of the arm.
    """
    play = _Play(arm, scenario, wanted, np.random.default_rng(seed), persons)
    play.env.process(play.arrivals())
    play.env.run()  # what was begun in the shift is finished after it, else long cases would be missing
    return play.shift


class _Play:
    """A shift while it runs."""

    def __init__(
        self, arm: Measured | None, scenario: Scenario, wanted: float, rng: np.random.Generator, persons: Sequence[str]
    ) -> None:
        self.arm, self.scenario, self.wanted, self.rng = arm, scenario, wanted, rng
        self.env = simpy.Environment()
        self.readers = simpy.Resource(self.env, capacity=int(scenario["readers"]))
        self.machine = simpy.Resource(self.env, capacity=int(scenario["machines"]))
        self.shift = Shift(hours=scenario["shift_hours"])
        self.end = 3600 * scenario["shift_hours"]
        self.of: dict[str, list[Play]] = {}
        for play in arm.plays if arm else ():
            self.of.setdefault(play.person, []).append(play)
        self.persons = list(persons) or sorted(self.of)

    def arrivals(self) -> Iterator[Any]:
        """Cases, one after the other."""
        while True:
            yield self.env.timeout(self.rng.exponential(3600 / self.scenario["arrivals_per_hour"]))
            if self.env.now >= self.end:
                return
            self.env.process(self.case())

    def case(self) -> Iterator[Any]:
        """From arrival to done."""
        arrived = self.env.now
        plays = self.drawn()
        ahead = sum(self.ahead_s(play) for play in plays if play is not None)
        if ahead > 0:
            yield from self.served(ahead)
        with self.readers.request() as reader:
            yield reader
            begun = self.env.now
            if begun >= self.end:
                return
            self.shift.waits_s.append(begun - arrived)
            for play in plays:
                yield from self.by_hand() if play is None else self.target(play)
            spent = self.env.now - begun
        self.shift.minutes.append(spent / 60)
        self.shift.turnaround_s.append(self.env.now - arrived)
        self.shift.n_in_time += self.env.now <= self.end

    def drawn(self) -> list[Play | None]:
        """The targets of a case: of one subject; None is drawn by hand."""
        wanted = self.scenario["targets_per_case"]
        n = int(wanted) + int(self.rng.random() < wanted - int(wanted))
        if self.arm is None:
            return [None] * n
        own = self.of[self.persons[int(self.rng.integers(len(self.persons)))]]
        return [own[int(i)] for i in self.rng.integers(len(own), size=n)]

    def ahead_s(self, play: Play) -> float:
        """What the machine can do before the reader comes."""
        assert self.arm is not None
        speed = self.scenario["speed_factor"]
        if self.arm.unattended:
            return sum(one.seconds for one in play.rounds) / speed
        return sum(one.ahead_s for one in play.rounds[:1]) * self.scenario["ahead_share"] / speed

    def target(self, play: Play) -> Iterator[Any]:
        """Corrected until the reader is content, or mended."""
        assert self.arm is not None
        content, late, in_time = False, dict.fromkeys(DEADLINES_S, False), dict.fromkeys(DEADLINES_S, 0.0)
        for i, one in enumerate(play.rounds):
            yield from self.person(marking_s(self.arm, play.rounds, i, self.scenario))
            if not self.arm.unattended:
                asked = self.env.now
                yield from self.served(waiting_s(one, self.scenario))
                waited = self.env.now - asked
                self.shift.latencies_s.append(waited)
                self.shift.reader_s += self.within(asked)
                late = {d: late[d] or waited > d for d in DEADLINES_S}
            value = 0.0 if one.dsc is None else one.dsc
            in_time = {d: in_time[d] if late[d] else value for d in DEADLINES_S}
            yield from self.person(self.scenario["review_s"])
            content = value + self.rng.normal(0, self.scenario["judgement_sd"] or 0) >= self.wanted
            if content:
                break
        if not play.rounds:
            yield from self.by_hand()
        elif not content:
            yield from self.person(mending_s(play.rounds[-1].dsc, self.scenario, wanted=self.wanted))
        self.shift.reached.append(content)
        self.shift.final.append(value if play.rounds else 0.0)
        for deadline in DEADLINES_S:
            self.shift.in_time[deadline].append(in_time[deadline])

    def by_hand(self) -> Iterator[Any]:
        """A target drawn by hand."""
        yield from self.person(60 * self.scenario["hand_minutes"])

    def served(self, seconds: float) -> Iterator[Any]:
        """The machine works on a request when its turn has come."""
        with self.machine.request() as turn:
            yield turn
            begun = self.env.now
            yield self.env.timeout(seconds)
        self.shift.machine_s += self.within(begun)

    def person(self, mean_s: float) -> Iterator[Any]:
        """A person's seconds: log-normal with that mean."""
        if mean_s <= 0:
            return
        spread = math.sqrt(math.log1p(self.scenario["variation"] ** 2))
        seconds = mean_s * math.exp(self.rng.normal(-(spread**2) / 2, spread)) if spread else mean_s
        begun = self.env.now
        yield self.env.timeout(seconds)
        self.shift.reader_s += self.within(begun)

    def within(self, begun: float) -> float:
        """Seconds since then that lie in the shift."""
        return max(0.0, min(float(self.env.now), self.end) - begun)
