"""Who is to be cited for some rows: the survey, the papers, and the pages that figures were read from.

The base holds identifiers and few titles; `bibliography` knows the papers cited most, a preprint and what was printed
of it as one. An entry of another one says what is to be completed from its identifier.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from segwise.evidence.bibliography import Paper, of_datasets, papers

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
_OURS = Paper(ids=(SURVEY,), title=TITLE, author=AUTHORS, year=2025, checked="authors")


@dataclass(frozen=True)
class Work:
    """Something to cite.

    Attributes:
        id: "arXiv:2408.00874", "doi:10.1109/...", an address, or the words of a source.
        about: what rows it stands for: names of models or data sets.
        title: "" where nothing has one; one that the survey's database cut off ends in "...".
        paper: what else is known of it, None if nothing.
    """

    id: str
    about: tuple[str, ...]
    title: str = ""
    paper: Paper | None = None

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
        who = f"{self.paper.short}. " if self.paper else ""
        return f"{who}{f'{self.title}. ' if self.title else ''}{self.id}{place} ({', '.join(self.about)})"

    def bibtex(self) -> str:
        """An entry; its key is the identifier in letters, digits and hyphens."""
        more = " and others" if len(self.about) > 4 else ""
        title = self.title or f"[on {', '.join(self.about[:4])}{more}]"
        known = self.paper.fields if self.paper else {}
        fields = {"title": f"{{{_plain(title)}}}", **{name: _plain(value) for name, value in known.items()}}
        fields |= self._where()
        if lacking := self._lacking():
            fields["note"] = f"{lacking} to be completed from the identifier"
        body = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items())
        return f"@{self.paper.kind if self.paper else 'misc'}{{{self.key},\n{body}}}"

    def _lacking(self) -> str:
        """What an entry has still to be given."""
        if self.paper:
            return ""
        if not self.title:
            return "title and authors"
        return "end of the title and authors" if self.title.endswith("...") else "authors"

    @property
    def key(self) -> str:
        """ "arxiv-2408-00874"; of a long source its head and a hash."""
        words = re.sub(r"[^a-z0-9]+", "-", self.id.lower()).strip("-")
        return (
            words if len(words) <= 60 else f"{words[:50]}-{hashlib.blake2b(words.encode(), digest_size=3).hexdigest()}"
        )

    def _where(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for id in self.paper.ids if self.paper else (self.id,):
            if id.startswith("arXiv:"):
                found |= {"eprint": id.removeprefix("arXiv:").split()[0], "archivePrefix": "arXiv"}
            elif id.startswith("doi:"):
                found |= {"doi": id.removeprefix("doi:")}
            elif not self.paper:
                found |= {"howpublished": _plain(id)}
        return found | ({"url": self.address} if self.address else {})


def works(rows: Iterable[Mapping[str, Any]]) -> list[Work]:
    """What to cite for rows of any table, the survey first, each once.

    A figure is cited by the paper that printed it and by its model's paper; a model by its paper; a data set by its
    own.
    """
    about: dict[str, dict[str, None]] = {}
    titles: dict[str, str] = {}
    for row in rows:
        titles |= _title(str(row["source"]))
        name = str(row.get("model") or row.get("name") or "")
        if "survey" in str(row["source"]):
            about.setdefault(SURVEY, {})
        for id in _ids(row):
            about.setdefault(id, {})[name] = None
    if SURVEY in about:
        about = {SURVEY: {"the survey and its database": None}, **{id: n for id, n in about.items() if id != SURVEY}}
    return [_work(id, names, titles.get(id, "")) for id, names in about.items()]


def _work(id: str, names: Iterable[str], title: str) -> Work:
    paper = _OURS if id == SURVEY else papers().get(id)
    return Work(id, tuple(word for word in names if word), paper.title if paper else title, paper)


def _ids(row: Mapping[str, Any]) -> list[str]:
    printed = str(row.get("printed_in") or "")
    from_survey = "survey database" in str(row["source"])
    own = row.get("doi_or_paper")
    if "doi_or_paper" in row and not own:
        own = of_datasets().get(str(row["id"]))
    candidates = [row.get("paper"), own, printed if printed else None]
    if not printed and not from_survey and "survey" not in str(row["source"]):
        candidates.append(row["source"])
    found = [_identifier(str(word)) for word in candidates if word]
    known = papers()
    return list(dict.fromkeys(known[id].ids[0] if id in known else id for id in found))


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
