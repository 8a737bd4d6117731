"""LMRMQ on a phone: paired by a code, written on while offline, delivered once, and unreadable for whoever finds it."""

import json
import re
import time

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.browser.looks import RULES
from tests.conftest import wait_for
from tests.system.conftest import OTTER, OWL

pytestmark = pytest.mark.browser
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "reduced_motion": "reduce"}
MARKER = "marmot-4711"
COUNT = 50
LYNX, OUNCE = "simulated/lynx-1b", "simulated/ounce-2b"
# Codes as PairingCode.issue makes one, but several at once; and a node at which nobody listens: what its models are
# asked waits, and nobody puts back one that is taken away.
PREPARE = f"""
from datetime import timedelta
from django.utils import timezone
from daemonpulse.models import User
from daemonpulse.models.access import hashed
from daemonpulse.queue.models import PairingCode
from fleet.models import Node
from forge.models import Model
for n in range(10):
    PairingCode.objects.create(
        owner=User.objects.first(), code_hash=hashed(f"TESTC0D{{n}}"), expires_at=timezone.now() + timedelta(hours=1)
    )
silent = Node.objects.create(name="silent", base_url="http://127.0.0.1:1")
for key in {[LYNX, OUNCE]}:
    Model.objects.create(node=silent, key=key, name=key, type="llm")
"""
# Everything that the browser keeps for the app, as one text.
DUMP = """async () => {
  const text = (value) => value instanceof ArrayBuffer || ArrayBuffer.isView(value)
    ? new TextDecoder('latin1').decode(value) : value;
  const rows = [];
  for (const { name } of await indexedDB.databases()) {
    const database = await new Promise((done) => {
      indexedDB.open(name).onsuccess = (event) => done(event.target.result);
    });
    for (const table of database.objectStoreNames) {
      const store = database.transaction(table).objectStore(table);
      for (const how of ['getAllKeys', 'getAll']) await new Promise((done) => {
        store[how]().onsuccess = (event) => {
          rows.push(JSON.stringify(event.target.result, (_, value) => text(value)));
          done();
        };
      });
    }
    database.close();
  }
  const kept = [];
  for (const name of await caches.keys()) {
    const cache = await caches.open(name);
    for (const request of await cache.keys()) kept.push(request.url + await (await cache.match(request)).text());
  }
  return [rows.join(), kept.join(), JSON.stringify(localStorage), document.cookie].join();
}"""

# As after a disk that failed: something is kept, and the key does not fit it.
ANOTHER_KEY = """async () => {
  const database = await new Promise((done) => {
    indexedDB.open('lmrmq').onsuccess = (event) => done(event.target.result);
  });
  const turn = database.transaction('facts', 'readwrite');
  turn.objectStore('facts').put({iv: new Uint8Array(12), ct: new Uint8Array(40).buffer}, 'draft');
  await new Promise((done) => { turn.oncomplete = done; });
  database.close();
}"""

BY_THEME = {"runOnly": {"type": "rule", "values": ["color-contrast", "target-size", "link-in-text-block"]}}
# When the reader's text has twice the size: by how many pixels the page goes sideways, and which part of the screen the
# bars at its edges hide from somebody who reads on.
LARGE_TEXT = """() => {
  const root = document.documentElement;
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(':root { font-size: 200% !important; }');
  document.adoptedStyleSheets = [sheet];
  const over = root.scrollWidth - innerWidth;
  scrollTo(0, 250);
  const bars = ['status', 'nav'].map(id => document.getElementById(id).getBoundingClientRect());
  const hidden = bars.map(({top, bottom}) => Math.max(Math.min(bottom, innerHeight) - Math.max(top, 0), 0));
  scrollTo(0, 0);
  document.adoptedStyleSheets = [];
  return [over, (hidden[0] + hidden[1]) / innerHeight];
}"""

# What a phone does when another app shares a text with this one.
SHARE = """text => {
  const form = document.createElement('form');
  const field = document.createElement('input');
  Object.assign(form, {method: 'post', action: '/m/share', enctype: 'multipart/form-data'});
  Object.assign(field, {name: 'text', value: text});
  form.append(field);
  document.body.append(form);
  form.submit();
}"""


@pytest.fixture(scope="module")
def codes(site):
    site.run("shell", "-v0", "-c", PREPARE).check_returncode()
    return (f"test-c0d{n}" for n in range(10))


@pytest.fixture
def phone(browser):
    context = browser.new_context(**PHONE)
    yield context
    context.close()


def paired(phone, site, codes):
    """A page of the app, paired by a link as the QR code has it, and ready to work offline."""
    page = phone.new_page()
    page.goto(f"{site.url}/m/#pair={next(codes)}")
    with page.expect_response("**/api/sync/v1/models"):
        page.get_by_role("button", name="Pair this device").tap()
    expect(page.get_by_role("heading", name="Prompts", exact=True)).to_be_visible()
    expect(page.locator("#status")).to_contain_text("Online")
    page.wait_for_function("() => navigator.serviceWorker.controller !== null")
    return page


# The same form as a person fills it in, faster than a person.
WRITE_MANY = """async texts => {
  const until = async (isSo) => { while (!isSo()) await new Promise((done) => setTimeout(done, 5)); };
  const ids = [];
  for (const text of texts) {
    location.hash = 'new';
    await until(() => document.getElementById('text')?.value === '');
    document.getElementById('text').value = text;
    document.querySelector('form').requestSubmit();
    await until(() => location.hash.startsWith('#p/'));
    ids.push(location.hash.slice(3));
  }
  return ids;
}"""


def write(page, text: str, model: str = OTTER) -> str:
    """Queue a prompt by hand; returns its id."""
    page.get_by_role("link", name="New", exact=True).tap()
    page.locator("select#model").select_option(model)  # once the list of models is there
    page.get_by_label("Prompt", exact=True).fill(text)
    page.get_by_role("button", name="Queue it").tap()
    page.wait_for_url(re.compile("#p/"))
    return page.url.rpartition("/")[2]


def test_fifty_prompts_written_offline_arrive_once_and_in_order(daemon, site, phone, codes):
    daemon.control("models/*", {"ttft_seconds": 0.01, "tokens_per_second": 2000, "load_seconds": 0.1, "slots": 8})
    page = paired(phone, site, codes)
    assert "pair=" not in page.url
    errors = phone.new_cdp_session(page).send("Page.getInstallabilityErrors")["installabilityErrors"]
    assert {error["errorId"] for error in errors} <= {"in-incognito"}

    phone.set_offline(True)
    expect(page.locator("#status")).to_contain_text("Offline")
    texts = [f"{MARKER} number {n} [[tokens=20]]" for n in range(COUNT)]
    ids = [write(page, text) for text in texts[:3]]
    ids += page.evaluate(WRITE_MANY, texts[3:])
    expect(page.locator("main .chip")).to_have_text("queued here")
    page.goto(f"{site.url}/m/#new")
    textbox = page.get_by_role("textbox", name="Prompt", exact=True)
    expect(textbox).to_have_value("")  # what was queued is no draft any more
    page.close()
    assert site.states() == {}

    page = phone.new_page()
    assert page.goto(f"{site.url}/m/").from_service_worker
    expect(page.locator("#status")).to_contain_text(f"{COUNT} wait here")
    expect(page.locator("#prompts > li")).to_have_count(COUNT)
    expect(page.get_by_text(f"{MARKER} number {COUNT - 1} ")).to_be_visible()
    assert MARKER not in page.evaluate(DUMP)

    def seconds_until_there(count: int) -> float:
        began = time.monotonic()
        phone.set_offline(False)
        wait_for(lambda: sum(site.states().values()) == count)
        return time.monotonic() - began

    took = [seconds_until_there(COUNT)]
    order = [row[0] for row in site.rows("SELECT id FROM queue_prompt ORDER BY position")]
    assert order == [prompt_id.replace("-", "") for prompt_id in ids]
    expect(page.locator("#prompts .chip-done")).to_have_count(COUNT)
    assert sum(site.states().values()) == COUNT
    expect(page.locator("#status")).to_have_text("Online")

    page.get_by_label("Search").fill(f"{MARKER} number 7 simulated")
    page.get_by_role("link", name=re.compile(f"{MARKER} number 7 ")).tap()
    answer = page.locator("section[aria-labelledby=answer-title]")
    expect(answer).to_contain_text("simulated answer")
    assert site.prompt(ids[7])["answer"][:20] in answer.inner_text()

    kept = page.evaluate(DUMP)
    assert len(kept) > 100_000
    for secret in (MARKER, OTTER, "simulated answer", "dpd_"):
        assert secret not in kept, f"{secret} can be read"

    while min(took) >= 10 and len(took) < 3:  # a busy machine may hold up any one
        phone.set_offline(True)
        expect(page.locator("#status")).to_contain_text("Offline")
        page.evaluate(WRITE_MANY, texts)
        took.append(seconds_until_there(COUNT * (len(took) + 1)))
    assert min(took) < 10, f"they arrived after {took} s"


def test_it_shows_the_answer_while_it_comes_and_carries_out_what_is_asked(daemon, site, phone, codes):
    daemon.control("models/*", {"ttft_seconds": 0.1, "tokens_per_second": 60, "load_seconds": 0.1, "slots": 4})
    page = paired(phone, site, codes)
    prompt_id = write(page, "<b>Watch</b> me think [[tokens=3000]]", OWL)
    answer = page.locator("[data-kind=answer]")
    expect(page.locator("details.output-reasoning")).to_be_visible()
    expect(answer).to_contain_text(re.compile("...."))
    first = answer.text_content()
    later = wait_for(lambda: len(text := answer.text_content()) > len(first) and text)
    assert later.startswith(first)
    expect(page.get_by_text("<b>Watch</b> me think [[tokens=3000]]", exact=True)).to_be_visible()  # text, not markup

    page.get_by_role("button", name="Cancel").tap()
    expect(page.locator("main .chip")).to_have_text("cancelled")
    assert site.wait_for_state(prompt_id, "cancelled")
    daemon.control("models/*", {"tokens_per_second": 2000})
    page.get_by_role("button", name="Retry").tap()
    expect(page.locator("main .chip")).to_have_text("done")

    page.get_by_role("link", name="Follow up").tap()
    page.get_by_label("Prompt", exact=True).fill("And then?")
    page.get_by_role("button", name="Queue it").tap()
    expect(page.get_by_role("link", name="It continues an earlier prompt")).to_be_visible()
    expect(page.locator("main .chip")).to_have_text("done")
    follow_up = page.url.rpartition("/")[2]
    assert site.prompt(follow_up)["follows"] == prompt_id

    page.get_by_role("button", name="Delete").tap()
    page.get_by_role("button", name="Delete it").tap()
    expect(page.get_by_role("heading", name="Prompts", exact=True)).to_be_visible()
    expect(page.locator("#prompts > li").filter(has_text="And then?")).to_have_count(0)
    wait_for(lambda: site.api("GET", f"/prompts/{follow_up}").status_code == 404)


def test_what_waits_is_edited_on_either_side_and_a_refusal_says_why(site, phone, codes):
    page = paired(phone, site, codes)
    phone.set_offline(True)
    write(page, "Never sent", LYNX)
    page.get_by_role("button", name="Delete").tap()
    page.get_by_role("button", name="Delete it").tap()
    expect(page.get_by_role("heading", name="Prompts", exact=True)).to_be_visible()
    prompt_id = write(page, "First words", LYNX)
    page.get_by_role("link", name="Edit").tap()
    page.get_by_label("Prompt", exact=True).fill("Second words")
    page.get_by_role("link", name="Prompts", exact=True).tap()  # left unsaved, and not lost
    page.get_by_role("link", name="First words").tap()
    page.get_by_role("link", name="Edit").tap()
    expect(page.get_by_role("textbox", name="Prompt", exact=True)).to_have_value("Second words")
    page.get_by_role("button", name="Save the change").tap()
    expect(page.get_by_text("Second words")).to_be_visible()
    phone.set_offline(False)
    expect(page.locator("main .chip")).to_have_text("queued there")
    assert site.prompt(prompt_id)["text"] == "Second words"

    page.get_by_role("link", name="Edit").tap()
    page.get_by_text("More settings").tap()
    page.get_by_label("Temperature").fill("9")
    page.get_by_role("button", name="Save the change").tap()
    expect(page.get_by_role("alert").filter(has_text="from 0 to 2")).to_be_visible()
    page.get_by_label("Temperature").fill("0,5")
    page.get_by_label("Longest answer").fill("1,000")
    page.get_by_role("button", name="Save the change").tap()
    wait_for(lambda: site.prompt(prompt_id)["settings"] == {"temperature": 0.5, "max_output_tokens": 1000})
    page.go_back()  # neither to the form nor to the same screen once more
    expect(page.get_by_role("heading", name="Prompts", exact=True)).to_be_visible()

    phone.set_offline(True)
    gone = write(page, "For a model that goes", OUNCE)
    page.evaluate("id => { location.hash = `edit/${id}`; }", prompt_id)
    page.get_by_label("Prompt", exact=True).fill("Words that come too late")
    page.get_by_role("button", name="Save the change").tap()
    expect(page.get_by_text("change on its way")).to_be_visible()
    site.run("shell", "-v0", "-c", f"from forge.models import Model; Model.objects.get(key='{OUNCE}').delete()")
    assert site.api("DELETE", f"/prompts/{prompt_id}").status_code == 204
    page.evaluate("id => { location.hash = `p/${id}`; }", gone)
    phone.set_offline(False)
    expect(page.locator("main .chip")).to_have_text("not accepted")
    expect(page.get_by_text("No node has the model")).to_be_visible()
    assert site.api("GET", f"/prompts/{gone}").status_code == 404

    expect(page.get_by_text("A change was not accepted: The server does not have this prompt.")).to_be_visible()
    page.get_by_role("button", name="Use the text anew").tap()
    expect(page.get_by_role("textbox", name="Prompt", exact=True)).to_have_value("Words that come too late")
    expect(page.get_by_text("A change was not accepted")).to_have_count(0)
    page.go_back()
    page.get_by_role("link", name="Edit").tap()
    page.locator("select#model").select_option(LYNX)
    page.get_by_role("button", name="Save the change").tap()
    expect(page.locator("main .chip")).to_have_text("queued there")


def test_the_worker_delivers_while_no_page_is_open(site, phone, codes):
    page = paired(phone, site, codes)
    phone.set_offline(True)
    prompt_id = write(page, "Sent by the worker")
    bystander = phone.new_cdp_session(phone.new_page())
    workers = []
    bystander.on("ServiceWorker.workerRegistrationUpdated", lambda event: workers.extend(event["registrations"]))
    bystander.send("ServiceWorker.enable")
    wait_for(lambda: page.evaluate("() => true") and workers)
    page.close()
    phone.set_offline(False)
    event = {"origin": site.url, "registrationId": workers[-1]["registrationId"], "tag": "outbox", "lastChance": False}

    def has_come() -> bool:
        bystander.send("ServiceWorker.dispatchSyncEvent", event)  # a browser tries again, too
        return site.api("GET", f"/prompts/{prompt_id}").status_code == 200

    wait_for(has_come, step=1)


def test_what_other_apps_share_becomes_a_draft_and_signing_out_offline_erases_everything(site, phone, codes):
    page = paired(phone, site, codes)
    page.evaluate(SHARE, f"{MARKER} shared")
    page.wait_for_url("**/m/#new")
    textbox = page.get_by_role("textbox", name="Prompt", exact=True)
    expect(textbox).to_have_value(f"{MARKER} shared")
    assert MARKER not in page.evaluate(DUMP)
    textbox.fill(f"{MARKER} shared, and more")
    page.reload()  # at once
    expect(textbox).to_have_value(f"{MARKER} shared, and more")
    phone.set_offline(True)
    write(page, f"{MARKER} is lost")
    page.get_by_role("link", name="Settings").tap()
    page.get_by_role("button", name="Sign out and erase").tap()
    expect(page.get_by_text("1 that waits here will be lost.")).to_be_visible()
    page.get_by_role("button", name="Sign out", exact=True).tap()
    expect(page.get_by_role("heading", name="Signed out")).to_be_visible()
    expect(page.get_by_text("Revoke this device there")).to_be_visible()
    left = """async () => [
      await indexedDB.databases(), await caches.keys(), await navigator.serviceWorker.getRegistrations()
    ]"""
    assert page.evaluate(left) == [[], [], []]


def test_screens_are_left_and_come_back_to_as_people_expect(site, phone, codes):
    page = paired(phone, site, codes)
    errors = []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    twice = """text => {
      const form = document.querySelector('form');
      document.getElementById('text').value = text;
      form.requestSubmit();
      form.requestSubmit();
    }"""
    for n in range(4):
        page.evaluate("location.hash = 'new'")
        page.locator("select#model").select_option(LYNX)
        page.evaluate(twice, f"<img src=x onerror=console.log(1)> \u05e9\u05dc\u05d5\u05dd \U0001f9a6 {n}")
        page.wait_for_url(re.compile("#p/"))
    page.get_by_role("link", name="All prompts").tap()
    rows = page.locator("#prompts > li").filter(has_text="<img src=x")
    expect(rows).to_have_count(4)
    assert page.locator("main img").count() == 0

    page.get_by_label("Search").fill("<img")
    page.get_by_label("State").select_option("Queued there")
    expect(rows).to_have_count(4)
    expect(page.locator("#status")).to_have_text("Online")
    page.set_viewport_size({"width": 390, "height": 420})  # the last of them is below
    rows.nth(3).get_by_role("link").tap()
    page.get_by_role("button", name="Delete").tap()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(rows.nth(3).get_by_role("link")).to_be_focused()
    expect(page.get_by_label("Search")).to_have_value("<img")
    expect(rows.nth(3)).to_be_in_viewport()

    page.get_by_role("link", name="New", exact=True).tap()
    page.get_by_label("Prompt", exact=True).fill("Still here")
    page.locator(".skip-link").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#content")).to_be_focused()
    expect(page.get_by_role("textbox", name="Prompt", exact=True)).to_have_value("Still here")
    assert not errors

    storage = phone.new_cdp_session(page)
    storage.send("Storage.clearDataForOrigin", {"origin": site.url, "storageTypes": "indexeddb"})
    expect(page.get_by_role("heading", name="Pair this device")).to_be_visible()
    page.evaluate(ANOTHER_KEY)
    page.reload()
    expect(page.get_by_role("heading", name="The app cannot start")).to_be_visible()
    page.get_by_role("button", name="Erase and start anew").tap()
    page.get_by_role("button", name="Erase it").tap()
    expect(page.get_by_role("heading", name="Pair this device")).to_be_visible()


def test_it_says_what_is_missing_where_the_context_is_not_secure(site, phone):
    page = phone.new_page()
    page.add_init_script("Object.defineProperty(window, 'isSecureContext', {value: false})")
    page.goto(f"{site.url}/m/")
    expect(page.get_by_role("link", name="Trust this server")).to_have_attribute("href", "/ca/")
    expect(page.get_by_role("link", name="Use the plain pages")).to_have_attribute("href", "/")


def test_every_screen_passes_axe_and_fits(daemon, site, phone, codes):
    daemon.control("models/*", {"ttft_seconds": 0.01, "tokens_per_second": 2000, "load_seconds": 0.1, "slots": 8})
    page = phone.new_page()
    page.goto(f"{site.url}/m/")
    page.evaluate(Axe().axe_script)
    problems = checked(page, "pair")
    page.get_by_label("Code").fill(next(codes))
    page.get_by_role("button", name="Pair this device").tap()
    expect(page.get_by_role("heading", name="Prompts", exact=True)).to_be_visible()
    done = write(page, "Done, with code [[tokens=200]]", OTTER)
    expect(page.locator("main .chip")).to_have_text("done")
    phone.set_offline(True)
    here = write(page, "Waits here")
    screens = {
        "list": "",
        "new": "new",
        "done": f"p/{done}",
        "here": f"p/{here}",
        "edit": f"edit/{here}",
        "settings": "settings",
    }
    for name, place in screens.items():
        page.evaluate("place => { location.hash = place; }", place)
        expect(page.locator("h1")).to_be_focused()
        problems += checked(page, name)
    page.get_by_role("button", name="Sign out and erase").tap()
    problems += checked(page, "question")
    assert not problems, "\n".join(problems)


def checked(page, name: str) -> list[str]:
    """What axe finds, and what goes sideways, at both widths and in both themes, and with text of twice the size."""
    found = []
    for theme, width, rules in (("dark", 320, RULES), ("light", 390, BY_THEME)):
        page.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)
        page.set_viewport_size({"width": width, "height": 800})
        result = page.evaluate("options => axe.run(document, options)", {**rules, "resultTypes": ["violations"]})
        found += [
            f"{name} at {width}, {theme}: {one['id']}: {json.dumps([node['html'] for node in one['nodes']])}"
            for one in result["violations"]
        ]
        sideways = page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
        if sideways > 0:
            found.append(f"{name} at {width} scrolls sideways by {sideways} px")
    page.set_viewport_size({"width": 320, "height": 568})
    sideways, hidden = page.evaluate(LARGE_TEXT)
    if sideways > 0:
        found.append(f"{name} at 320 with large text scrolls sideways by {sideways} px")
    if hidden > 0.15:
        found.append(f"{name} at 320 with large text: bars hide {hidden:.0%} of the screen")
    return found
