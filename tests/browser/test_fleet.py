"""The fleet as its keeper uses it: find the LM Studio of this machine, add it, test it, start it, watch it, stop it."""

import pytest
from playwright.sync_api import expect

from tests.browser.looks import check
from tests.conftest import wait_for
from tests.fleet.fake_lms_fixture import FakeLMStudio
from tests.fleet.simulator_fixture import SimulatorProcess
from tests.system.conftest import Installation

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    made = FakeLMStudio(tmp_path_factory.mktemp("studio"))
    yield made
    made.stop()


@pytest.fixture(scope="module")
def site(daemon, studio):
    """An installation on the machine of that LM Studio."""
    installation = Installation(daemon)
    installation.environment["HOME"] = str(studio.home)
    installation.up()
    yield installation
    installation.stop()


def test_it_is_found_added_tested_started_watched_and_stopped(signed_in, site, studio):
    page = signed_in
    page.goto(f"{site.url}/nodes/")
    page.get_by_role("link", name="Add a node").click()

    # Found and added.
    offer = page.locator("#offers")
    expect(offer).to_contain_text("LM Studio on this machine")
    expect(offer).to_contain_text("its server is down")
    check(page)
    offer.get_by_role("button", name="Add it").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("LM Studio on this machine")

    # Tested: it does not answer, and the page says what to do.
    state = page.locator("#node-state")
    page.get_by_role("button", name="Test now").click()
    expect(state).to_contain_text("offline")
    expect(state).to_contain_text("its server is not running")
    check(page)

    # Started, with its output.
    studio.configure(slow={"server start": 4.0})
    state.get_by_role("button", name="Start the server").first.click()
    expect(page.locator("#command-now")).to_contain_text("Start the server")
    expect(state).to_contain_text("online")
    page.locator("#node-history > summary").click()
    expect(page.locator("#node-history")).to_contain_text("Success! Server is now running")
    assert studio.state()["server"]

    # Watched: its graphs grow, its models are there.
    expect(page.locator("#node-panels")).to_contain_text("simulated/otter-8b")
    latency = page.locator("figure[data-graph=latency]")
    expect(latency.locator("canvas")).to_be_visible(timeout=10_000)
    before = page.locator("#sample").get_attribute("data-sample")
    expect(page.locator("#sample")).not_to_have_attribute("data-sample", before)
    check(page)

    # A plan, and a load as it says.
    page.locator("#layout-model").select_option("simulated/otter-8b")  # which the page did not have when it came
    page.locator("#layout-plan").click()
    expect(page.locator("#node-plan")).to_contain_text("Needs")
    page.locator("#layout-load").click()
    expect(page.locator("#node-plan")).to_contain_text("After the load")
    expect(page.locator("#node-panels")).to_contain_text("loaded")

    # A press outlasts a swap of what is pressed, and a double click asks like a single one.
    button = page.locator("#button-server_restart")
    button.hover()
    page.mouse.down()
    page.evaluate("() => { const s = document.getElementById('node-state'); s.replaceWith(s.cloneNode(true)); }")
    page.mouse.up()
    page.get_by_role("dialog").get_by_role("button", name="Leave it").click()
    button.dblclick()
    page.get_by_role("dialog").get_by_role("button", name="Leave it").click()

    # Stopped.
    page.get_by_role("button", name="Stop the server").click()
    page.get_by_role("dialog").get_by_role("button", name="Stop it").click()
    expect(state).to_contain_text("offline")
    wait_for(lambda: not studio.state()["server"])

    # On the overview too.
    page.goto(f"{site.url}/nodes/")
    card = page.get_by_role("article", name="LM Studio on this machine")
    expect(card).to_contain_text("offline")
    check(page)


def test_it_tests_an_address_without_adding_it(signed_in, site):
    page = signed_in
    other = SimulatorProcess().start()
    page.goto(f"{site.url}/nodes/add/")
    page.get_by_label("Name").fill("only looking")
    page.get_by_label("Address", exact=True).fill("http://127.0.0.1:9")
    page.get_by_role("button", name="Test only").click()
    expect(page.locator("#form-errors")).to_contain_text("Nothing answers at the node's address")
    check(page)
    page.get_by_label("Address", exact=True).fill(other.url)
    page.get_by_role("button", name="Test only").click()
    expect(page.get_by_text("It answers, as LM Studio, but a simulated one. Nothing is saved yet.")).to_be_visible()
    page.goto(f"{site.url}/nodes/")
    expect(page.locator("#nodes")).not_to_contain_text("only looking")
    other.stop()
