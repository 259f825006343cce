"""A real browser: the system's Chromium, driven by Playwright. Without one, tests are skipped.

`TASKQ_CHROMIUM` names another program. `TASKQ_NEEDS_BROWSER=1` makes a missing browser an
error: a run that is meant to have one must not pass without it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from tests.dashboard import fill, served

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip


# the environment is read before the fixture that clears it for each test
_CHOSEN = os.environ.get("TASKQ_CHROMIUM", "")
_NEEDED = os.environ.get("TASKQ_NEEDS_BROWSER") == "1"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser without a window and without a profile.

    For one module: Playwright keeps an event loop running in this thread, where coroutines of
    other tests could not run then.
    """
    program = _CHOSEN or next((found for name in NAMES if (found := shutil.which(name))), "")
    missing = "no Chromium (apt-get install chromium, or TASKQ_CHROMIUM=/path/to/it)"
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        program, missing = "", "no playwright (pip install playwright)"
    if not program:
        pytest.fail(missing) if _NEEDED else pytest.skip(missing)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as home:
        # its own folder for everything that it writes
        browser = playwright.chromium.launch(
            executable_path=program, args=list(ARGUMENTS), env={**os.environ, "HOME": home}
        )
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    """A page of its own; anything that it complains about fails the test."""
    context = chromium.new_context(viewport={"width": 1360, "height": 900}, color_scheme="light")
    made = context.new_page()
    said: list[str] = []

    def listen(one: Any) -> None:
        # a status of 404 and a server that ends are the tests' own doing
        if one.type == "error" and "Failed to load resource" not in one.text:
            said.append(one.text)

    made.on("console", listen)
    made.on("pageerror", lambda error: said.append(str(error)))
    made.complaints = said
    yield made
    context.close()
    assert said == []


@pytest.fixture(scope="module")
def dashboard(_server: Any) -> Iterator[str]:
    """One dashboard for the module, on the server that each of them finds empty; its address."""
    with served(_server.url, "--refresh", "0.3") as root:
        yield root


@pytest.fixture
def shop(dashboard: str, redis_client: Any) -> str:
    """The address of a dashboard that shows jobs of all kinds."""
    fill(redis_client)
    return dashboard
