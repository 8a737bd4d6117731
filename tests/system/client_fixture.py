"""A client of an Installation: its own processes and data folder, and what a person there would do."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import requests

from benchmarks.site import ROOT, free_port
from daemonpulse import paths
from tests.conftest import wait_for

from .conftest import prepared

CODE = (
    "from daemonpulse.models import User; from daemonpulse.queue.models import PairingCode; "
    "print(PairingCode.issue(User.objects.first())[1])"
)
TOKEN = (
    "from daemonpulse.models import ApiToken, User; "
    "print(ApiToken.issue(User.objects.first(), 'test', ['read', 'write'])[1])"
)


class Client:
    """`start(code)` pairs it, `start()` starts it again; `kill()` is kill -9 of all its processes.

    `is_prepared`: it begins with an empty data folder that has its tables, which saves seconds.
    """

    def __init__(self, site, name: str = "laptop", is_prepared: bool = False):
        self.site, self.name = site, name
        self.data_dir = Path(tempfile.mkdtemp(prefix="daemonpulse-client-"))
        if is_prepared:
            shutil.copytree(Path(prepared().name) / "data", self.data_dir, dirs_exist_ok=True)
            paths.make_client(self.data_dir)
        self.environment = os.environ | {
            "DAEMONPULSE_DATA_DIR": str(self.data_dir), "DAEMONPULSE_LOG_LEVEL": "WARNING",
        }  # fmt: skip
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None
        self._token = ""

    @property
    def token(self) -> str:
        """For its own API; made when it is first asked for."""
        if not self._token:
            self._token = self.run("shell", "-v0", "-c", TOKEN).stdout.strip().splitlines()[-1]
        return self._token

    def copy(self, other: "Client") -> None:
        """Take another client's data folder, as somebody does who moves to a new computer."""
        shutil.copytree(other.data_dir, self.data_dir, dirs_exist_ok=True)
        self._token = other.token

    def code(self) -> str:
        return self.site._manage("shell", "-v0", "-c", CODE).strip().splitlines()[-1]

    def start(self, code: str = "", server: str = "") -> "Client":
        argv = [sys.executable, "-m", "daemonpulse", "client", "--port", str(self.port), "--name", self.name]
        argv += ["--server", server or self.site.url, "--pair", code] if code else []
        self.process = subprocess.Popen(argv, cwd=ROOT, env=self.environment, stdout=subprocess.DEVNULL)
        wait_for(self._answers, step=0.1)
        return self

    def _answers(self) -> bool:
        assert self.process.poll() is None, "the client did not start"
        try:
            return requests.get(f"{self.url}/static/daemonpulse/icon.svg", timeout=5).ok
        except requests.RequestException:  # it does not answer yet, or not soon
            return False

    def run(self, *arguments: str) -> subprocess.CompletedProcess:
        argv = [sys.executable, "-m", "daemonpulse", *arguments]
        return subprocess.run(
            argv, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )

    def api(self, method: str, path: str, **kwargs) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.token}"}
        return requests.request(method, f"{self.url}/api/v1{path}", headers=headers, timeout=20, **kwargs)

    def submit(self, model: str, text: str) -> str:
        answer = self.api("POST", "/prompts", json={"model": model, "text": text})
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    def browser(self) -> requests.Session:
        """Signed in, as a person's browser is."""
        session = requests.Session()
        session.get(self.run("sign-in-link", "--url", self.url).stdout.strip(), timeout=20)
        return session

    def header(self, session: requests.Session) -> str:
        """The line about the server, as every page has it."""
        html = session.get(f"{self.url}/", timeout=20).text
        return html.partition('id="server-state"')[2].partition("</div>")[0]

    def rows(self, query: str) -> list[tuple]:
        import sqlite3

        with sqlite3.connect(f"file:{self.data_dir}/daemonpulse.sqlite3?mode=ro", uri=True, timeout=20) as database:
            return database.execute(query).fetchall()

    def states(self) -> dict[str, int]:
        return dict(self.rows("SELECT state, count(*) FROM queue_prompt GROUP BY state"))

    def history(self) -> list[dict]:
        return [json.loads(line) for line in self.run("export_history").stdout.splitlines()]

    def files_with(self, words: str) -> list[str]:
        """The files of its data folder in which these words can be read."""
        files = [path for path in self.data_dir.rglob("*") if path.is_file()]
        return [str(path) for path in files if words.encode() in path.read_bytes()]

    def kill(self) -> None:
        children = psutil.Process(self.process.pid).children(recursive=True)
        for process in [psutil.Process(self.process.pid), *children]:
            process.kill()
        self.process.wait()
        psutil.wait_procs(children, timeout=10)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)
        shutil.rmtree(self.data_dir, ignore_errors=True)
