"""Kinds of case that a mean hides: small and large structures, thick slices, scanners, rare anatomy."""

from __future__ import annotations

from collections.abc import Mapping

from segwise.report.outcome import Outcome

SMALL_ML, LARGE_ML = 5.0, 100.0
THIN_MM, THICK_MM = 1.5, 3.5


def kinds(outcome: Outcome) -> tuple[str, ...]:
    """Size, slice thickness, scanner and anatomy of a target, as the records tell; "" for what they do not tell.

    Anatomy comes twice: rare or usual, and what is rare.
    """
    told = outcome.last.provenance
    facts = told.get("facts")
    facts = facts if isinstance(facts, Mapping) else {}
    scanner, rare = str(facts.get("scanner") or ""), str(facts.get("anatomy") or "")
    return (
        _size(told.get("reference_ml")),
        _spacing(told.get("spacing_mm")),
        f"scanner {scanner}" if scanner else "",
        *_anatomy(rare),
    )


def _anatomy(told: str) -> tuple[str, str]:
    """ "usual" must be told as well: where nothing is said nobody looked."""
    if told in ("", "usual"):
        return told and "usual anatomy", ""
    return "rare anatomy", f"rare anatomy: {told}"


def _size(ml: object) -> str:
    if not isinstance(ml, int | float) or ml <= 0:
        return ""
    if ml < SMALL_ML:
        return f"small, below {SMALL_ML:g} ml"
    return f"large, above {LARGE_ML:g} ml" if ml > LARGE_ML else f"middle, {SMALL_ML:g} to {LARGE_ML:g} ml"


def _spacing(spacing: object) -> str:
    if not isinstance(spacing, list | tuple) or not spacing:
        return ""
    widest = max(float(v) for v in spacing)
    if widest <= THIN_MM:
        return f"voxels up to {THIN_MM:g} mm"
    return f"slices above {THICK_MM:g} mm" if widest > THICK_MM else f"voxels of {THIN_MM:g} to {THICK_MM:g} mm"
