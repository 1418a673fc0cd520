"""Writes docs/reference/flops.md: what each published net computes, counted in one way for all.

python docs/flops.py            write (make flops); takes a minute, so it is no part of generate.py
python docs/flops.py --check    exit 1 if anything would change (a slow test runs this)
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from segwise import catalog
from segwise.nets.flops import Published, counted, parameters

PAGE = Path(__file__).parent / "reference" / "flops.md"
LEAD = """# What each net computes

GFLOPs of the published sizes, measured and not copied: torch's own counter runs every net on the meta device at its
published input (`segwise.nets.flops`). One multiply-add is two FLOPs; convolutions and matrix products are counted,
norms, activations and resizing are not. An encoder runs once for each slice, patch or volume named under *per*; a
decoder (or what stands under *other parts*) once more for every prompt or structure. Input sizes are channels ×
(slices ×) rows × columns. Published figures stand as their authors give them (many call one multiply-add one FLOP, so
that theirs are half of ours): "survey" is the database of arXiv 2506.10825, which does not say how it counted nor
always which size it means; blank where none is known.

Written by `make flops`.

| model | size | input | per | parameters (M) | encoder | decoder | other parts | published |
|---|---|---|---|---:|---:|---:|---|---|
"""
FIGURES = {  # (model, how the size's label begins) -> what is published, and where
    ("ma-sam", ""): "783.4 GFLOPs, 638.3 M (survey)",
    ("med-sa", ""): "363 M (survey)",
    ("mednext", "MedNeXt-S"): "130 GFLOPs, 5.6 M (its README)",
    ("mednext", "MedNeXt-L"): "500 GFLOPs, 61.8 M (its README)",
    ("medsam", ""): "82 GFLOPs, 93.7 M (survey)",
    ("medsam2", ""): "38.9 M (survey)",
    (
        "nnunet",
        "3d_fullres",
    ): "539.7 GFLOPs, 31.2 M (survey); 476.58 GFLOPs, 30.71 M on its Synapse patch (arXiv 2404.05102)",
    ("nnunet", "3d_fullres, ResEnc L"): "102 M (Touchstone 1.0)",
    ("pcnet", ""): "441.54 M (survey)",
    ("sam", "size=h"): "373 GFLOPs, 636 M (survey)",
    ("sam-med2d", ""): "271 M (survey)",
    ("sam-med3d", ""): "101 M (survey)",
    ("sam2", "size=tiny"): "38.9 M (its README)",
    ("sam2", "size=small"): "46 M (its README)",
    ("sam2", "size=base-plus"): "80.8 M (its README)",
    ("sam2", "size=large"): "224.4 M (its README)",
    ("samed", ""): "18.81 M trained (survey)",
    ("sat", "variant=pro"): "447 M (survey)",
    ("segvol", ""): "181 M (survey; Touchstone 1.0)",
    ("universal", ""): "350 GFLOPs, 62.25 M (survey)",
}


def main() -> int:
    text = page()
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    if "--check" in sys.argv:
        print(f"{PAGE.name} is not what `make flops` writes")
        return 1
    PAGE.write_text(text, encoding="utf-8")
    print(f"wrote {PAGE.name}")
    return 0


def page() -> str:
    """The page, counted anew."""
    return LEAD + "\n".join(row(name, size) for name, size in sizes()) + "\n"


def sizes() -> Iterator[tuple[str, Published]]:
    """Every published size of every model with a net."""
    for name in catalog.names("models"):
        module = catalog.member("models", name).load()
        for size in getattr(module, "published", list)():
            yield name, size


def row(name: str, size: Published) -> str:
    gflops = {stage: counted(call) / 1e9 for stage, call in size.stages.items()}
    cells = [f"`{name}`", size.label, size.input, size.per, number(parameters(size.net) / 1e6)]
    return "| " + " | ".join([*cells, *spread(gflops), size.figure or figure(name, size.label)]) + " |"


def figure(name: str, label: str) -> str:
    """What is published of a size: of the longest fitting beginning of its label."""
    fitting = [begin for model, begin in FIGURES if model == name and label.startswith(begin)]
    return FIGURES[name, max(fitting, key=len)] if fitting else ""


def spread(gflops: Mapping[str, float]) -> tuple[str, str, str]:
    """(encoder, decoder, the rest with their names)."""
    encoder, decoder = (next((s for s in gflops if s.startswith(part)), "") for part in ("encoder", "decoder"))
    rest = [f"{stage} {number(value)}" for stage, value in gflops.items() if stage not in (encoder, decoder)]
    own = [number(gflops[stage]) if stage else "" for stage in (encoder, decoder)]
    return own[0], own[1], "; ".join(rest)


def number(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
