"""A real extension in a real Chromium talks to the installed host, and through it to LM Studio."""

import hashlib
import json
import os
import subprocess
import sys
from base64 import b64decode
from pathlib import Path

import psutil
import pytest

from tests.conftest import CHROMIUM, CHROMIUM_FLAGS, wait_for
from tests.fleet.fake_lms_fixture import OTTER, FakeLMStudio
from tests.fleet.native_port import text_of

pytestmark = pytest.mark.browser
EXTENSION = Path(__file__).with_name("extension")
COMMAND = "import sys; from fleet.native import cli; sys.exit(getattr(cli, sys.argv[1])(sys.argv[2:]))"


def extension_id() -> str:
    """As Chromium derives it from the key in the manifest."""
    key = b64decode(json.loads((EXTENSION / "manifest.json").read_text())["key"])
    return "".join(chr(ord("a") + int(digit, 16)) for digit in hashlib.sha256(key).hexdigest()[:32])


def run(command: str, *arguments: str) -> str:
    argv = [sys.executable, "-P", "-c", COMMAND, command, *arguments]
    return subprocess.run(argv, cwd="/", capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    fake = FakeLMStudio(tmp_path_factory.mktemp("studio"))
    yield fake
    fake.stop()


@pytest.fixture(scope="module")
def installed(studio, tmp_path_factory):
    """The host, installed for a Chromium with a profile of its own: (profile, data folder)."""
    profile, data_dir = tmp_path_factory.mktemp("profile"), tmp_path_factory.mktemp("data")
    options = ("--browser", "chromium", "--user-data-dir", str(profile), "--data-dir", str(data_dir))
    run("install", *options, "--extension-id", extension_id())
    yield profile, data_dir
    assert "removed" in run("uninstall", *options)
    assert not (profile / "NativeMessagingHosts" / "com.daemonpulse.host.json").exists()


@pytest.fixture(scope="module")
def worker(playwright, studio, installed):
    """The extension's service worker."""
    context = playwright.chromium.launch_persistent_context(
        str(installed[0]),
        executable_path=CHROMIUM,
        args=[*CHROMIUM_FLAGS, f"--disable-extensions-except={EXTENSION}", f"--load-extension={EXTENSION}"],
        env=os.environ | {"HOME": str(studio.home)},
    )
    workers = context.service_workers
    yield workers[0] if workers else context.wait_for_event("serviceworker")
    context.close()


def hosts(data_dir: Path) -> list[psutil.Process]:
    """The host processes of this installation."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if "fleet.native" in (process.info["cmdline"] or []):
            try:
                belongs = process.environ().get("DAEMONPULSE_DATA_DIR") == str(data_dir)
            except psutil.Error:
                continue
            found += [process] if belongs else []
    return found


def test_it_checks_and_starts_lm_studio(worker, studio):
    checked = worker.evaluate("ask({action: 'check_lmstudio'})")
    assert checked["status"] == "success"
    assert checked["payload"]["server_running"] is False
    assert checked["payload"]["api_endpoint"] == studio.url
    started = worker.evaluate("ask({action: 'start_lmstudio', id: 1})")
    assert (started["status"], started["payload"].get("state")) == ("success", "ready"), started


def test_it_streams_a_chat_over_a_port_and_stops_lm_studio(worker, installed):
    worker.evaluate("ask({action: 'start_lmstudio'})")
    request = {"id": "c", "settings": {"model": OTTER}}
    request["messages"] = [{"role": "user", "content": "Otters [[echo]] é🦦"}]
    messages = worker.evaluate("request => chat(request)", request)
    assert len(messages) > 5
    assert "Otters [[echo]] é🦦" in text_of(messages)
    assert messages[-1]["payload"]["finish_reason"] == "stop"
    request["messages"] = [{"role": "user", "content": "Slowly [[tokens=100000]]"}]
    cancelled = worker.evaluate("request => chat(request, 3)", request)
    assert cancelled[-1]["payload"]["finish_reason"] == "cancelled"
    wait_for(lambda: not hosts(installed[1]))
    assert worker.evaluate("ask({action: 'stop_lmstudio'})")["payload"]["server_running"] is False


def test_it_answers_an_unknown_action_with_an_error(worker):
    answer = worker.evaluate("ask({action: 'format_disk', id: 9})")
    assert (answer["status"], answer["id"], answer["error"]["code"]) == ("error", 9, "unknown_action")
    assert "check_lmstudio" in answer["error"]["advice"]
