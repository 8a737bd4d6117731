"""A simulated daemon as a process of its own, for any test that needs a daemon to talk to."""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import requests

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 120
STOP_SECONDS = 60
INSTANT = {"ttft_seconds": 0, "tokens_per_second": 0, "load_seconds": 0}


class SimulatorProcess:
    """`start()`, use `url`, `stop()`. It ends with the test process, however that ends."""

    url: str
    process: subprocess.Popen

    def start(self, *args: str) -> "SimulatorProcess":
        """Start on a free port, or on the one in `args`; returns when it listens."""
        self.args = args if "--port" in args else ("--port", "0", *args)
        command = [sys.executable, "-m", "fleet.simulator", "--die-with-parent", *self.args]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        limit = threading.Timer(START_SECONDS, self.process.kill)
        limit.start()
        line = self.process.stdout.readline()
        limit.cancel()
        if " on http://" not in line:
            self.stop()
            raise RuntimeError(f"the simulated daemon did not start: {line!r}")
        self.url = line.split(" on ")[1].strip()
        return self

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def control(self, path: str, body: dict | None = None) -> dict:
        """POST to the control surface, e.g. control("models/*", {"fault": None})."""
        answer = requests.post(f"{self.url}/simulator/{path.lstrip('/')}", json=body or {}, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def reset(self, **speed) -> None:
        """As freshly started, and instant unless told otherwise."""
        self.control("reset")
        self.control("models/*", {**INSTANT, **speed})

    def state(self) -> dict:
        answer = requests.get(f"{self.url}/simulator", timeout=60)
        answer.raise_for_status()
        return answer.json()

    def stop(self) -> int:
        """End it as a supervisor would; returns its exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def restart(self) -> "SimulatorProcess":
        """End it and start it again on the same port, with the same arguments and empty memory."""
        port = str(self.port)
        self.stop()
        at = self.args.index("--port")
        return self.start(*self.args[:at], "--port", port, *self.args[at + 2 :])

    def _end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        code = self.process.wait(STOP_SECONDS)
        self.process.stdout.close()
        return code


def read_events(response: requests.Response) -> list[dict]:
    """The data of a server-sent event stream, in order, as far as the connection carried it."""
    events = []
    try:
        for line in response.iter_lines(chunk_size=None, delimiter=b"\n"):
            if line.startswith(b"data: {"):
                events.append(json.loads(line[6:]))
    except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ConnectionError):
        events.append({"type": "connection lost"})
    return events
