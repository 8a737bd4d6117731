"""A whole installation to measure: `daemonpulse up` on an empty data folder, and a daemon beside it."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
MODEL = "simulated/otter-8b"
KIND = "lmstudio"

SEED = """
from datetime import timedelta
from django.utils import timezone
from daemonpulse.models import ApiToken, User
from daemonpulse.queue.models import Attempt, Lane, Prompt
from fleet.models import Node
from forge.inventory import look
user = User.objects.first() or User.objects.create_superuser("bench")
node = Node(name="bench", base_url={daemon!r}, kind={kind!r})
node.is_simulated = node.connect().is_simulated()
node.save()
look(node)
lane = Lane.for_model({model!r})
now = timezone.now()
rows = [Prompt(owner=user, lane=lane, text="stored " * 20, state="done", position=n, attempt_number=1,
               enqueued_at=now - timedelta(minutes=n), finished_at=now - timedelta(minutes=n)) for n in range({rows})]
Prompt.objects.bulk_create(rows, batch_size=500)
Attempt.objects.bulk_create([Attempt(prompt=p, number=1, node=node, outcome="done", runner="seed", leased_until=now,
    started_at=p.enqueued_at, finished_at=p.finished_at, answer="an answer " * 30) for p in rows], batch_size=500)
print(ApiToken.issue(user, "bench", ["read", "write", "operate"])[1])
"""

# Ten machines of eight GPUs; switched off, so that nobody looks for them.
FLEET = """
import time
from fleet.models import Node, Reading
from fleet.telemetry.readings import Gpu, GpuProcess, Machine
from forge.models import Model
G = 2**30
CARD = "NVIDIA GeForce RTX 4090"
for n in range(10):
    host = f"http://192.0.2.{n + 1}"
    node = Node.objects.create(name=f"rig {n}", base_url=f"{host}:1234", agent_url=f"{host}:8643", is_enabled=False,
        state="online", latency_seconds=0.01, tags=["rack"])
    held = (GpuProcess(4711, "llmster", 17 * G, True),)
    figures = (24 * G, 18 * G, 6 * G, 94.0, 71.0, 320.0, 450.0)
    gpus = tuple(Gpu(i, CARD, "nvml", f"GPU-{n}-{i}", *figures, processes=held) for i in range(8))
    Reading.of(node).keep(Machine(time.time(), cpu_count=16, cpu_percent=12.0, ram_total_bytes=64 * G,
        ram_used_bytes=20 * G, gpus=gpus))
    Model.objects.bulk_create(Model(node=node, key=f"acme/model-{m}", name="M", type="llm",
        loaded=["x"] if m < 3 else []) for m in range(10))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Daemon:
    """The simulated daemon in a process of its own, not part of what is measured."""

    def __init__(self):
        argv = [sys.executable, "-m", "fleet.simulator", "--port", "0", "--vram-gb", "80", "--slots", "16"]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self.url = self.process.stdout.readline().split()[-1]

    def control(self, path: str, body: dict) -> dict:
        return self._call(path, json.dumps(body).encode())

    def state(self) -> dict:
        return self._call("/simulator", None)

    def _call(self, path: str, body: bytes | None) -> dict:
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or b"{}")

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Site:
    """`daemonpulse up` with one node, a token, and `rows` stored prompts."""

    def __init__(self, daemon: Daemon, rows: int):
        self._folder = tempfile.TemporaryDirectory(prefix="daemonpulse-bench-", ignore_cleanup_errors=True)
        self.data_dir = Path(self._folder.name)
        self.environment = os.environ | {"DAEMONPULSE_DATA_DIR": str(self.data_dir), "DAEMONPULSE_LOG_LEVEL": "WARNING"}
        self._prepare()
        seed = SEED.format(daemon=daemon.url, kind=KIND, model=MODEL, rows=rows)
        self.token = self._manage("shell", "-v0", "-c", seed).strip().splitlines()[-1]
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    def _prepare(self) -> None:
        """Make its key and its tables."""
        self._manage("prepare", "--simulator-port", "1", "--no-simulator")

    def _manage(self, *arguments: str) -> str:
        argv = [sys.executable, "-m", "daemonpulse", *arguments]
        return subprocess.run(
            argv, cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, text=True, check=True
        ).stdout

    def up(self) -> float:
        """Start it; returns the seconds until a page answered."""
        started = time.perf_counter()
        argv = [sys.executable, "-m", "daemonpulse", "up", "--port", str(self.port), "--no-simulator"]
        self.process = subprocess.Popen(argv, cwd=ROOT, env=self.environment, stdout=subprocess.DEVNULL)
        while time.perf_counter() - started < 120:
            try:
                with urllib.request.urlopen(f"{self.url}/static/daemonpulse/icon.svg", timeout=5) as answer:
                    if answer.status == 200:
                        return time.perf_counter() - started
            except OSError:
                time.sleep(0.02)
        raise RuntimeError("it did not start")

    def session(self) -> str:
        """A signed-in user's session cookie."""
        link = self._manage("sign_in_link", "--url", self.url).strip()
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        opener.open(link, timeout=60).read()
        jar = next(handler.cookiejar for handler in opener.handlers if hasattr(handler, "cookiejar"))
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in jar)

    def add_fleet(self) -> None:
        self._manage("shell", "-v0", "-c", FLEET)

    def memory(self) -> dict[str, float]:
        """Proportional set size of every process of the tree, in MiB."""
        tree = [psutil.Process(self.process.pid)]
        tree += tree[0].children(recursive=True)
        sizes: dict[str, float] = {}
        for process in tree:
            name = process.cmdline()[3] if len(process.cmdline()) > 3 else process.name()
            sizes[name] = sizes.get(name, 0) + process.memory_full_info().pss / 2**20
        return sizes

    def cpu(self) -> dict[str, float]:
        """Seconds of processor time so far, by kind of process."""
        seconds: dict[str, float] = {}
        for process in psutil.Process(self.process.pid).children(recursive=True):
            times = process.cpu_times()
            name = process.cmdline()[3]
            seconds[name] = seconds.get(name, 0) + times.user + times.system
        return seconds

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
