"""What the command line prints: tables for people, JSON for programs, one name a line where a list is piped."""

from __future__ import annotations

import contextlib
import dataclasses
import json as json_
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from segwise import catalog, spec
from segwise.errors import SegwiseError
from segwise.training import names as recipes

_out = Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True)
_PIPED_WIDTH = 10_000  # columns
Tick = Callable[[int, int, str], None]


def data(value: Any) -> None:
    """JSON on standard output, and nothing else."""
    sys.stdout.write(json_.dumps(value, indent=1, ensure_ascii=False, default=_plain) + "\n")


def error(message: str) -> None:
    """One message on standard error."""
    _err.print(f"[bold red]error:[/] {escape(message)}")


def note(message: str) -> None:
    """A remark on standard error."""
    _err.print(f"[dim]{escape(message)}[/]")


def done(what: str, path: Path) -> None:
    """Where something was written."""
    _out.print(f"[bold green]{what}:[/] {escape(str(path))}")


@contextlib.contextmanager
def spinner(what: str) -> Iterator[None]:
    """Something is going on, on standard error, where a person watches."""
    if not _err.is_terminal:
        yield
        return
    with _err.status(escape(what)):
        yield


@contextlib.contextmanager
def working(what: str) -> Iterator[None]:
    """A spinner that says how far a model is and how long the rest takes; where nobody watches, a line now and then."""
    from segwise.segmenter import watched

    if not _err.is_terminal:
        lines = _Lines(last=False)
        with watched(lambda n, total, pieces: lines(n, total, f"{pieces}, {what}")):
            yield
        return
    with _err.status(escape(what)) as status:
        pace = _Pace()
        with watched(lambda n, total, pieces: status.update(escape(f"{what}: {pace(n, total, pieces)}"))):
            yield


class _Pace:
    """How far a piece of work is, in words; begins again when the count does."""

    def __init__(self) -> None:
        self._start, self._n = time.monotonic(), 0

    def __call__(self, n: int, total: int, pieces: str) -> str:
        now = time.monotonic()
        if n <= self._n:
            self._start = now
        self._n = n
        if not total:
            return f"{n} {pieces}"
        left = f", about {(now - self._start) / (n - 1) * (total - n):.0f} s left" if n > 1 else ""
        return f"{n} of {total} {pieces}{left}"


class Counter(Protocol):
    """Shows how far something is; told what is expected of the rest, it shows that instead of the mean so far."""

    def __call__(self, n: int, total: int, what: str) -> None:
        """`n` of `total` are done (0: nobody knows), last `what`."""

    def expect(self, left_s: float, untimed: int) -> None:
        """The rest takes so many seconds, not counting pieces of a kind that none is timed of yet."""


@contextlib.contextmanager
def progress() -> Iterator[Counter]:
    """A callback `(done, total, what)` that shows progress and the time left on standard error."""
    if not _err.is_terminal:
        yield _Lines()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    texts = TextColumn("{task.fields[left]}"), TextColumn("{task.description}")
    with Progress(BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), *texts, console=_err) as bar:
        yield _Bar(bar)


class _Left:
    """The time left, in words: as expected, or by the mean so far; begins again when the count does."""

    def __init__(self) -> None:
        self._start, self._n = time.monotonic(), 0
        self._expected: tuple[float, int] | None = None

    def expect(self, left_s: float, untimed: int) -> None:
        self._expected = left_s, untimed

    def words(self, n: int, total: int, now: float) -> str:
        if n < self._n:  # another count began
            self._start, self._expected = now, None
        self._n = n
        if self._expected is not None:
            seconds, untimed = self._expected
            more = f"{untimed} of a kind that none is timed of yet" if untimed else ""
            told = f"about {seconds:.0f} s left" if seconds and n < total else ""
            return " and ".join(part for part in (told, more) if part)
        return f"about {(now - self._start) / n * (total - n):.0f} s left" if n and total and now > self._start else ""


class _Bar(_Left):
    """Progress as a bar."""

    def __init__(self, bar: Any) -> None:
        super().__init__()
        self._bar, self._task = bar, bar.add_task("", total=None, left="")

    def __call__(self, n: int, total: int, what: str) -> None:
        left = self.words(n, total, time.monotonic())
        self._bar.update(self._task, completed=n, total=total, description=escape(what[:60]), left=left)


class _Lines(_Left):
    """Progress as a line now and then, for logs.

    Args:
        last: whether the end has a line, too.
    """

    def __init__(self, *, last: bool = True) -> None:
        super().__init__()
        self._last, self._end = self._start, last

    def __call__(self, n: int, total: int, what: str) -> None:
        now = time.monotonic()
        left = self.words(n, total, now)
        if n and ((self._end and n == total) or now - self._last > 10):
            self._last = now
            sys.stderr.write(f"{n}{f'/{total}' if total else ''}{f'  {left}' if left else ''}  {what}\n")


def members(kind: str, *, json: bool) -> None:
    """All members of a kind, which may stand in the singular."""
    kind = f"{kind}s" if f"{kind}s" in (*catalog.KINDS, "recipes") else kind
    names = recipes.names() if kind == "recipes" else catalog.names(kind)
    if kind == "recipes":
        rows = [(name, recipes.summary(name)) for name in names]
    elif kind == "plans":
        rows = [(name, _question(catalog.plan_path(name))) for name in names]
    else:
        rows = [(name, catalog.member(kind, name).card.summary) for name in names]
    if json:
        data([{"name": name, "summary": summary} | _facts(kind, name) for name, summary in rows])
    elif not sys.stdout.isatty():
        sys.stdout.write("".join(f"{name}\n" for name in names))
    elif not names:
        _out.print(f"no {kind} yet")
    else:
        table = _table("name", "what it is")
        for name, summary in rows:
            table.add_row(f"[bold]{escape(name)}[/]", escape(summary))
        _print(table)


def member(kind: str, name: str, *, json: bool) -> None:
    """All that a member declares; the kind may stand in the singular, and a model's name have arguments."""
    kind = f"{kind}s" if f"{kind}s" in catalog.KINDS else kind
    if kind == "plans":
        text = catalog.plan_path(name).read_text(encoding="utf-8")
        data(tomllib.loads(text)) if json else sys.stdout.write(text)
        return
    asked = spec.parse(name) if kind == "models" and "(" in name else spec.Spec(name)
    found = catalog.member(kind, asked.name)
    card = found.card.of(found.arguments(asked)) if asked.args else found.card
    facts: dict[str, Any] = {
        "name": name,
        "arguments": {p.name: str(p) for p in found.parameters.values()},
        **_fields(card),
    }
    facts |= _weights_here(asked.name) if kind == "models" and card.weights else {}
    if json:
        data(facts)
        return
    _out.print(f"[bold]{escape(card.title)}[/]")
    for key, value in facts.items():
        if key == "title" or value in ("", (), {}, None, []):
            continue
        lines = [str(p) for p in found.parameters.values()] if key == "arguments" else _lines(value)
        _out.print(f"  [bold]{key.replace('_', ' ')}[/]: {escape(lines[0])}")
        for line in lines[1:]:
            _out.print(f"    {escape(line)}")


def _weights_here(name: str) -> dict[str, Any]:
    """The state of a model's files on this machine, and whether its terms were accepted."""
    from segwise.weights.local import status

    own = [item for item in status() if item.model == name]
    lines = tuple(
        f"{item.file}: {item.state}{f', {item.reason}' if item.reason else ''}, "
        f"{f'{item.n_bytes:,} bytes' if item.n_bytes else 'size not stated'}, "
        f"{'digest known' if item.sha256 else 'digest not stated by a public source'}, from {item.source}"
        for item in own
    )
    terms = "not accepted on this machine: segwise weights accept " + name
    asked = {"acceptance": "accepted on this machine" if own[0].accepted else terms} if own[0].non_commercial else {}
    return {"weights_here": lines, **asked}


def cases(found: Sequence[Mapping[str, Any]], *, json: bool) -> None:
    """What a data set holds."""
    if json:
        data(list(found))
        return
    table = _table("case", "subject", "layout", "mod.", "shape", "spacing mm", "targets")
    for case in found:
        if case["error"]:
            continue
        targets = [str(target["name"]) for target in case["targets"]]
        shown = ", ".join(targets[:4]) + (f" and {len(targets) - 4} more" if len(targets) > 4 else "")
        size = ["x".join(map(str, case["shape"])), " ".join(f"{s:.3g}" for s in case["spacing_mm"])]
        table.add_row(*map(escape, (case["id"], case["subject"], case["layout"], case["modality"], *size, shown)))
    _print(table)
    for case in found:
        if case["error"]:
            _out.print(f"[red]{escape(str(case['id']))} cannot be read:[/] {escape(str(case['error']))}")
    subjects = {case.get("subject") for case in found if not case["error"]}
    _out.print(f"{len(found)} cases of {len(subjects)} subjects")


def inspections(found: Sequence[Any], *, json: bool) -> None:
    """What files hold; each item renders itself."""
    if json:
        data([item.to_json() for item in found])
        return
    for i, item in enumerate(found):
        _out.print("\n" * (i > 0) + "\n".join(map(escape, item.lines())))


def answer(found: Any, *, json: bool) -> None:
    """What `segment` made."""
    if json:
        data(found)
        return
    for warning in found.findings:
        note(warning)
    for name, voxels in found.voxels.items():
        _out.print(f"{escape(name)}: {voxels:,} voxels, {found.ml[name]:.1f} ml")
    _out.print(f"in {found.seconds:.1f} s with {escape(found.model)}")
    done("Mask", found.path)


def turn(found: Any, *, json: bool) -> None:
    """What `annotate` did and how its objects stand."""
    if json:
        data(found)
        return
    _out.print(f"{escape(found.did)}, {found.seconds:.1f} s with {escape(found.model)}")
    table = _table("object", "voxels", "ml", "rounds", "interactions", "accepted")
    for name, facts in found.targets.items():
        row = (f"{facts['voxels']:,}", f"{facts['ml']:.1f}", str(facts["rounds"]), str(facts["interactions"]))
        table.add_row(escape(name), *row, "yes" if facts["accepted"] else "")
    if found.targets:
        _print(table)
    if found.path is not None:
        done("Mask", found.path)


def preview(found: Any) -> None:
    """How many tasks a plan has on these data, what is left out and why, and on standard error what stays open."""
    cases, subjects = len({t.case for t in found.tasks}), len({t.subject for t in found.tasks})
    _out.print(f"{len(found.tasks)} tasks over {cases} cases of {subjects} subjects")
    for reason, count in found.left_out.items():
        _out.print(f"  left out: {escape(reason)}" + (f" ({count} times)" if count > 1 else ""))
    for line in found.unanswered:
        _err.print(f"[bold yellow]warning:[/] {escape(line)}")


def ranking(rows: Sequence[Mapping[str, Any]]) -> None:
    """The order of models and prompters, as the report has it."""
    if not rows:
        return
    table = _table("", "model", "prompter", "DSC", "95 % interval", "s/target", "inter-actions")
    for row in rows:
        table.add_row(
            *(escape(str(row[k])) for k in ("rank", "name", "prompter", "dsc", "interval", "seconds", "n_interactions"))
        )
    _print(table)


def weights(found: Sequence[Any], *, json: bool) -> None:
    """Weights of all models."""
    if json:
        data(found)
        return
    table = _table("model", "file", "MB", "licence", "SHA-256", "state")
    for item in found:
        size = f"{item.n_bytes / 1e6:.1f}" if item.n_bytes else "?"
        known = "known" if item.sha256 else "not stated"
        facts = (item.model, item.file, size, item.licence + _terms(item), known, item.state)
        table.add_row(*(escape(str(fact)) for fact in facts))
    _print(table)


def _terms(item: Any) -> str:
    if not item.non_commercial:
        return ""
    return " (non-commercial: accepted)" if item.accepted else " (non-commercial: not accepted)"


def pull(names: Sequence[str], *, variant: str, source: str = "", accept: bool = False) -> None:
    """Bring weights with a progress bar, and show their licence."""
    from segwise import weights as store

    for name in names:
        with progress() as tick:
            found = store.pull(
                name, variant=variant, source=source, accept_non_commercial=accept, progress=_counting(tick)
            )
        if not found.files:
            _out.print(f"[bold]{escape(name)}[/]: needs no weights")
            continue
        terms = f"{found.licence}{', not for commercial use' if found.non_commercial else ''}"
        _out.print(f"[bold]{escape(name)}[/]: {len(found.files)} files, {escape(terms)}, from {escape(found.source)}")
        for path in found.files:
            _out.print(f"  {escape(str(path))}" + ("" if path in found.fetched else " (was there)"))
        for path in found.unverified:
            note(
                f"{path.name}: no public source states its SHA-256 ({store.digest(path)}), so its results are "
                f"shown and not ranked. If you can vouch for it: segwise weights import --trust {path}"
            )


def imported(found: Sequence[Any], *, accept: bool) -> None:
    """What was taken in, how to use it, and what it may be used for."""
    from segwise import weights as store

    for taken in found:
        _out.print(f"[bold]{escape(taken.model)}[/]: {escape(str(taken.path))} ({escape(taken.licence)})")
        _out.print(f"  use it as: {escape(taken.spec)}{f' ({escape(taken.variant)})' if taken.variant else ''}")
        if taken.change:
            note(f"  changed, as the model does not load it as it is: {taken.change}")
        if not (taken.known or taken.trusted):
            note(
                "  unknown weights: its SHA-256 stands on no card, so its results are shown and not ranked. If you can "
                "vouch for it, import it with --trust"
            )
        if taken.non_commercial and accept:
            done("  noted", store.accept(taken.model))
        elif taken.non_commercial and not store.accepted(taken.model):
            note(f"  for non-commercial use only; if yours is, type: segwise weights accept {taken.model}")


def verified(found: Sequence[Any], *, json: bool) -> None:
    """Every file that is here, one line each."""
    if json:
        data(found)
        return
    for item in found:
        said = f": {item.reason}" if item.reason else ""
        colour = "red" if item.state == "damaged" else "green" if item.state == "right" else "yellow"
        _out.print(f"[{colour}]{item.state}[/] {escape(item.model)} {escape(item.file)}{escape(said)}")
    if not found:
        _out.print("no weights are here; see: segwise weights list")


def packed(found: Sequence[Any]) -> None:
    """What went into an archive."""
    for item in found:
        terms = f"{item.licence}{', non-commercial' if item.non_commercial else ''}"
        _out.print(f"{escape(item.model)} {escape(item.file)}: {item.n_bytes:,} bytes, {item.state}, {escape(terms)}")


def _counting(tick: Tick) -> Callable[[str, int, int], None]:
    return lambda file, n, total: tick(n, total or n + 1, file)  # 0: nobody says how large it is


def try_pull(name: str) -> None:
    """Bring weights if they can be had; say so where not."""
    try:
        pull([name], variant="")
    except SegwiseError as error_:
        note(f"{name}'s weights could not be brought, the demonstration goes on without them: {error_}")


def _table(*headings: str) -> Table:
    """A plain table that wraps what does not fit and shortens nothing."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _print(table: Table) -> None:
    """In the width of the terminal; as wide as it needs where it is piped."""
    piped = not sys.stdout.isatty()
    Console(highlight=False, width=_PIPED_WIDTH if piped else None).print(table)


def _facts(kind: str, name: str) -> dict[str, Any]:
    if kind in ("plans", "recipes"):
        return {}
    found = catalog.member(kind, name)
    return {"arguments": {p.name: str(p) for p in found.parameters.values()}, **_fields(found.card)}


def _fields(card: Any) -> dict[str, Any]:
    return {field.name: getattr(card, field.name) for field in dataclasses.fields(card)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _fields(value)
    return str(value)


def _lines(value: Any) -> list[str]:
    """Sentences and records one a line, names on one."""
    parts = list(value) if isinstance(value, tuple | list) else [value]
    if isinstance(value, Mapping) and all(map(dataclasses.is_dataclass, value.values())):
        parts = [{key: inner} for key, inner in value.items()]
    long = any(not isinstance(part, str) or " " in part for part in parts)
    return [_written(part) for part in parts] if long else [_written(value)]


def _written(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_written(inner)}" for key, inner in value.items())
    if isinstance(value, tuple | list):
        return ", ".join(map(_written, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _written({k: v for k, v in _fields(value).items() if v not in ("", None)})
    return str(value)


def _question(path: Path) -> str:
    import tomllib

    return str(tomllib.loads(path.read_text(encoding="utf-8")).get("question", ""))
