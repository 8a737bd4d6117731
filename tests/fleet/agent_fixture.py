"""A node agent as a process of its own, for any test that needs one to talk to."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from fleet.agent.client import AgentClient
from fleet.agent.keys import FILE, AgentKey
from tests.fleet.simulator_fixture import ROOT, START_SECONDS, STOP_SECONDS


class AgentProcess:
    """`start()`, use `url`, `key` and `client`, `stop()`. It ends with the test process, however that ends.

    `home` is the home of its user, with LM Studio's folder in it; its own files are in `data_dir`, below it.
    """

    url: str
    process: subprocess.Popen

    def __init__(self, home: Path, environment: dict[str, str] | None = None):
        self.home = home
        self.data_dir = home / ".local" / "share" / "daemonpulse-agent"
        self.environment = {**os.environ, "HOME": str(home), "PYTHONUNBUFFERED": "1", **(environment or {})}
        self.environment.pop("XDG_DATA_HOME", None)

    def start(self, *args: str) -> "AgentProcess":
        """Start on a free port, or on the one in `args` (as --host 127.0.0.2 too); returns when it listens."""
        self.args = args if "--port" in args else ("--port", "0", *args)
        command = [sys.executable, "-m", "fleet.agent", "serve", "--die-with-parent", *self.args]
        self.process = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, text=True)
        limit = threading.Timer(START_SECONDS, self.process.kill)
        limit.start()
        line = self.process.stdout.readline()
        limit.cancel()
        if " listening on http" not in line:
            self.stop()
            raise RuntimeError(f"the agent did not start: {line!r}")
        self.url = line.split(" on ")[1].strip()
        return self

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def key(self) -> AgentKey:
        return AgentKey.parse((self.data_dir / FILE).read_text())

    @property
    def client(self) -> AgentClient:
        return AgentClient(self.url, self.key)

    def summary(self) -> str:
        """The log for people, as far as it goes."""
        file = self.data_dir / "summary.log"
        return file.read_text() if file.exists() else ""

    def stop(self) -> int:
        """End it as systemd would; returns its exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """It hangs: connections are taken by the kernel, and nobody answers."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def restart(self) -> "AgentProcess":
        """End it and start it again on the same port, with the same arguments."""
        port = str(self.port)
        self.stop()
        at = self.args.index("--port")
        return self.start(*self.args[:at], "--port", port, *self.args[at + 2 :])

    def _end(self, number: signal.Signals) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
        code = self.process.wait(STOP_SECONDS)
        self.process.stdout.close()
        return code
