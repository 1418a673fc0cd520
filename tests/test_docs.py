"""The docs: generated tables are fresh, every command and member has its place, links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from segwise import catalog

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_generated_pages_are_fresh():
    result = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("kind", [kind for kind in catalog.KINDS if kind != "plans"])
def test_every_member_is_in_the_reference(kind):
    page = (ROOT / "docs" / "reference" / f"{kind}.md").read_text(encoding="utf-8")
    for name in catalog.names(kind):
        assert f"## {name}\n" in page


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_every_command_in_the_docs_exists():
    from typer.main import get_command

    from segwise.cli.app import app

    known = set(get_command(app).commands)
    for page in PAGES:
        for command in re.findall(r"^segwise ([a-z]+)", page.read_text(encoding="utf-8"), re.M):
            assert command in known, f"{page.name}: segwise {command}"
