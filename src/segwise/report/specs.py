"""Specs as records hold them, read again: one that this Segwise cannot read is a name without arguments."""

from __future__ import annotations

from segwise import catalog
from segwise.errors import CatalogError
from segwise.spec import Spec, parse


def parsed(text: str) -> Spec:
    """The spec of a model or prompter."""
    try:
        return parse(text)
    except CatalogError:
        return Spec(text)


def gives(prompter: str) -> frozenset[str]:
    """Kinds of mark that a prompter makes, empty for one that is not here."""
    spec = parsed(prompter)
    try:
        return frozenset(kind for part in (spec.base, *spec.plus) for kind in catalog.card("prompters", part).gives)
    except CatalogError:
        return frozenset()
