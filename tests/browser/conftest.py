"""A running installation and a page that is signed in to it by its link."""

import pytest
from playwright.sync_api import expect

from tests.fleet.simulator_fixture import SimulatorProcess
from tests.system.conftest import Installation

HARMLESS = (
    "favicon",
    "status of 422",  # a form that is sent back: Chromium logs it
    "htmx:sendAbort",  # a question that gave way to a newer one, as hx-sync has it
    "htmx:afterRequest",  # logged before every failure; the message after it says which
)

# A wait for what must come, on two cores that draw several browsers. What must come soon says how soon.
expect.set_options(timeout=30_000)


@pytest.fixture(scope="module")
def daemon():
    process = SimulatorProcess().start("--vram-gb", "60")
    yield process
    process.stop()


@pytest.fixture(scope="module")
def site(daemon):
    installation = Installation(daemon)
    installation.up()
    yield installation
    installation.stop()


def enter(site, page) -> None:
    """To the board: by the one-time link, then with the session that it gave. A link costs a process."""
    if site.cookies:
        page.context.add_cookies(site.cookies)
        page.goto(site.url)
    else:
        page.goto(site.run("sign-in-link", "--url", site.url).stdout.strip())
        site.cookies = page.context.cookies()


@pytest.fixture
def signed_in(site, page):
    """A page on the board. Fails the test on errors in the browser's console."""
    errors = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    enter(site, page)
    yield page
    assert not [error for error in errors if not any(word in error for word in HARMLESS)], errors
