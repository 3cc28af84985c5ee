"""A real browser for tests: headless Chromium, driven by Playwright, that may reach nothing but what a test serves.

Chromium is Debian's package. Where it is missing these tests are skipped and say so; with `MURA_BROWSER=required`,
as in continuous integration, they fail instead.
"""

import os
import shutil
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Without these the browser itself looks for updates and accounts, which would hide a request of ours.
FLAGS = ("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync",
         "--disable-component-update", "--disable-default-apps")  # fmt: skip
WIDE, PHONE = dict(width=1400, height=900), dict(width=390, height=844)
NARROWEST = dict(width=360, height=740)


@pytest.fixture(scope="module")  # not longer: Playwright keeps an event loop running, which notebooks could not bear
def chromium():
    "One browser for the tests of a file."
    found = os.environ.get("MURA_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        why = "no Chromium here: install Debian's package chromium (or set MURA_CHROMIUM) to run the browser tests"
        (pytest.fail if os.environ.get("MURA_BROWSER") == "required" else pytest.skip)(why)
    flags = [*FLAGS, *(["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else [])]
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=found, args=flags)
        yield browser
        browser.close()


class Watched:
    "A page, and what it said and asked for: `problems` (console and uncaught errors) and `requests` (addresses)."

    def __init__(self, browser, viewport=WIDE, theme="light", **kwargs):
        self.context = browser.new_context(viewport=viewport, color_scheme=theme, reduced_motion="reduce", **kwargs)
        self.page, self.problems, self.requests = self.context.new_page(), [], []
        self.page.on("console", lambda m: self.problems.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda e: self.problems.append(str(e)))
        self.page.on("request", lambda r: self.requests.append(r.url))

    def overflow(self) -> int:
        "How many pixels the document is wider than its window."
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")

    def violations(self) -> list[str]:
        "What axe-core finds against the WCAG 2 (A and AA) in the page as it stands."
        options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}
        found = Axe().run(self.page, options=options).response["violations"]
        return [f"{v['id']}: {v['help']} ({n['target']})" for v in found for n in v["nodes"]]

    def photograph(self, file: Path, whole: bool = True) -> bytes:
        "The page as a PNG file."
        return self.page.screenshot(path=file, full_page=whole)


@pytest.fixture
def watch(chromium):
    "`watch(viewport, theme)` opens a watched page; it is closed with the test."
    opened = []

    def open_page(viewport=WIDE, theme="light", **kwargs):
        opened.append(Watched(chromium, viewport, theme, **kwargs))
        return opened[-1]

    yield open_page
    for each in opened:
        each.context.close()
