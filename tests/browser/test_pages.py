"""Every page: accessible in both themes, nothing sideways at 360 px, errors on none."""

import pytest

from tests.browser.conftest import enter
from tests.browser.looks import check, problems_of
from tests.conftest import wait_for
from tests.system.conftest import HERON, OTTER, OWL

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def paths(daemon, site):
    """The pages, with prompts in every state."""
    daemon.control("models/*", {"ttft_seconds": 0.02, "tokens_per_second": 500, "load_seconds": 0.1})
    done = site.submit(OTTER, "Done, with code [[tokens=150]]", system_prompt="Be brief.", temperature=0.5)
    thought = site.submit(OWL, "Thought about")
    for prompt_id in (done, thought):
        site.wait_for_state(prompt_id, "done")
    daemon.control(f"models/{HERON}", {"fault": {"kind": "unauthorized"}})
    failed = site.submit(HERON, "Fails")
    site.wait_for_state(failed, "failed")
    daemon.control(f"models/{HERON}", {"fault": None, "tokens_per_second": 10})
    running = site.submit(HERON, "Runs on [[tokens=3000]]")
    wait_for(lambda: site.prompt(running)["answer"])
    cancelled = site.submit(HERON, "Cancelled [[tokens=3000]]")
    site.api("POST", f"/prompts/{cancelled}/cancel")
    site.run("pause-lane", "simulated/owl-thinker-14b")
    waiting = site.submit(OWL, "Waits")
    prompts = {
        "done": done,
        "thought": thought,
        "failed": failed,
        "running": running,
        "cancelled": cancelled,
        "waiting": waiting,
    }
    yield {
        "board": "/",
        "compose": "/prompts/new/",
        "follow up": f"/prompts/new/?follows={done}",
        "edit": f"/prompts/{waiting}/edit/",
        "batch": "/prompts/batch/",
        "history": "/prompts/",
        "search": "/prompts/?q=nothing-like-this",
        "nodes": "/nodes/",
        "settings": "/settings/",
        "not found": "/prompts/00000000-0000-0000-0000-000000000000/",
    } | {f"prompt {state}": f"/prompts/{prompt_id}/" for state, prompt_id in prompts.items()}
    site.run("resume-lane", "simulated/owl-thinker-14b")
    site.api("POST", f"/prompts/{running}/cancel")


def test_every_page_passes_axe_and_fits_a_phone(paths, site, page):
    enter(site, page)
    problems = []
    for name, path in paths.items():
        page.goto(site.url + path)
        problems += problems_of(page, name)
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_it_keeps_the_theme_that_was_chosen(theme, site, signed_in):
    signed_in.evaluate("theme => localStorage.setItem('theme', theme)", theme)
    signed_in.goto(f"{site.url}/settings/")
    assert signed_in.evaluate("() => document.documentElement.dataset.theme") == theme


def test_the_sign_in_page_passes_axe(site, page):
    page.goto(f"{site.url}/sign-in/")
    check(page)


def test_the_admin_hides_texts_and_works(paths, site, page):
    enter(site, page)
    page.goto(f"{site.url}/admin/queue/prompt/")
    assert "Waits" not in page.content()
