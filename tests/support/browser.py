"""A real browser, driven by playwright: Chromium as the system has it, none is downloaded."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TIMEOUT = 60_000
"""Milliseconds; a busy machine is no failure."""


@contextmanager
def chromium() -> Iterator[Any]:
    """The browser. Skips the test where there is none, or nothing to drive it."""
    named = os.environ.get("CHROMIUM")
    path = named or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no Chromium here: install Debian's chromium, or name one in CHROMIUM")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as driver:
        # no sandbox: containers, in which tests run, have no namespaces for it
        options = {"args": ["--no-sandbox", "--disable-gpu"], "timeout": TIMEOUT}
        browser = driver.chromium.launch(executable_path=path, **options)
        try:
            yield browser
        finally:
            browser.close()


def until(page: Any, function: str, *arguments: Any) -> None:
    """Returns once a function of the page is true. `wait_for_function` of playwright evaluates
    texts in the page, which the page forbids.
    """
    end = time.monotonic() + TIMEOUT / 1000
    while not page.evaluate(function, list(arguments)):
        assert time.monotonic() < end, f"{function} of {arguments} has not become true"
        page.wait_for_timeout(20)
