"""The way of a newcomer, in a real browser."""

import re

import pytest
from playwright.sync_api import expect

from tests.conftest import wait_for
from tests.system.conftest import HERON, OTTER

pytestmark = pytest.mark.browser


def compose(page, site, model: str, text: str, button: str = "Queue it"):
    page.goto(f"{site.url}/prompts/new/")
    page.get_by_label("Model", exact=True).select_option(model)
    page.get_by_label("Prompt", exact=True).fill(text)
    page.get_by_role("button", name=button, exact=True).click()


def test_it_queues_watches_reloads_and_finds_again(daemon, site, signed_in):
    page = signed_in
    daemon.control("models/*", {"ttft_seconds": 0.2, "tokens_per_second": 40, "load_seconds": 0.5, "slots": 1})
    expect(page.get_by_role("heading", name="Board")).to_be_visible()

    compose(page, site, OTTER, "First question about otters [[tokens=3000]]")
    chip = page.locator("main .chip").first
    expect(chip).to_have_text(re.compile("sending", re.I))
    answer = page.locator("[id^=answer-][data-live]")
    expect(answer).to_be_visible()

    # The text grows, and a reload in the middle leaves neither a gap nor a double.
    first_length = len(answer.inner_text())
    wait_for(lambda: len(answer.inner_text()) > first_length)
    url = page.url
    page.reload()
    expect(answer).to_be_visible()
    # While it runs, two more: one waits in the same lane, one goes to another model.
    second = page.context.new_page()
    compose(second, site, OTTER, "Second question about otters [[tokens=20]]")
    expect(second.locator("main .chip").first).to_have_text(re.compile("queued", re.I))
    third = page.context.new_page()
    compose(third, site, HERON, "Third question about herons [[tokens=20]]")

    board = page.context.new_page()
    board.goto(site.url)
    expect(board.locator(".lane")).to_have_count(2)
    expect(board.get_by_text("First question about otters")).to_be_visible()

    daemon.control("models/*", {"tokens_per_second": 2000})
    for tab in (page, second, third):
        expect(tab.locator("main .chip").first).to_have_text(re.compile("done", re.I))
    shown = page.locator("#answer-source").input_value()
    assert shown == site.prompt(url.rstrip("/").rpartition("/")[2])["answer"]
    expect(page.locator(".prose")).to_be_visible()
    expect(board.get_by_text("First question about otters")).to_have_count(0)

    page.goto(f"{site.url}/prompts/")
    for words in ("First question", "Second question", "Third question"):
        expect(page.get_by_role("link", name=re.compile(words))).to_be_visible()
    page.keyboard.press("/")
    page.keyboard.type("herons")
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name=re.compile("Third question"))).to_be_visible()
    expect(page.get_by_role("link", name=re.compile("First question"))).to_have_count(0)


def test_the_text_on_screen_is_the_answer_while_it_streams(daemon, site, signed_in):
    """Every state of the live text is a beginning of the answer."""
    page = signed_in
    daemon.control("models/*", {"ttft_seconds": 0.1, "tokens_per_second": 50, "load_seconds": 0.1, "slots": 4})
    compose(page, site, OTTER, "Watch me closely [[tokens=2000]]")
    answer = page.locator("[id^=answer-][data-live]")
    expect(answer).to_be_visible()
    seen = set()
    wait_for(lambda: seen.update(answer.all_text_contents()) or len(seen) >= 10)
    daemon.control("models/*", {"tokens_per_second": 500})
    while texts := answer.all_text_contents():  # which does not wait for one that is over
        seen.update(texts)
        page.wait_for_timeout(100)
    expect(page.locator(".prose")).to_be_visible()
    whole = page.locator("#answer-source").input_value()
    assert all(whole.startswith(text) for text in seen)


def test_it_folds_reasoning_apart_from_the_answer(daemon, site, signed_in):
    page = signed_in
    for model in ("simulated/owl-thinker-14b", "simulated/raven-raw-think-7b"):
        daemon.control("models/*", {"ttft_seconds": 0.05, "tokens_per_second": 1, "load_seconds": 0.1, "slots": 4})
        compose(page, site, model, "Think about it first")
        reasoning = page.locator("details.output-reasoning")
        expect(reasoning).to_have_attribute("open", "")
        daemon.control("models/*", {"tokens_per_second": 100})
        expect(page.locator(".prose")).to_be_visible()
        expect(reasoning).not_to_have_attribute("open", "")
        expect(reasoning.locator("summary")).to_contain_text(re.compile(r"\d+ tokens.*\d+(\.\d+)? s"))
        assert "<think>" not in page.locator("#answer-source").input_value()


def test_it_cancels_retries_and_repeats(daemon, site, signed_in):
    page = signed_in
    daemon.control("models/*", {"ttft_seconds": 0.05, "tokens_per_second": 5, "load_seconds": 0.1, "slots": 4})
    compose(page, site, OTTER, "Cancel me [[tokens=500]]")
    expect(page.locator("[id^=answer-][data-live]")).to_be_visible()
    page.get_by_role("button", name=re.compile("^Cancel")).click()
    expect(page.locator("main .chip").first).to_have_text(re.compile("cancelled", re.I))
    daemon.control("models/*", {"tokens_per_second": 2000})
    page.get_by_role("button", name=re.compile("^(Retry|Try)")).click()
    expect(page.locator("main .chip").first).to_have_text(re.compile("done", re.I))
    expect(page.get_by_role("heading", name=re.compile("Earlier"))).to_be_visible()
    before = page.url
    page.get_by_role("button", name=re.compile("^Repeat")).click()
    page.wait_for_url(lambda url: url != before)
    expect(page.locator("main .chip").first).to_have_text(re.compile("done", re.I))


def test_it_sends_with_control_enter_and_says_what_is_wrong(site, signed_in):
    page = signed_in
    page.goto(f"{site.url}/prompts/new/")
    page.get_by_label("Model", exact=True).select_option(OTTER)
    page.get_by_label("Prompt", exact=True).fill("   ")
    page.get_by_label("Prompt", exact=True).press("Control+Enter")
    expect(page.get_by_text(re.compile("only white space")).first).to_be_visible()
    page.get_by_label("Prompt", exact=True).fill("by keyboard [[tokens=3]]")
    page.get_by_label("Prompt", exact=True).press("Control+Enter")
    page.wait_for_url(re.compile(r"/prompts/[0-9a-f-]{36}/"))


def test_it_goes_on_by_itself_after_the_connection_was_lost(daemon, site, signed_in):
    page = signed_in
    daemon.control("models/*", {"ttft_seconds": 0.05, "tokens_per_second": 10, "load_seconds": 0.1, "slots": 4})
    sockets = []
    page.route_web_socket("**/ws/**", lambda socket: (socket.connect_to_server(), sockets.append(socket)))
    compose(page, site, OTTER, "Survive a lost connection [[tokens=1000]]")
    answer = page.locator("[id^=answer-][data-live]")
    expect(answer).to_be_visible()

    def own_sockets() -> list:
        """The prompt's own; the form before it had one, too."""
        page.evaluate("() => true")  # sockets are heard of while the page is asked something
        return [socket for socket in sockets if "/ws/prompts/" in socket.url]

    wait_for(own_sockets)[-1].close(code=1012)
    wait_for(lambda: len(own_sockets()) > 1)
    length = len(answer.inner_text())
    wait_for(lambda: len(answer.inner_text()) > length)
    daemon.control("models/*", {"tokens_per_second": 2000})
    expect(page.locator(".prose")).to_be_visible()
    whole = page.locator("#answer-source").input_value()
    assert whole == site.prompt(page.url.rstrip("/").rpartition("/")[2])["answer"]
