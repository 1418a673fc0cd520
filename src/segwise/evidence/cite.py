"""Who is to be cited for some rows: the survey, the papers, and the pages that figures were read from.

The base holds identifiers and few titles: an entry is complete where its identifier resolves, and says that authors,
and a title where there is none, are to be filled in from there. Only the survey's own entry is whole.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

TITLE = (
    "Generalist Models in Medical Image Segmentation: A Survey and Performance Comparison with Task-Specific Approaches"
)
AUTHORS = (
    "Moglia, Andrea and Leccardi, Matteo and Cavicchioli, Matteo and Maccarini, Alice and Marcon, Marco and "
    "Mainardi, Luca and Cerveri, Pietro"
)
CREDIT = (
    "Moglia et al., Generalist Models in Medical Image Segmentation, 2025, arXiv:2506.10825, and its database "
    "(github Hal9000-lab/Hal9000-lab.github.io); each row names its own source"
)
SURVEY = "arXiv:2506.10825"


@dataclass(frozen=True)
class Work:
    """Something to cite.

    Attributes:
        id: "arXiv:2408.00874", "doi:10.1109/...", an address, or the words of a source.
        about: what rows it stands for: names of models or data sets.
        title: "" where the base has none; one that the survey's database cut off ends in "...".
    """

    id: str
    about: tuple[str, ...]
    title: str = ""

    @property
    def address(self) -> str:
        """Where it is found, "" if its words name no place."""
        for begin, site in (("arXiv:", "https://arxiv.org/abs/"), ("doi:", "https://doi.org/")):
            if self.id.startswith(begin):
                return site + self.id.removeprefix(begin).split()[0]
        if found := re.match(r"github ([\w.-]+/[\w.-]+)", self.id):
            return f"https://github.com/{found[1]}"
        return self.id if self.id.startswith("http") else ""

    def text(self) -> str:
        """One line for a list of references."""
        place = f" <{self.address}>" if self.address not in ("", self.id) else ""
        return f"{f'{self.title}. ' if self.title else ''}{self.id}{place} ({', '.join(self.about)})"

    def bibtex(self) -> str:
        """An entry; its key is the identifier in letters, digits and hyphens."""
        if self.id == SURVEY:
            fields = {"title": f"{{{TITLE}}}", "author": AUTHORS, "year": "2025", **self._where()}
        else:
            more = " and others" if len(self.about) > 4 else ""
            title = self.title or f"[on {', '.join(self.about[:4])}{more}]"
            fields = {"title": f"{{{_plain(title)}}}", **self._where()}
            fields["note"] = "to be completed from the identifier"
        body = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items())
        return f"@misc{{{self.key},\n{body}}}"

    @property
    def key(self) -> str:
        """ "arxiv-2408-00874"; of a long source its head and a hash."""
        words = re.sub(r"[^a-z0-9]+", "-", self.id.lower()).strip("-")
        return (
            words if len(words) <= 60 else f"{words[:50]}-{hashlib.blake2b(words.encode(), digest_size=3).hexdigest()}"
        )

    def _where(self) -> dict[str, str]:
        if self.id.startswith("arXiv:"):
            return {"eprint": self.id.removeprefix("arXiv:").split()[0], "archivePrefix": "arXiv", "url": self.address}
        if self.id.startswith("doi:"):
            return {"doi": self.id.removeprefix("doi:"), "url": self.address}
        place = {"url": self.address} if self.address else {}
        return {"howpublished": _plain(self.id), **place}


def works(rows: Iterable[Mapping[str, Any]]) -> list[Work]:
    """What to cite for rows of any table, the survey first, each once.

    A figure is cited by the paper that printed it and by its model's paper; a model by its paper; a data set by its
    own.
    """
    about: dict[str, dict[str, None]] = {}
    titles = {SURVEY: TITLE}
    for row in rows:
        titles |= _title(str(row["source"]))
        name = str(row.get("model") or row.get("name") or "")
        if "survey" in str(row["source"]):
            about.setdefault(SURVEY, {})
        for id in _ids(row):
            about.setdefault(id, {})[name] = None
    if SURVEY in about:
        about = {SURVEY: {"the survey and its database": None}, **{id: n for id, n in about.items() if id != SURVEY}}
    return [Work(id, tuple(word for word in names if word), titles.get(id, "")) for id, names in about.items()]


def _ids(row: Mapping[str, Any]) -> list[str]:
    printed = str(row.get("printed_in") or "")
    from_survey = "survey database" in str(row["source"])
    candidates = [row.get("paper"), row.get("doi_or_paper"), printed if printed else None]
    if not printed and not from_survey and "survey" not in str(row["source"]):
        candidates.append(row["source"])
    found = [_identifier(str(word)) for word in candidates if word]
    return list(dict.fromkeys(found))


def _title(source: str) -> dict[str, str]:
    """{identifier: title} if the source tells a paper's title; proceedings are none, and 80 letters are a cut one."""
    found = re.search(r"original: (\S+) \((.*)\)$", source)
    if not found or re.search(r"Conference|Advances in", found[2]):
        return {}
    return {_identifier(found[1]): found[2] + ("..." if len(found[2]) >= 80 else "")}


def _identifier(words: str) -> str:
    """The arXiv number, DOI or repository at the head of a source, or else its words."""
    if found := re.match(r"arXiv:\d{4}\.\d{4,5}", words):
        return found[0]
    if found := re.match(r"(?:doi:|https?://(?:dx\.)?doi\.org/)(10\.\S+)", words):
        return "doi:" + found[1].rstrip(",;)").lower()
    if found := re.match(r"https?://arxiv\.org/(?:abs|pdf)/(\d{4}\.\d{4,5})", words):
        return f"arXiv:{found[1]}"
    if found := re.match(r"github [\w.-]+/[\w.-]+(?: @\w+)?", words):
        return found[0]
    return words.split("; ", maxsplit=1)[0]


def _plain(text: str) -> str:
    """Text that BibTeX takes: its own signs escaped."""
    return re.sub(r"([#$%&_{}])", r"\\\1", text)
