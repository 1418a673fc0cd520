"""What one target takes of a person and of the machine, when a reader corrects until satisfied.

The reader's model, the same for cost and workflow: marks the target, waits for the answer, looks, and stops at the
first round whose DSC is good enough; otherwise makes the next recorded correction. Where the recorded rounds end
below, the last answer is mended by hand, the longer the worse it is, or thrown away and drawn anew (`mending`); where
nothing came at all, the target is drawn by hand. So a worse mask is never cheaper, and useless masks cost more than
the hand alone. A real reader has no reference: that the stop is known exactly is an idealisation (the workflow adds an
error of judgement).
"""

from __future__ import annotations

from dataclasses import dataclass

from segwise.decide.measured import Measured, Play, Round
from segwise.decide.mending import drawn_anew, mending_s
from segwise.decide.scenario import Scenario


@dataclass(frozen=True, kw_only=True)
class Effort:
    """Of one target.

    Attributes:
        marks_s, review_s, repair_s: of a person: clicking, looking, mending or drawing by hand.
        wait_s: of a person, idle.
        machine_s: of the machine, on the site's hardware.
        reached: the model's answers alone were good enough.
        anew: all of it was drawn by hand, whatever came before.
        n_rounds: rounds until the reader stopped.
    """

    marks_s: float
    review_s: float
    repair_s: float
    wait_s: float
    machine_s: float
    reached: bool
    anew: bool
    n_rounds: int

    @property
    def person_s(self) -> float:
        """All seconds of a person."""
        return self.marks_s + self.review_s + self.repair_s + self.wait_s


def effort(play: Play, arm: Measured, scenario: Scenario) -> Effort:
    """What a target takes until it is good enough.

    Args:
        play: its recorded rounds.
        arm: whose it is.
        scenario: seconds of a person, the wanted DSC, the speed of the machine.
    """
    if not play.rounds:
        drawn = 60 * scenario["hand_minutes"]
        return Effort(
            marks_s=0.0, review_s=0.0, repair_s=drawn, wait_s=0.0, machine_s=0.0, reached=False, anew=True, n_rounds=0
        )
    wanted = scenario["accept_dsc"]
    good = next((i for i, one in enumerate(play.rounds) if one.dsc is not None and one.dsc >= wanted), None)
    used = play.rounds[: len(play.rounds) if good is None else good + 1]
    machine = sum(one.seconds for one in used) / scenario["speed_factor"]
    waited = sum(waiting_s(one, scenario) for one in used)
    last = used[-1].dsc
    return Effort(
        marks_s=sum(marking_s(arm, used, i, scenario) for i in range(len(used))),
        review_s=len(used) * scenario["review_s"],
        repair_s=0.0 if good is not None else mending_s(last, scenario),
        wait_s=0.0 if arm.unattended else waited * scenario["wait_share"],
        machine_s=machine,
        reached=good is not None,
        anew=good is None and drawn_anew(last, scenario),
        n_rounds=len(used),
    )


def waiting_s(one: Round, scenario: Scenario) -> float:
    """Seconds from the mark to the mask on the site's hardware, with as much of the encoding as was not done before."""
    return (one.answer_s + one.ahead_s * (1 - scenario["ahead_share"])) / scenario["speed_factor"]


def marking_s(arm: Measured, rounds: tuple[Round, ...], i: int, scenario: Scenario) -> float:
    """A person's seconds for the marks of round i.

    The first round makes boxes where the simulated user makes any (all its marks, or one beside points); what is
    neither box nor scribble is a click. Names cost nothing.
    """
    new = rounds[i].n_interactions - (rounds[i - 1].n_interactions if i else 0)
    if new <= 0:
        return 0.0
    drawn = scenario["stroke_s"] if "stroke" in arm.gives and "points" not in arm.gives else scenario["click_s"]
    if i or "box" not in arm.gives:
        return new * drawn
    n_boxes = 1 if "points" in arm.gives else new
    return n_boxes * scenario["box_s"] + (new - n_boxes) * drawn
