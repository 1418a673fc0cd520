"""A plain-language sheet for patients about what a segmentation model does, what it gets wrong, and what is not known.

Sentences are written here; numbers come from facts and from nowhere else. A draft for an ethics board.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from segwise.decide.facts import Facts
from segwise.decide.reading import Reading, reading
from segwise.report.markup import e

_ASKED = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A heading with sentences; `{key}` stands for a fact. A sentence is left out where a fact of it is not known."""

    title: str
    sentences: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Question:
    """Of the questionnaire.

    Attributes:
        asks: the question.
        choices: the first one is right; the printed order is another.
        why: where the sheet says it.
    """

    asks: str
    choices: tuple[str, ...]
    why: str


PARTS = (
    Part(
        title="What is this about?",
        sentences=(
            "A computer program can draw the outline of organs or lumps on a scan.",
            "We may use it on your scan.",
            "This sheet tells you what the program can do and what it can get wrong.",
            "You can say yes or no.",
            "Your care stays the same if you say no.",
        ),
    ),
    Part(
        title="What does the program do?",
        sentences=(
            "The program looks at the scan and marks a part of the body.",
            "It was made by people who do not know you.",
            "It does not find out what is wrong with you.",
            "It does not choose your care.",
            "A trained person must look at each outline and can change it or throw it away.",
        ),
    ),
    Part(
        title="How well does it work?",
        sentences=(
            "We tried it on {kinds} of organ or lump in scans of {people}.",
            "We looked at {outlines}.",
            "We scored how well its outline fits an outline that {reference_words}.",
            "A score of 1 is a perfect fit and 0 is no fit at all.",
            "The mean score was {mean}.",
            "If we tried it on other people, the mean could well be from {mean_low} to {mean_high}.",
            "The person with the worst result had a score of {worst_subject}.",
            "About {poor_of_hundred} outlines were poor, with a score below {poor_limit}.",
            "On other people it could be up to {poor_most}.",
        ),
    ),
    Part(
        title="What can go wrong?",
        sentences=(
            "The outline can be too large, too small, or in the wrong place.",
            "The program can miss a small lump.",
            "It can mark something that is not there.",
            "It may not tell us when it is wrong.",
            "If nobody sees the mistake, the size of an organ or a lump may be told wrongly.",
            "This could lead to wrong care.",
            "That is why a trained person must check it.",
        ),
    ),
    Part(
        title="What do we not know?",
        sentences=(
            "We do not know how well it works for people who are not like those in our test.",
            "We did not check if it works as well for the old and the young, or for women and men.",
            "It may do worse after surgery, with an implant, or if an organ is missing.",
            "We do not know if it makes care better.",
            "The program is used for study only.",
        ),
    ),
    Part(
        title="What happens to your scan?",
        sentences=(
            "The program can run on a computer in this place, with no link to the outside.",
            "Your name is not needed for it.",
            "Ask us who can see your scan and how long it is kept.",
        ),
    ),
    Part(
        title="Your choice",
        sentences=(
            "You can ask us anything.",
            "You can say no now, or change your mind later.",
            "You do not have to say why.",
        ),
    ),
)

QUESTIONS = (
    Question(
        asks="What does the program do?",
        choices=("It marks a part of the body on a scan", "It finds out what is wrong with me", "It chooses my care"),
        why="What does the program do?",
    ),
    Question(
        asks="Who must look at each outline?",
        choices=("A trained person", "Nobody", "Another program"),
        why="What does the program do?",
    ),
    Question(
        asks="Does the program always get it right?",
        choices=("No, an outline can be wrong", "Yes, always", "Yes, if the scan is new"),
        why="What can go wrong?",
    ),
    Question(
        asks="Can we count on the program to say when it is wrong?",
        choices=("No, it may not tell", "Yes, each time", "Only for large mistakes"),
        why="What can go wrong?",
    ),
    Question(
        asks="What can happen if nobody sees a mistake?",
        choices=("A size may be told wrongly and care may be wrong", "Nothing", "The scan is lost"),
        why="What can go wrong?",
    ),
    Question(
        asks="Is it known that the program works as well for the old and the young?",
        choices=("No, this was not checked", "Yes, it was checked", "It works for the young only"),
        why="What do we not know?",
    ),
    Question(
        asks="Is it known that the program makes care better?",
        choices=("No", "Yes", "Only in this hospital"),
        why="What do we not know?",
    ),
    Question(
        asks="What changes in your care if you say no?",
        choices=("Nothing", "I have to wait longer", "I get no scan"),
        why="What is this about?",
    ),
    Question(
        asks="Can you change your mind later?",
        choices=("Yes, and I need not say why", "No", "Only in the first week"),
        why="Your choice",
    ),
    Question(
        asks="Which result would be better?",
        choices=("A score near 1", "A score near 0", "Both are the same"),
        why="How well does it work?",
    ),
)


def written(facts: Facts, parts: Sequence[Part] = PARTS) -> tuple[str, list[str]]:
    """(HTML, keys of the facts that are in it); sentences with a fact that is not known are left out."""
    body, used = [], []
    for part in parts:
        said = []
        for sentence in part.sentences:
            keys = _ASKED.findall(sentence)
            if all(key in facts for key in keys):
                used += keys
                said.append(_ASKED.sub(lambda found: facts.shown(found[1]), e(sentence)))
        body.append(f"<h2>{e(part.title)}</h2><p>{' '.join(said)}</p>")
    return "".join(body), list(dict.fromkeys(used))


def plain(facts: Facts, parts: Sequence[Part] = PARTS) -> str:
    """The same as plain text."""
    said = []
    for part in parts:
        for sentence in part.sentences:
            keys = _ASKED.findall(sentence)
            if all(key in facts for key in keys):
                said.append(_ASKED.sub(lambda found: facts[found[1]].text, sentence))
    return " ".join(said)


def checked(facts: Facts) -> Reading:
    """How easy the sheet is to read."""
    return reading(plain(facts))
