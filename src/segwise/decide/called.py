"""Which models of a run a user means by a name, and what is said where it is none of them."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Sequence
from pathlib import Path

from segwise.errors import SpecError
from segwise.spec import parse

SHOWN = 6  # models that a message names
APART = " · "  # between the model and the prompter of a label
BETWEEN = "; "  # names, which have commas themselves


def places(models: Sequence[tuple[str, ...]], wanted: str, option: str) -> list[int]:
    """Where a name fits: a spec, its bare name, a label with or without its prompter, or a model's folder.

    Args:
        models: (spec, label) of each arm; after them the specs of the models that it was put together of.
        wanted: what the user wrote.
        option: which says it, for the message.

    Raises:
        SpecError: it fits nowhere; the nearest models come first in the message.
    """
    found = [i for i, (spec, label, *parts) in enumerate(models) if wanted in (*_names(spec, label), *parts)]
    if not found and Path(wanted).is_dir():
        folder = Path(wanted).resolve()
        found = [i for i, (spec, _, *parts) in enumerate(models) if folder in _folders(spec, *parts)]
    if found:
        return found
    there = sorted({label.split(APART)[0] for _, label, *_ in models})
    near = difflib.get_close_matches(wanted, there, n=len(there), cutoff=0.4)
    first = list(dict.fromkeys([*near, *there]))[:SHOWN]
    more = f" and {len(there) - SHOWN} more, which its report names" if len(there) > SHOWN else ""
    raise SpecError(f'--{option} "{wanted}": no such model in this run; there are {BETWEEN.join(first)}{more}')


def one(models: Sequence[tuple[str, ...]], wanted: str, option: str) -> list[int]:
    """`places` of a name that must mean one model, whatever it was asked with.

    Raises:
        SpecError: as `places`, or it fits several models.
    """
    found = places(models, wanted, option)
    exact = [i for i in found if wanted in (models[i][0], *_names(*models[i][:2])[1:3])]
    found = exact or found
    names = sorted({models[i][1].split(APART, maxsplit=1)[0] for i in found})
    if len(names) > 1:
        some = BETWEEN.join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
        raise SpecError(f'--{option} "{wanted}" fits {len(names)} models of this run: {some}; name one of them')
    return found


def _names(spec: str, label: str) -> tuple[str, ...]:
    model = label.split(APART, maxsplit=1)[0]
    return spec, label, model, model.split(", ", maxsplit=1)[0], spec.split("(", maxsplit=1)[0]


def _folders(*specs: str) -> list[Path]:
    values = []
    for spec in specs:
        with contextlib.suppress(SpecError):
            parsed = parse(spec)
            values += [value for part in (parsed.base, *parsed.plus) for value in part.args.values()]
    return [Path(value).resolve() for value in values if isinstance(value, str)]
