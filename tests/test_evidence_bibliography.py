"""Whom to cite: what is known of a paper stands in its entry, and what is not is said to be missing."""

from __future__ import annotations

import re

import pytest

from segwise.evidence.base import open_base
from segwise.evidence.bibliography import Paper, of_datasets, papers
from segwise.evidence.cite import SURVEY, Work, works

PAPERS = {paper.ids[0]: paper for paper in papers().values()}


@pytest.fixture(scope="module")
def base():
    return open_base()


@pytest.fixture(scope="module")
def cited(base):
    """All that any row of the base is cited by, by identifier."""
    found = [work for table in ("models", "datasets", "figures") for work in works(base.rows(f"select * from {table}"))]
    return {work.id: work for work in found}


def entry(work: Work) -> dict[str, str]:
    """Fields of an entry; its braces must close."""
    text = work.bibtex()
    assert text.count("{") == text.count("}") and text.endswith(",\n}")
    assert re.match(r"@(misc|article|inproceedings)\{[a-z0-9-]+,\n", text)
    return dict(re.findall(r"^  (\w+) = \{(.*)\},$", text, re.M))


@pytest.mark.parametrize("id", PAPERS)
def test_every_paper_is_whole_and_says_where_that_was_found(id, cited):
    paper = PAPERS[id]
    assert id in cited and cited[id].paper is paper  # no entry that nothing needs
    assert all(re.match(r"(arXiv:\d{4}\.\d{4,5}|doi:10\.\S+[^.]|https://\S+)$", name) for name in paper.ids)
    assert paper.title and not paper.title.endswith("...") and 1990 < paper.year < 2027
    names = paper.author.split(" and ")
    assert all(re.match(r"[^,]+, [^,]+$", name) for name in names if name != "others") and "others" not in names[:-1]
    assert not (paper.journal and paper.booktitle) and paper.checked in ("authors", "lists")
    assert "note" not in entry(cited[id])


def test_no_identifier_stands_for_two_papers(base):
    assert sum(len(paper.ids) for paper in PAPERS.values()) == len(papers())
    known = {row["id"]: row["doi_or_paper"] for row in base.rows("select id, doi_or_paper from datasets")}
    assert all(id in known and not known[id] for id in of_datasets())


def test_the_models_and_data_sets_that_people_compare_are_known(base):
    wanted = "sam sam2 medsam medsam2 medical-sam-2 sam-med2d sam-med3d nnu-net unetr swin-unetr totalsegmentator"
    models = {row["id"]: row for row in base.rows("select * from models")}
    for id in wanted.split():
        assert any(work.paper for work in works([models[id]]) if work.id != SURVEY), id
    for id in ("btcv", "amos", "brats", "flare", "kits", "lits-msd-liver", "chaos", "msd-spleen"):
        rows = base.rows("select * from datasets where id = ?", [id])
        assert rows and any(work.paper for work in works(rows) if work.id != SURVEY), id


def test_an_entry_has_authors_year_and_place(cited):
    found = entry(cited["arXiv:2304.12306"])
    assert (
        found["author"].startswith("Ma, Jun and He, Yuting")
        and found["title"] == "{Segment Anything in Medical Images}"
    )
    assert (found["journal"], found["volume"], found["year"]) == ("Nature Communications", "15", "2024")
    assert (found["eprint"], found["doi"]) == ("2304.12306", "10.1038/s41467-024-44824-z")
    assert cited["arXiv:2304.12306"].bibtex().startswith("@article{arxiv-2304-12306,")
    assert cited["arXiv:2304.12306"].text().startswith("Ma et al. 2024. Segment Anything in Medical Images. arXiv")


def test_a_preprint_and_what_was_printed_of_it_are_one(cited):
    assert "arXiv:2309.08842" in cited and "doi:10.1016/j.media.2024.103310" not in cited
    found = works(
        [
            {
                "paper": "arXiv:2309.08842",
                "source": "x",
                "model": "MA-SAM",
                "printed_in": "doi:10.1016/J.MEDIA.2024.103310",
            }
        ]
    )
    assert [work.id for work in found] == ["arXiv:2309.08842"]


def test_what_is_not_known_stays_marked(cited):
    unknown = {id: work for id, work in cited.items() if not work.paper}
    assert unknown
    for work in unknown.values():
        note = entry(work)["note"]
        assert note.endswith("to be completed from the identifier") and "authors" in note
        assert "author" not in entry(work) and ("title" in note) == (not work.title or work.title.endswith("..."))


@pytest.mark.parametrize(
    ("author", "short"),
    [
        ("Ronneberger, O. and Fischer, P. and Brox, T.", "Ronneberger et al. 2015"),
        ("Zhang, Kaidong and Liu, Dong", "Zhang and Liu 2015"),
        ("Lee, Ho Hin and others", "Lee et al. 2015"),
        ("Myronenko, A.", "Myronenko 2015"),
    ],
)
def test_a_paper_is_called_by_its_authors(author, short):
    assert Paper(ids=("x",), title="t", author=author, year=2015).short == short


def test_signs_of_bibtex_are_escaped():
    paper = Paper(ids=("doi:10.1/x_y",), title="", author="A, B", year=2020, journal="C & D")
    text = Work("doi:10.1/x_y", ("A",), "Cost & gain", paper).bibtex()
    assert r"Cost \& gain" in text and r"C \& D" in text
