"""On a narrow phone with text of twice the size nothing runs off the screen or into something else.

WCAG 2.2, 1.4.4 and 1.4.10. The pages are rendered without an installation; nothing here needs one.
"""

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.template.loader import render_to_string
from django.utils import timezone

from daemonpulse import certs
from daemonpulse.queue.devices.pairing import Offer

pytestmark = pytest.mark.browser
STYLES = Path(__file__).resolve().parents[2] / "static" / "daemonpulse" / "app.css"
HERE, THERE = "http://127.0.0.1:8642", "https://192.168.100.200:8643"
TABS = """[...document.querySelectorAll(".nav-link")].map(link => {
    const range = document.createRange();
    range.selectNodeContents(link);
    const {left, right, top, bottom} = range.getBoundingClientRect();
    return {left, right, top, bottom};
})"""


@pytest.fixture
def shown(page, monkeypatch):
    """The pairing page, 320 px wide, its text twice as large."""
    monkeypatch.setattr(certs, "fingerprint", lambda: "ab" * 32)
    context = {
        "user": SimpleNamespace(is_authenticated=True), "section": "settings", "csrf_token": "x",
        "code": SimpleNamespace(pk=1, expires_at=timezone.now()), "offer": Offer("K7QMWXPA", THERE),
        "here": Offer("K7QMWXPA", HERE), "origins": [THERE], "is_local": True, "is_elsewhere": True,
    }  # fmt: skip
    page.set_viewport_size({"width": 320, "height": 568})
    page.set_content(render_to_string("queue/device_pairing.html", context), wait_until="domcontentloaded")
    page.add_style_tag(path=STYLES)
    page.add_style_tag(content="html { font-size: 32px; }")
    return page


def test_it_fits_a_narrow_phone_with_large_text(shown):
    assert shown.evaluate("document.documentElement.scrollWidth") == 320
    code = shown.locator("#pairing-code")
    assert code.inner_text() == "K7QM-WXPA"  # as it is typed, though it takes two lines
    assert code.evaluate("e => e.scrollWidth <= e.clientWidth")
    line = shown.locator("pre.command")
    assert "--fingerprint" in line.inner_text()
    assert line.evaluate("e => e.scrollWidth <= e.clientWidth")


def test_the_tabs_do_not_run_into_each_other(shown):
    shown.evaluate("document.querySelector('.nav-long').remove()")  # for screen readers only
    tabs = shown.evaluate(TABS)
    for one, other in pairwise(tabs):
        assert one["right"] <= other["left"] + 1 or one["bottom"] <= other["top"] + 1
    assert len(tabs) == 6
    assert all(tab["left"] >= 0 and tab["right"] <= 320 for tab in tabs)
    assert max(tab["bottom"] for tab in tabs) - min(tab["top"] for tab in tabs) < 568 / 4  # the page is what is read
