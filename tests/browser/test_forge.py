"""Models as their keeper uses them: judge a load while typing, load, watch the idle time run out, eject."""

import re
import sqlite3

import pytest
from playwright.sync_api import expect

from tests.browser.looks import check
from tests.fleet.simulator_fixture import SimulatorProcess
from tests.system.conftest import HERON, OTTER, Installation

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def daemon():
    process = SimulatorProcess().start("--vram-gb", "12", "--gpus", "2")
    yield process
    process.stop()


@pytest.fixture(scope="module")
def site(daemon):
    """An installation that knows that its node is simulated, and so reads the simulated cards."""
    installation = Installation(daemon)
    with sqlite3.connect(installation.data_dir / "daemonpulse.sqlite3") as database:
        database.execute("UPDATE fleet_node SET is_simulated = 1")
    installation.up()
    yield installation
    installation.stop()


def answer_after(route, seen) -> None:
    answer = route.fetch()
    seen()
    route.fulfill(response=answer)


def test_it_is_judged_loaded_watched_and_ejected(signed_in, site, daemon):
    page = signed_in
    page.goto(f"{site.url}/nodes/")
    page.get_by_role("link", name="Models", exact=True).first.click()
    page.get_by_role("link", name="Otter 8B (simulated)").click()

    # Judged while somebody types.
    fit, context = page.locator("#fit"), page.get_by_label("Context", exact=True)
    expect(fit.locator(".chip")).to_have_text("fits")
    expect(page.locator("#estimate")).to_contain_text("does not see memory that other programs hold")
    context.fill("131072")
    expect(fit.locator(".chip")).to_have_text("does not fit")
    expect(fit.get_by_role("button", name="Load anyway")).to_be_visible()
    fit.locator("#fill-context").click()
    expect(fit.locator(".chip")).not_to_have_text("does not fit")
    assert 4096 < int(context.input_value()) < 131072
    context.fill("0")
    expect(fit).to_contain_text("Context: Ensure this value is greater than or equal to 1.")
    context.fill("4096")
    expect(fit.locator(".chip")).to_have_text("fits")

    # Its progress is shown. The load lasts until that was seen, and is called off then.
    daemon.control(f"models/{OTTER}", {"load_seconds": 30})
    page.get_by_label("Idle time").fill("1")
    page.get_by_role("button", name="Load", exact=True).click()
    expect(page.locator("#load-now-title")).to_be_focused()
    expect(page.locator("#load-now progress[value]")).to_be_visible()
    expect(page.locator("#load-now-label")).to_contain_text("%")
    daemon.control(f"models/{OTTER}", {"load_seconds": 1})
    page.locator("#load-now").get_by_role("button", name="Cancel").click()
    expect(page.locator("#load-last")).to_contain_text("called off")

    # Loaded; what was typed stays.
    page.get_by_role("button", name="Load", exact=True).click()
    copies = page.locator("#model-copies")
    expect(copies).to_contain_text("by hand")
    expect(copies).to_contain_text("4,096 tokens")
    expect(copies).to_contain_text("measured")
    expect(context).to_have_value("4096")
    expect(fit).to_contain_text("Learned from 1 load")  # looked at again without a key press

    # Its idle time, a minute, runs; with a shorter one it is over soon.
    expect(copies.locator("time[data-until]")).to_have_text(re.compile(r"^in (\d+ s|1 min 00 s)$"))
    page.get_by_label("Unload it when it was idle for").fill("0.05")
    page.locator("#stay-save").click()
    expect(copies).to_contain_text("None.")
    assert daemon.state()["unloads"] == 1

    # One that stays, ejected by hand; the list knows.
    page.get_by_label("Idle time").fill("0")
    page.get_by_role("button", name="Load", exact=True).click()
    expect(copies).to_contain_text("it stays")
    check(page)
    page.get_by_role("button", name="Load another copy").click()
    page.get_by_role("dialog").get_by_role("button", name="Leave it").click()
    other = page.context.new_page()
    other.goto(f"{site.url}/models/?q=otter")
    expect(other.locator("#models")).to_contain_text("loaded")
    expect(other.locator("#models")).not_to_contain_text(HERON)
    check(other)
    # The answer to the click may come after what the socket tells of its effect.
    told = expect(copies)
    page.route("**/ejection/", lambda route: answer_after(route, lambda: told.to_contain_text("None.")))
    copies.get_by_role("button", name="Eject").click()
    page.get_by_role("dialog").get_by_role("button", name="Eject it").click()
    expect(page.locator("#copies-title")).to_be_focused()
    expect(page.locator("#announcer")).to_have_text("Not loaded.")
    expect(copies).to_contain_text("None.")
    expect(other.locator("#models")).to_contain_text("on disk")
    other.close()
