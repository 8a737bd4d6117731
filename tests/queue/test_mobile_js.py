"""The app's modules under Node's test runner, and its seal against the server's."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from daemonpulse import sealing

pytestmark = pytest.mark.node
ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "mobile"
ENVIRONMENT = {"PATH": os.environ["PATH"]}


def test_it_passes_its_own_tests():
    files = sorted(str(path) for path in FOLDER.glob("*.test.mjs"))
    done = subprocess.run(
        [shutil.which("node"), "--test", *files], capture_output=True, text=True, env=ENVIRONMENT, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"^. pass (\d+)$", done.stdout, re.M)
    assert passed and int(passed[1]) >= 30, done.stdout
    assert re.search(r"^. skipped 0$", done.stdout, re.M), done.stdout


@pytest.fixture
def peer():
    argv = [shutil.which("node"), str(FOLDER / "peer.mjs")]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)

    def ask(**question):
        process.stdin.write(json.dumps(question) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    yield ask
    process.stdin.close()
    process.wait(10)


def test_it_agrees_with_the_server_on_a_key_and_a_seal(peer):
    ours = sealing.Agreement()
    key = ours.key(sealing.from_text(peer(point=sealing.to_text(ours.point))["point"]), is_server=True)
    text = {"text": "Grüße, 🦦 " + "x" * 100_000}

    told = peer(seal=[{"kid": "d", "seq": 3, "use": "push"}, text])
    header, body = sealing.open_sealed(key, told["sealed"])
    assert json.loads(body) == text
    assert (header["kid"], header["seq"], header["use"]) == ("d", 3, "push")

    sealed = sealing.seal(key, {"kid": "d", "re": 3, "status": 200}, json.dumps(text).encode())
    opened = peer(open=sealed)
    assert opened["value"] == text
    assert opened["header"]["re"] == 3
