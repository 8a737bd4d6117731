"""What a phone loads before anybody knows it: nothing of anyone in it."""

import gzip
import json
import re

import pytest
from django.contrib.staticfiles import finders
from django.test import Client

from daemonpulse.queue.mobile import views

MOST_OWN_BYTES = 60_000  # of JavaScript and CSS, compressed


def shell_of(client) -> dict:
    """What the service worker keeps, as it is told."""
    return json.loads(re.match(r"const SHELL = (.*);\n", client.get("/m/sw.js").content.decode())[1])


def test_it_shows_the_same_shell_to_everyone(client, alice):
    stranger = client.get("/m/")
    assert stranger.status_code == 200
    assert not stranger.cookies
    client.force_login(alice)
    assert client.get("/m/").content == stranger.content
    assert b"alice" not in stranger.content


def test_its_policy_allows_no_inline_script_or_style(client):
    response = client.get("/m/")
    policy = response.headers["Content-Security-Policy"]
    assert "script-src 'self';" in policy and "style-src 'self';" in policy
    assert not re.search(rb"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=", response.content)


def test_it_can_be_installed(client):
    told = client.get("/m/manifest.webmanifest")
    assert told.headers["Content-Type"] == "application/manifest+json"
    manifest = told.json()
    assert manifest["start_url"] == manifest["scope"] == "/m/"
    for icon in manifest["icons"]:
        raw = finders.find(icon["src"].removeprefix("/static/"))
        with open(raw, "rb") as file:  # noqa: PTH123
            width = int.from_bytes(file.read(24)[16:20], "big")
        assert icon["sizes"] == f"{width}x{width}"
    assert {icon["purpose"] for icon in manifest["icons"]} == {"any", "maskable"}


def test_its_worker_keeps_every_file_that_the_app_loads(client):
    response = client.get("/m/sw.js")
    assert response.headers["Content-Type"].startswith("text/javascript")
    assert "no-cache" in response.headers["Cache-Control"]
    kept = set(shell_of(client)["files"])
    assert all(finders.find(path.removeprefix("/static/")) for path in kept)
    modules = {path for path in kept if re.fullmatch(r"/static/mobile/\w+\.js", path)}
    for path in modules:
        with open(finders.find(path.removeprefix("/static/"))) as file:  # noqa: PTH123
            wanted = set(re.findall(r'from "\./(\w+\.js)"', file.read()))
        assert {f"/static/mobile/{name}" for name in wanted} <= modules
    page = client.get("/m/").content.decode()
    assert set(re.findall(r'(?:src|href)="(/static/[^"]+)"', page)) <= kept


def test_its_version_changes_with_any_file(client, tmp_path, monkeypatch):
    before = shell_of(client)["version"]
    changed = tmp_path / "shell.html"
    changed.write_text("another")
    monkeypatch.setattr(views, "TEMPLATE", changed)
    views.shell_files.cache_clear()
    assert shell_of(client)["version"] != before
    views.shell_files.cache_clear()


@pytest.mark.parametrize("method", ["get", "put"])
def test_only_a_post_shares(client, method):
    assert getattr(client, method)("/m/share").status_code == 405


def test_a_share_that_no_worker_took_leads_to_the_app_and_is_not_read():
    response = Client(enforce_csrf_checks=True).post("/m/share", {"text": "secret"})
    assert (response.status_code, response.headers["Location"]) == (303, "/m/#new")
    assert b"secret" not in response.content


def test_it_stays_small():
    own = [path for path in (views.FOLDER / "mobile").iterdir() if path.suffix in {".js", ".css"}]
    shared = views.FOLDER / "daemonpulse" / "app.css"
    assert sum(len(gzip.compress(path.read_bytes())) for path in [*own, shared]) < MOST_OWN_BYTES
