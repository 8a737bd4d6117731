"""A client's own pages in a real browser: what a person sees while the server is gone, and when it is back."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser.looks import problems_of
from tests.conftest import wait_for
from tests.fleet.simulator_fixture import INSTANT
from tests.system.client_fixture import Client
from tests.system.conftest import OTTER

pytestmark = pytest.mark.browser
LOOKS = [(theme, width) for theme in ("dark", "light") for width in (1280, 320)]
SOON = 60_000  # ms: what crosses the network, on a machine that is busy


@pytest.fixture(scope="module")
def client(daemon, site):
    daemon.control("models/*", INSTANT)
    made = Client(site, is_prepared=True)
    made.start(made.code())
    wait_for(lambda: made.rows("SELECT count(*) FROM queue_remotemodel") != [(0,)], step=0.1)
    yield made
    made.stop()


@pytest.fixture
def signed_in(client, page):
    """A page on the client's board. Fails the test on errors in the browser's console."""
    errors = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(client.run("sign-in-link", "--url", client.url).stdout.strip())
    yield page
    assert not [error for error in errors if "favicon" not in error], errors


def test_a_prompt_that_is_written_while_the_server_is_gone_is_answered_on_its_page(site, client, signed_in):
    page = signed_in
    line = page.locator("#server-state")
    expect(line).to_contain_text("server online", timeout=SOON)
    site.kill()
    expect(line).to_contain_text(re.compile(r"server gone.*cannot be reached since"), timeout=SOON)
    expect(page.locator("#announcer")).to_have_text("The server is gone.")

    page.goto(f"{client.url}/prompts/new/")
    page.get_by_label("Model").select_option(OTTER)
    page.get_by_label("Prompt", exact=True).fill("Why do otters hold hands?")
    problems = problems_of(page, "compose", LOOKS)
    page.get_by_role("button", name="Queue it", exact=True).click()
    expect(page.get_by_text("It waits here.")).to_be_visible()
    expect(line).to_contain_text("1 waits here")
    problems += problems_of(page, "prompt that waits", LOOKS)
    prompt_page = page.url

    page.evaluate("window.isSamePage = true")
    site.up()
    expect(page.locator(".meta-line")).to_contain_text("done", timeout=SOON)
    expect(line).to_contain_text("server online")
    expect(line).not_to_contain_text("here")
    assert page.evaluate("window.isSamePage"), "the page was loaded again"
    answer = page.locator("#answer-source").input_value()
    assert answer.strip() == site.history()[0]["answer"].strip()
    problems += problems_of(page, "prompt that is done")

    page.get_by_role("link", name="History").first.click()
    expect(page.get_by_role("link", name="Why do otters hold hands?")).to_be_visible()
    problems += problems_of(page, "history", LOOKS)
    page.get_by_role("link", name="Board").first.click()
    expect(page.get_by_role("heading", name=OTTER)).to_be_visible()
    problems += problems_of(page, "board", LOOKS)
    assert page.url != prompt_page
    assert not problems, "\n".join(problems)
