"""The papers of a consent process as files: sheet, questionnaire, answer key, protocol of validation, and the trace.

All are drafts for an ethics board. The version counts up when a word or a number of the sheet changes.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segwise.decide import sheet
from segwise.decide.facts import Facts, Known, read
from segwise.decide.protocol import protocol
from segwise.decide.reading import TARGET, Reading
from segwise.errors import FileError
from segwise.report import shell
from segwise.report.markup import details, e, note, table

TRACE = "trace.json"
DRAFT = (
    "<b>Draft for an ethics board.</b> Not approved, not to be handed to patients. Written by Segwise from the records "
    "of one run; a person must check every sentence for the place where it is used."
)
LETTERS = "ABC"


@dataclass(frozen=True, kw_only=True)
class Papers:
    """What was written.

    Attributes:
        folder: of the files.
        version: of the sheet, from 1 on.
        reading: how easy the sheet is to read.
        files: by name.
    """

    folder: Path
    version: int
    reading: Reading
    files: Mapping[str, Path]


def write(run_dir: Path | str, model: str, out: Path | str) -> Papers:
    """Write the papers for a model of a run into a folder.

    Raises:
        RunError: not a run, or nothing of the model is scored. SpecError: the model is not in the run.
        FileError: the folder cannot be written, or holds a trace that is not ours.
    """
    known, folder = read(run_dir, model), Path(out)
    body, used = sheet.written(known.facts)
    found = sheet.checked(known.facts)
    digest = hashlib.blake2b(sheet.plain(known.facts).encode(), digest_size=6).hexdigest()
    version = _version(folder, digest)
    head = f"Version {version} · {digest} · model {known.facts['model'].text}"
    pages = {
        "sheet.html": _sheet(body, known, head, found),
        "questionnaire.html": _questionnaire(head),
        "answer-key.html": _answers(head),
        "protocol.html": _page("Validation of the sheet", head, protocol(found, len(sheet.QUESTIONS))),
        TRACE: _trace(known.facts, used, digest=digest, version=version, found=found),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in pages.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise FileError(f"{folder}: cannot be written ({error.strerror}); give -o a folder") from error
    return Papers(folder=folder, version=version, reading=found, files={name: folder / name for name in pages})


def order(question: sheet.Question) -> list[int]:
    """Places of the choices as printed: the same in every copy, and not always the right one first."""
    places = list(range(len(question.choices)))
    random.Random(question.asks).shuffle(places)
    return places


def _version(folder: Path, digest: str) -> int:
    path = folder / TRACE
    if not path.exists():
        return 1
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        version = int(before["version"])
        return version if before["digest"] == digest else version + 1
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise FileError(f"{path} is no trace of a sheet ({error}); give -o a new folder") from error


def _trace(facts: Facts, used: Sequence[str], *, digest: str, version: int, found: Reading) -> str:
    told: dict[str, Any] = {
        "version": version,
        "digest": digest,
        "flesch_reading_ease": round(found.ease, 1),
        "target": TARGET,
        "numbers": {key: {"shown": facts[key].text, "source": facts[key].source} for key in used},
    }
    return json.dumps(told, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _page(title: str, head: str, body: str) -> str:
    header = f"<h1>{e(title)}</h1>{note(DRAFT, kind='warn')}<p class='small'>{e(head)}</p>"
    return (
        f"{shell.head(title)}<body><header>{header}</header><main>{body}</main><footer>{DRAFT}</footer></body></html>\n"
    )


def _sheet(body: str, known: Known, head: str, found: Reading) -> str:
    good = "reaches" if found.ease >= TARGET else "<b>misses</b>"
    hard = "".join(f"<li>{e(one)}</li>" for one in found.hardest)
    check = (
        f"<p>Flesch reading ease {found.ease:.0f} ({found.n_words} words, {found.n_sentences} sentences); it {good} "
        f"the target of {TARGET:.0f}. The hardest sentences:</p><ul>{hard}</ul>"
    )
    used = sheet.written(known.facts)[1]
    rows = [[e(key), e(known.facts[key].text), f'<td class="w">{e(known.facts[key].source)}</td>'] for key in used]
    where = table(["Number", "As shown", '<th scope="col" class="w">Where it comes from</th>'], rows, name="Trace")
    for_board = details("For the board: reading level and where each number comes from", check + where)
    return _page("What the outline program can and cannot do", head, body + for_board)


def _questionnaire(head: str) -> str:
    body = "<p>Please tick one answer to each question. You may look at the sheet.</p>"
    for n, question in enumerate(sheet.QUESTIONS, start=1):
        lines = "".join(
            f"<li>☐ {LETTERS[k]}&ensp;{e(question.choices[place])}</li>" for k, place in enumerate(order(question))
        )
        body += f"<h3>{n}. {e(question.asks)}</h3><ul style='list-style:none'>{lines}</ul>"
    return _page("Questions about the sheet", head, body)


def _answers(head: str) -> str:
    rows = []
    for n, question in enumerate(sheet.QUESTIONS, start=1):
        right = LETTERS[order(question).index(0)]
        cells = [right, f'<td class="w">{e(question.choices[0])}</td>', f'<td class="w">{e(question.why)}</td>']
        rows.append([f"{n}. {e(question.asks)}", *cells])
    head_ = [
        "Question",
        "Answer",
        '<th scope="col" class="w">In words</th>',
        '<th scope="col" class="w">Said under</th>',
    ]
    return _page("Answer key: not for readers", head, table(head_, rows, name="Answers"))
