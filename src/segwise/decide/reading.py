"""How easy a text is to read: Flesch reading ease, and which sentences are the hardest.

Source: Flesch, A new readability yardstick, Journal of Applied Psychology 1948: 206.835 - 1.015 words a sentence -
84.6 syllables a word (constants and table checked 2026-11 in texts that quote them). Syllables are counted by rule
(groups of vowels, silent final e), not by a dictionary: a word is off by one now and then. Numbers count as one
syllable.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TARGET = 60.0  # "standard", about the reading level of age 13 to 15 in Flesch's table
_WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?|\d[\d.,%]*")
_SENTENCE = re.compile(r"(?<=[.!?:])\s+")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Of a text.

    Attributes:
        ease: Flesch reading ease, higher is easier; 60 and more is plain English.
        n_words, n_sentences: counted.
        hardest: the sentences with the lowest ease, at most three.
    """

    ease: float
    n_words: int
    n_sentences: int
    hardest: tuple[str, ...]


def reading(text: str) -> Reading:
    """How easy a text is to read; a text without words has an ease of 0.

    Args:
        text: plain text, sentences ending in ".", "!", "?" or ":".
    """
    found = [one for one in _SENTENCE.split(text.strip()) if _WORD.search(one)]
    words = _WORD.findall(text)
    hardest = sorted(found, key=lambda one: _ease([one]))[:3]
    return Reading(
        ease=_ease(found) if found else 0.0, n_words=len(words), n_sentences=len(found), hardest=tuple(hardest)
    )


def syllables(word: str) -> int:
    """Of an English word, one at least."""
    word = word.lower().removesuffix("'s")
    if not word or not word[0].isalpha():
        return 1
    stem = word
    if re.search(r"[^aeiouyl]e$|[aeiouy]le$", word) and len(word) > 2:
        stem = word[:-1]  # silent: time, scale; not: table, the
    elif re.search(r"[^aeiouytd]ed$", word) or (
        re.search(r"[^aeiouysxz]es$", word) and word[-3:] not in ("ces", "ges")
    ):
        stem = word[:-2]  # missed, times
    return max(1, len(re.findall(r"[aeiouy]+", stem)))


def _ease(sentences: list[str]) -> float:
    words = [word for one in sentences for word in _WORD.findall(one)]
    each = len(words) / len(sentences)
    return 206.835 - 1.015 * each - 84.6 * sum(map(syllables, words)) / len(words)
