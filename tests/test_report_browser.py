"""The report in headless Chromium: nothing is fetched, nothing fails, tables sort when a head is clicked."""

from __future__ import annotations

import base64
import hashlib
import html
import re
import shutil
import subprocess

import pytest

from report_fakes import join, outcome
from segwise.report import page

BROWSER = next((found for name in ("chromium", "google-chrome", "chrome") if (found := shutil.which(name))), None)
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
QUIET += ("--disable-component-update", "--disable-sync", "--disable-quic")

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here to open the report in")


def shown(tmp_path, text, script, *more):
    """What a script in the page makes of it after the page's own script: with its errors, through the page's title."""
    watch = "window.wrong = []; addEventListener('error', (e) => wrong.push(e.message || e.target.src), true);"
    told = f"document.title = JSON.stringify([wrong, (() => {{ {script} }})()]);"
    allowed = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in (watch, told)]
    policy = "script-src " + "".join(f"'sha256-{one}' " for one in allowed)
    assert text.count("script-src ") == 1  # the page allows its own script only
    text = text.replace("script-src ", policy).replace("<title>", f"<script>{watch}</script><title>", 1)
    file = tmp_path / "report.html"
    file.write_text(text.replace("</body>", f"<script>{told}</script></body>"), encoding="utf-8")
    words = [BROWSER, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", *more, "--dump-dom", file.as_uri()]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    return html.unescape(re.search(r"<title>(.*?)</title>", ended.stdout, re.DOTALL)[1])


def run_of_three():
    values = {"general": 0.8, "special": 0.7, "floor": 0.6}
    people = [f"p{i}" for i in range(7)]
    return join(*(outcome(m, "box2d", case=p, subject=p, dsc=(v + 0.001 * i,)) for m, v in values.items()
                  for i, p in enumerate(people)))  # fmt: skip


def test_nothing_fails_and_nothing_is_fetched(tmp_path):
    script = "return performance.getEntriesByType('resource').map((one) => one.name);"
    assert shown(tmp_path, page(*run_of_three()), script) == "[[],[]]"


def test_a_click_on_a_head_sorts_the_table(tmp_path):
    script = """
        const table = document.querySelector('section#ranking table');
        const names = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent.match(/[a-z]+/)[0]);
        const heads = [...table.tHead.rows[0].cells], found = [names()];
        const dsc = heads.find((one) => one.textContent.startsWith('DSC'));
        dsc.click(); found.push(names(), dsc.getAttribute('aria-sort'));
        dsc.click(); found.push(names(), dsc.getAttribute('aria-sort'));
        return found;
    """
    down, up = '["general","special","floor"]', '["floor","special","general"]'
    assert shown(tmp_path, page(*run_of_three()), script) == f'[[],[{down},{down},"descending",{up},"ascending"]]'


def test_a_page_as_wide_as_a_phone_does_not_scroll_sideways(tmp_path):
    script = "return document.documentElement.scrollWidth <= document.documentElement.clientWidth;"
    assert shown(tmp_path, page(*run_of_three()), script, "--window-size=500,900") == "[[],true]"
