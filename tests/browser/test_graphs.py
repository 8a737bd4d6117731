"""The graphs of a node's figures, in Chromium, under the policy that the product's pages have."""

import json
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import expect

from daemonpulse.middleware import CONTENT_SECURITY_POLICY
from daemonpulse.settings import BASE_DIR

pytestmark = pytest.mark.browser
GIB = 2**30
NOW = 1_790_000_000
FIGURE = """<figure class="graph" data-graph="{kind}" data-source="/samples/" data-series='["GPU 0"]'>
<figcaption>{kind}</figcaption><p class="graph-fallback">Graphs need JavaScript.</p></figure>"""
PAGE = """<!doctype html><html lang="en" data-theme="dark" class="js"><head><title>Graphs</title>
<link rel="stylesheet" href="/daemonpulse/vendor/uPlot.min.css"><link rel="stylesheet" href="/daemonpulse/app.css">
<script src="/daemonpulse/vendor/uPlot.iife.min.js" defer></script>
<script src="/daemonpulse/graphs.js" defer></script></head><body><div class="graphs">
<label><input type="radio" name="range" value="1h" data-graph-range checked>1 h</label>
<label><input type="radio" name="range" value="24h" data-graph-range>24 h</label>
{figures}<p id="sample" data-sample=""></p></div></body></html>"""
INK = """box => {
  const canvas = box.querySelector("canvas"), over = box.querySelector(".u-over"), parts = [0, 0, 0, 0, 0, 0];
  const [left, width, height] = [over.offsetLeft, over.clientWidth, over.clientHeight].map((x) => x * devicePixelRatio);
  const pixels = canvas.getContext("2d").getImageData(left, 0, width, height).data;
  for (let place = 0; place < pixels.length; place += 4) {
    const [red, , blue, alpha] = pixels.slice(place, place + 4);
    if (alpha > 128 && blue - red > 60) parts[Math.floor((6 * ((place / 4) % width)) / width)]++;
  }
  return parts.map((count) => count > 20);
}"""  # whether there is a line, in the first line's colour, in each sixth of a graph


class Handler(SimpleHTTPRequestHandler):
    def do_GET(self):
        site, url = self.server, urlsplit(self.path)
        if url.path == "/":
            figures = "".join(FIGURE.format(kind=kind) for kind in ("vram", "power", "latency"))
            self.answer(200, "text/html", PAGE.format(figures=figures))
        elif url.path == "/samples/":
            site.asked.append(parse_qs(url.query)["range"][0])
            self.answer(site.status, "application/json", json.dumps(site.figures))
        else:
            super().do_GET()

    def answer(self, status, kind, text):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(text.encode())

    def end_headers(self):
        self.send_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        super().end_headers()

    def log_message(self, *_):
        pass


def figures(minutes=range(61), unknown=()):
    """A sample at each of these minutes of the hour before NOW; the power of GPU 0 is never told."""
    vram = [None if minute in unknown else 4 * GIB for minute in minutes]
    nothing = [None] * len(minutes)
    gpus = [{"vram": vram, "utilization": nothing, "temperature": nothing, "power": nothing}] if minutes else []
    at = [NOW - 3600 + 60 * minute for minute in minutes]
    return {"now": NOW, "at": at, "latency": [0.25] * len(minutes), "cpu": nothing, "ram": nothing, "gpus": gpus}


@pytest.fixture
def site():
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(BASE_DIR / "static")))
    server.status, server.asked, server.figures = 200, [], figures()
    server.url = f"http://127.0.0.1:{server.server_port}/"
    thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.fixture
def shown(site, page):
    """Opens the page; fails the test on what the browser complains about, such as the policy."""
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda line: complaints.append(line.text) if "Security Policy" in line.text else None)
    page.set_viewport_size({"width": 360, "height": 800})
    yield lambda: page.goto(site.url)
    assert not complaints


def graph(page, kind):
    return page.locator(f"[data-graph={kind}]")


def test_it_draws_lines_with_gaps_from_one_fetch(site, shown, page):
    is_sampled = [minute for minute in range(61) if not 39 < minute < 51]
    site.figures = figures(is_sampled, unknown=range(10, 21))
    shown()
    expect(graph(page, "vram").locator(".graph-legend")).to_contain_text("GPU 0 4 GiB", use_inner_text=True)
    expect(graph(page, "latency").locator(".graph-legend")).to_contain_text("250 ms")
    expect(graph(page, "power")).to_contain_text("this machine does not tell this figure")
    assert graph(page, "vram").evaluate(INK) == [True, False, True, True, False, True]
    assert graph(page, "latency").evaluate(INK) == [True, True, True, True, False, True]
    assert site.asked == ["1h"]
    page.get_by_text("24 h").click()
    expect(graph(page, "vram").get_by_role("img")).to_have_accessible_name("vram, the last 24 hours. GPU 0 4 GiB.")
    assert site.asked == ["1h", "24h"]


def test_it_takes_what_the_socket_brings_and_drops_what_is_old(site, shown, page):
    site.figures = figures(minutes=[])
    shown()
    expect(graph(page, "vram")).to_contain_text("No figures yet. They appear within 15 seconds.")
    swap = "sample => { document.getElementById('sample').outerHTML = `<p id=sample data-sample='${sample}'></p>`; }"
    for at, used in ((NOW - 3500, 9), (NOW + 30, 4), (NOW + 80, 6.5), (NOW + 120, 6)):
        sample = {"at": at, "latency": 0.02, "cpu": 3, "ram": None, "gpus": [[used * GIB, 10, 40, None]]}
        page.evaluate(swap, json.dumps(sample))
        expect(graph(page, "vram").locator("strong")).to_have_text(f"{used} GiB")
    # What was read an hour ago, 9 GiB, is not among the figures any more.
    expect(graph(page, "vram").locator(".graph-span")).to_have_text("4 to 6.5 GiB")


def test_it_says_that_it_failed_and_tries_again(site, shown, page):
    site.status = 503
    shown()
    box = graph(page, "vram")
    expect(box).to_contain_text("The figures could not be fetched: the server answered 503.")
    expect(box).not_to_contain_text("need JavaScript")
    site.status = 200
    box.get_by_role("button", name="Try again").click()
    expect(box.locator("canvas")).to_be_visible()
    expect(box).not_to_contain_text("could not be fetched")
