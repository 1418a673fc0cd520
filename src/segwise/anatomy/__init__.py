"""The vocabulary of anatomy: what the label names of all data sets and models mean, in common words.

`resolve("kidney_left")`, `resolve("Left Kidney")` and `resolve("L kidney")` are one term, "left kidney". A common name
is in lower case with spaces, American spelling, its side first. "left ventricle" and its like are parts of the heart,
not sides of a pair: their side is "". A name matches when it has the same words as a known one, in any order, after
spelling, plural and side have been made alike; nothing is matched by likeness: "liver tumor" is not "liver", and what
matches nothing stays unknown, with the nearest known names to show.

The terms stand in `structures.tsv`: region, sides ("both", or the only one there is), name, SNOMED CT code, synonyms.
`{1..12}` and `{a,b}` in a name make one term each ("{}" in a synonym repeats what was put in, "{~}" without spaces).
Codes are those that TotalSegmentator's mapping and the DICOM context groups (as in dcmqi) publish; a code names the
structure without its side, and is empty where none is known for certain.

Regions: the survey (arXiv 2506.10825) compares 14 but its list could not be found; these are the main structures of its
database without the collective ones (tumors, thoracic organs, whole body), with the mandible counted to the bones.
Vessels and hollow organs stand with their neighbours; "" is for what may lie anywhere.
"""

from __future__ import annotations

import csv
import difflib
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from segwise.errors import NoSuchStructure

REGIONS = (
    "Abdominal Organs",
    "Bones",
    "Brain",
    "Colon",
    "Head Glands",
    "Heart",
    "Kidneys",
    "Liver",
    "Lung",
    "Muscles",
    "Pancreas",
    "Prostate",
    "Spine",
    "Spleen",
)

_SIDES = {"left": "left", "l": "left", "lh": "left", "lt": "left", "right": "right", "r": "right", "rh": "right"}
_SIDES["rt"] = "right"
_SPELLING = {  # after the plural "s" is gone
    "arterie": "artery",
    "atria": "atrium",
    "bodie": "body",
    "bronchi": "bronchus",
    "bronchia": "bronchus",
    "cavitie": "cavity",
    "femora": "femur",
    "grey": "gray",
    "haemorrhage": "hemorrhage",
    "oedema": "edema",
    "oesophagus": "esophagus",
    "oesophagu": "esophagu",
    "ovarie": "ovary",
    "primarie": "primary",
    "teste": "testi",
    "teeth": "tooth",
    "tumour": "tumor",
    "vertebrae": "vertebra",
    "1st": "1",
    "first": "1",
    "2nd": "2",
    "second": "2",
    "3rd": "3",
    "third": "3",
    "4th": "4",
    "fourth": "4",
    "5th": "5",
    "fifth": "5",
}
_FILLERS = {"of", "the"}


@dataclass(frozen=True)
class Term:
    """A structure that the vocabulary knows.

    Attributes:
        name: its common name, "left kidney".
        base: the name without its side, "kidney"; equal to `name` where there is no side.
        side: "left", "right" or "".
        paired: both sides exist, so that `base` names their union.
        region: one of `REGIONS`, or "".
        sct: SNOMED CT code of the structure without its side, or "".
    """

    name: str
    base: str
    side: str
    paired: bool
    region: str
    sct: str


@dataclass(frozen=True)
class Resolved:
    """What some words mean.

    Attributes:
        words: as they came.
        term: the structure, or None if they are not known.
    """

    words: str
    term: Term | None

    @property
    def name(self) -> str:
        """The common name, or the words as they came."""
        return self.term.name if self.term else self.words

    @property
    def near(self) -> tuple[str, ...]:
        """Common names that look alike, for a message; empty if the words are known."""
        return () if self.term else _near(self.words)

    @property
    def known(self) -> bool:
        """Whether the vocabulary has them."""
        return self.term is not None


@functools.lru_cache(maxsize=8192)
def resolve(words: str) -> Resolved:
    """What a label name, or what a person typed, means; never a guess.

    Args:
        words: "Left-Thalamus-Proper*", "kidney (R)", "tumour", "vertebrae_L1" ...
    """
    return Resolved(words, _index().get(_key(words)))


def term(name: str) -> Term | None:
    """The term of a common name or synonym, or None."""
    return resolve(name).term


def side(name: str) -> str:
    """ "left", "right", or "" for what has no side or is not known."""
    found = resolve(name).term
    return found.side if found else ""


def without_side(name: str) -> str:
    """The common name without its side: "left kidney" -> "kidney"; others come back as `resolve` names them."""
    found = resolve(name)
    return found.term.base if found.term else name


def union_of(name: str) -> tuple[str, str] | None:
    """The (left, right) common names of which a name without a side is the union, or None.

    >>> union_of("thalamus")
    ('left thalamus', 'right thalamus')
    """
    found = resolve(name).term
    if found is None or found.side or not found.paired:
        return None
    return f"left {found.base}", f"right {found.base}"


def mirrored(name: str) -> str:
    """The name of the same structure on the other side, for a mirrored body; names without a side come back alike."""
    found = resolve(name).term
    if found is None or not found.side or not found.paired:
        return found.name if found else name
    return f"{'right' if found.side == 'left' else 'left'} {found.base}"


def among(words: str, labels: Sequence[str]) -> tuple[str, ...]:
    """The labels of a closed list that some words mean.

    Args:
        words: any name that the vocabulary knows, or a label as it stands.
        labels: common names.

    Returns:
        One label, or the left and the right one for a name without side.

    Raises:
        NoSuchStructure: none; says which is near, and if only both sides together are known.
    """
    name = resolve(words).name
    if name in labels:
        return (name,)
    sides = union_of(name)
    if sides and set(sides) <= set(labels):
        return sides
    together = without_side(name)
    if together != name and together in labels:
        raise NoSuchStructure(f'"{words}": this model knows "{together}" only with both sides together; ask for that')
    alike = difflib.get_close_matches(name, labels, n=3, cutoff=0.55)
    near = dict.fromkeys([*alike, *(label for label in labels if set(label.split()) & set(name.split()))])
    more = f" and {len(labels) - 6} more" if len(labels) > 6 else ""
    hint = f"; near: {', '.join(list(near)[:4])}" if near else f"; it knows {', '.join(list(labels)[:6])}{more}"
    raise NoSuchStructure(f'"{words}" is not among the {len(labels)} structures of this model{hint}')


def terms() -> Mapping[str, Term]:
    """All terms by common name."""
    return _terms()[0]


def synonyms(name: str) -> tuple[str, ...]:
    """What else a structure is called, () for none or an unknown name."""
    found = term(name)
    return _terms()[1].get(found.name, ()) if found else ()


@functools.cache
def _terms() -> tuple[Mapping[str, Term], Mapping[str, tuple[str, ...]]]:
    """Terms by common name, and the synonyms of each name."""
    found: dict[str, Term] = {}
    also: dict[str, tuple[str, ...]] = {}
    text = resources.files(__package__).joinpath("structures.tsv").read_text(encoding="utf-8")
    for row in csv.DictReader(text.splitlines(), delimiter="\t"):
        for base, code, synonyms in _expanded(row["name"], row["sct"] or "", row["also"] or ""):
            for made in _sided(base, row["sides"], row["region"], code):
                found.setdefault(made.name, made)
                prefix = f"{made.side} " if made.side and row["sides"] == "both" else ""
                words = [*synonyms, f"{base} muscle"] if row["region"] == "Muscles" else synonyms
                also[made.name] = also.get(made.name, ()) + tuple(prefix + word for word in words)
    return found, also


def _sided(base: str, sides: str, region: str, code: str) -> Iterator[Term]:
    if sides == "both":
        yield Term(base, base, "", True, region, code)
        for word in ("left", "right"):
            yield Term(f"{word} {base}", base, word, True, region, code)
    elif sides:
        yield Term(base, base.removeprefix(f"{sides} "), sides, False, region, code)
    else:
        yield Term(base, base, "", False, region, code)


def _expanded(name: str, codes: str, also: str) -> Iterator[tuple[str, str, list[str]]]:
    """The rows that one row with braces stands for: (name, code, synonyms)."""
    braces = re.search(r"\{([^}]*)\}", name)
    fills = [""] if braces is None else _fills(braces[1])
    each = codes.split(",") if "," in codes else [codes] if braces is None else [codes] + [""] * len(fills)
    for i, fill in enumerate(fills):
        made = name if braces is None else name.replace(braces[0], fill)
        words = also.replace("{}", fill).replace("{~}", fill.replace(" ", ""))
        yield made, each[i] if i < len(each) else "", [word.strip() for word in words.split(";") if word.strip()]


def _fills(inside: str) -> list[str]:
    span = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
    return [str(n) for n in range(int(span[1]), int(span[2]) + 1)] if span else inside.split(",")


@functools.cache
def _index() -> Mapping[tuple[str, ...], Term]:
    found, also = _terms()
    index = {_key(name): made for name, made in found.items()}
    for name, synonyms in also.items():
        for word in synonyms:
            index.setdefault(_key(word), found[name])
    return index


def _key(words: str) -> tuple[str, ...]:
    """The words of a name in sorted order, with spelling, plural and side made alike."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", words)
    tokens = re.findall(r"[a-z0-9]+|[+/]", spaced.lower().replace("&", " and "))
    last = len(tokens) - 1
    out = []
    for i, token in enumerate(tokens):
        if token in _SIDES and (len(token) > 1 or i in (0, last)) and last:
            out.append(_SIDES[token])
            continue
        plain = token[:-1] if len(token) > 3 and token.endswith("s") and not token.endswith("ss") else token
        plain = _SPELLING.get(token, _SPELLING.get(plain, plain))
        if plain not in _FILLERS:
            out.append(plain)
    return tuple(sorted(out))


@functools.lru_cache(maxsize=1024)
def _near(words: str) -> tuple[str, ...]:
    """Up to three common names that share words or letters with what came."""
    key = set(_key(words))
    plain = " ".join(re.findall(r"[a-z0-9]+", words.lower()))
    scores: dict[str, float] = {}
    for known, made in _index().items():
        shared = len(key & set(known)) / max(1, len(key | set(known)))
        letters = difflib.SequenceMatcher(None, plain, made.name).ratio() if shared or len(plain) < 24 else 0.0
        scores[made.name] = max(scores.get(made.name, 0.0), shared, letters - 0.2)
    best = sorted(scores, key=lambda name: (-scores[name], name))[:3]
    return tuple(name for name in best if scores[name] >= 0.45)
