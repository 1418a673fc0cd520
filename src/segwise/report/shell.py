"""What every page of Segwise is wrapped in: one HTML file that opens offline and loads nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources

from segwise.report.markup import e, section

RESEARCH = "Written by Segwise from the records of a run. Not a medical device; not for clinical decisions."


def head(title: str) -> str:
    """From the doctype to the end of the head: style, and a policy that lets nothing be loaded."""
    script = base64.b64encode(hashlib.sha256(_file("sort.js").encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{script}'"
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>Segwise: {e(title)}</title><style>{_file('style.css')}</style></head>"
    )


def whole(title: str, header: str, parts: Sequence[tuple[str, str, str]], *, foot: str = RESEARCH) -> str:
    """A page.

    Args:
        title: of the window, plain text.
        header: HTML above the sections.
        parts: (anchor, title, HTML) of each section; empty ones are left out.
        foot: HTML of the last line.
    """
    links = "".join(f'<a href="#{anchor}">{name}</a>' for anchor, name, body in parts if body)
    body = "".join(section(anchor, name, content) for anchor, name, content in parts)
    return (
        f"{head(title)}<body><header>{header}</header>"
        f"<nav aria-label='Sections'><div>{links}</div></nav>"
        f"<main>{body}</main><footer>{foot}</footer><script>{_file('sort.js')}</script></body></html>\n"
    )


def answer(headline: str, paragraphs: Sequence[str], *, decided: bool = True, scope: str = "") -> str:
    """The box that a page begins with: a headline and a few sentences (HTML)."""
    body = "".join(f"<p>{text}</p>" for text in paragraphs if text)
    small = f'<p class="scope">{scope}</p>' if scope else ""
    kind = "answer" if decided else "answer open"
    return f'<div class="{kind}"><p class="head">{headline}</p>{body}{small}</div>'


def _file(name: str) -> str:
    return resources.files("segwise.report").joinpath(name).read_text(encoding="utf-8")
