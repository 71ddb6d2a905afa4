"""The installed Chromium without a window, for tests and pictures. Playwright speaks to it."""

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MACOS = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
MISSING = "no Chromium or Chrome on the PATH: `apt-get install chromium` brings one"


def find() -> str | None:
    """The program, if there is one."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    return found or (MACOS if Path(MACOS).exists() else None)


@contextlib.contextmanager
def tab(program: str) -> Iterator[Page]:
    """An empty page of a browser of its own."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        yield browser.new_page(viewport={"width": 1280, "height": 900})
        browser.close()


def until(tab: Page, expression: str) -> None:
    """Wait until it is true: `wait_for_function` needs an eval, which the viewer's page forbids."""
    end = time.monotonic() + 20
    while not tab.evaluate(expression):
        assert time.monotonic() < end, f"never came true: {expression}"
        time.sleep(0.05)
