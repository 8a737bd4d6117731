"""Devices in a real browser: pairing one and living with it, and prompts that are deleted under their readers."""

import re

import pytest
import requests
from playwright.sync_api import expect

from tests.browser.looks import problems_of
from tests.system.conftest import OTTER

pytestmark = pytest.mark.browser
BRIEFLY = [("light", 360)]
# What a socket said before it was closed, and with which code.
HEAR = """path => new Promise(tell => {
  let heard = "";
  const socket = new WebSocket(path);
  socket.onmessage = event => { heard += event.data; };
  socket.onclose = event => tell([event.code, heard]);
})"""


def call(site, name: str, data: dict, token: str = "") -> dict:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answer = requests.post(f"{site.url}/api/sync/v1/{name}", json=data, headers=headers, timeout=20)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_device_is_paired_watched_renamed_and_revoked(site, signed_in):
    page = signed_in
    page.goto(f"{site.url}/settings/")
    page.get_by_role("link", name="Your devices").click()
    expect(page.get_by_role("heading", name="No devices yet")).to_be_visible()
    problems = problems_of(page, "none", BRIEFLY)

    page.get_by_role("button", name="Pair a device").click()
    code = page.locator("#pairing-code").inner_text()
    assert re.fullmatch(r"[0-9A-Z]{4}-[0-9A-Z]{4}", code)
    assert code.replace("-", "") not in page.url.replace("-", "")
    expect(page.locator("#pairing time")).to_have_text(re.compile(r"^in 4 min \d\d s$"))
    problems += problems_of(page, "offer")

    told = {"code": code.lower(), "name": "Alice’s phone", "kind": "phone", "app": "lmrmq/1"}
    token = call(site, "pair", told)["token"]
    expect(page.get_by_text("“Alice’s phone” is paired.")).to_be_visible()
    expect(page.locator("#announcer")).to_have_text("Alice’s phone is paired.")
    expect(page.get_by_text(code)).to_have_count(0)
    problems += problems_of(page, "paired", BRIEFLY)

    page.get_by_role("link", name="To your devices").click()
    card = page.get_by_role("article", name="Alice’s phone")
    expect(card).to_contain_text("Last heardnever")
    call(site, "ping", {"pending": 2}, token)
    expect(card).to_contain_text("2 changes")

    card.get_by_text("Rename").click()
    card.get_by_label("Name").fill("Pocket")
    card.get_by_role("button", name="Save the name").click()
    card = page.get_by_role("article", name="Pocket")
    expect(card).to_be_visible()
    card.get_by_text("Rename").click()
    problems += problems_of(page, "one")

    card.get_by_role("button", name="Revoke Pocket").click()
    page.get_by_role("button", name="Keep it").click()
    expect(card).to_be_visible()
    card.get_by_role("button", name="Revoke Pocket").click()
    page.get_by_role("button", name="Revoke it").click()
    expect(page.get_by_role("heading", name="No devices yet")).to_be_visible()
    assert not problems, "\n".join(problems)


def test_a_prompt_that_is_deleted_elsewhere_says_so_and_nothing_is_amiss(site, signed_in):
    page = signed_in
    first, second = site.submit(OTTER, "First [[tokens=5]]"), site.submit(OTTER, "Second [[tokens=5]]")
    for prompt_id in (first, second):
        site.wait_for_state(prompt_id, "done")

    with page.expect_websocket(lambda socket: f"/ws/prompts/{first}/" in socket.url):
        page.goto(f"{site.url}/prompts/{first}/")
    assert site.api("DELETE", f"/prompts/{first}").status_code == 204
    expect(page.get_by_role("heading", name="This prompt was deleted")).to_be_visible()
    expect(page.locator("#announcer")).to_have_text("This prompt was deleted.")
    page.wait_for_timeout(1000)  # what is lost is said after a while
    expect(page.locator("#connection")).to_be_empty()
    problems = problems_of(page, "deleted", BRIEFLY)
    code, heard = page.evaluate(HEAR, f"/ws/prompts/{first}/")  # as a page that was late does
    assert code == 4404
    assert "This prompt was deleted" in heard

    page.get_by_role("link", name="To the history").click()
    page.get_by_role("button", name="Delete: Second").click()
    page.get_by_role("button", name="Delete it").click()
    expect(page.get_by_text("The prompt and its answer are deleted.")).to_be_visible()
    expect(page.get_by_role("link", name="Second")).to_have_count(0)
    assert not problems, "\n".join(problems)
