"""A running installation and a page that is signed in to it by its link."""

import pytest

from tests.fleet.simulator_fixture import SimulatorProcess
from tests.system.conftest import Installation


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


@pytest.fixture
def signed_in(site, page):
    """A page on the board, after the one-time link. Fails the test on errors in the browser's console."""
    errors = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(site.run("sign-in-link", "--url", site.url).stdout.strip())
    yield page
    # A form that is sent back is answered with 422, which Chromium logs.
    assert not [error for error in errors if "favicon" not in error and "status of 422" not in error], errors
