"""An LM Studio of its own for a test: a user's home with its folder, a fake `lms` in it, and a port for its server."""

import contextlib
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from fleet.lms.cli import Lms
from tests.fleet.simulator_fixture import ROOT

COMMAND = f"""#!{sys.executable} -SE
import sys

sys.path.insert(0, {str(Path(__file__).parent)!r})
import fake_lms

del sys.path[0]
fake_lms.run(__file__)
"""
OTTER, HERON = "simulated/otter-8b", "simulated/heron-3b"
SURVEY = {
    "status": "ok",
    "engines": [
        {
            "name": "llama.cpp-linux-x86_64-nvidia-cuda12-avx2",
            "version": "2.31.2",
            "engine": "llama.cpp",
            "platform": "linux",
            "compatibility": {"status": "compatible"},
            "supportedModelFormatNames": ["GGUF"],
            "hardwareSurvey": {
                "gpuSurveyResult": {
                    "result": {"code": "success", "message": ""},
                    "gpuInfo": [
                        {
                            "name": "Example RTX",
                            "deviceId": 0,
                            "totalMemoryCapacityBytes": 25757220864,
                            "dedicatedMemoryCapacityBytes": 25757220864,
                            "integrationType": "discrete",
                            "detectionPlatform": "CUDA",
                            "detectionPlatformVersion": "12.4",
                            "otherInfo": {},
                        }
                    ],
                },
                "cpuSurveyResult": {
                    "result": {"code": "success", "message": ""},
                    "cpuInfo": {"architecture": "x86_64", "supportedInstructionSetExtensions": ["AVX", "AVX2"]},
                },
            },
            "memoryInfo": {"ramCapacity": 68719476736, "vramCapacity": 25757220864, "totalMemory": 94476697600},
        }
    ],
}
FITS = "Estimate: This model may be loaded based on your resource guardrails settings."
FRESH = {
    # What it remembers.
    "daemon": None,
    "server": None,
    "loaded": [],
    "woken": 0,
    "cold": False,
    "children": [],
    "detached": [],
    # What a test may change: see FakeLMStudio.configure.
    "models": [{"modelKey": OTTER, "variants": [f"{OTTER}@q4_k_m"], "selectedVariant": f"{OTTER}@q4_k_m"},
               {"modelKey": HERON}],
    "hang": [],
    "ignores_terminate": False,
    "slow": {},
    "fail": {},
    "fail_once": {},
    "noise": {},
    "passkey_mismatch": False,
    "passkey_exit": 1,
    "says_failed": False,
    "server_lands_on": None,
    "server_stays_down": False,
    "server_never_stops": False,
    "gui": False,
    "version": "0.0.23+1",
    "new_version": "0.0.24+1",
    "cold_start": False,
    "cold_models": 0,
    "load_seconds": 0,
    "update_lines": ["Downloading llmster 0.0.24+1", "Installed."],
    "update_pause": 0,
    "update_exit": 0,
    "estimate": ["Estimated GPU Memory:   4.10 GiB", "Estimated Total Memory: 5.77 GiB", "", FITS],
    "survey": SURVEY,
    "link": {"status": "offline", "issues": ["notLoggedIn"], "peers": [], "deviceIdentifier": None,
             "deviceName": "rig"},
    "only_greets": False,
    "simulator_args": ["--speed", "50"],
}  # fmt: skip


class FakeLMStudio:
    """`home` is the user's home, `folder` LM Studio's folder in it, `port` where its server goes; `stop()` at the end.

    It is installed and bootstrapped, and nothing runs. With platform="win32" the command is bin/lms.exe.
    """

    def __init__(self, tmp_path: Path, platform: str = "linux", **switches):
        self.home = tmp_path / "home"
        self.folder = self.home / ".lmstudio"
        self.lms = self.folder / "bin" / ("lms.exe" if platform == "win32" else "lms")
        self.fake = self.folder / ".fake"
        self.fake.mkdir(parents=True)
        self.lms.parent.mkdir()
        self.lms.write_text(COMMAND)
        self.lms.chmod(0o755)
        self._write({**FRESH, "owner": os.getpid(), "root": str(ROOT)})
        self.port = free_port()
        self.write_server_config(port=self.port, networkInterface="127.0.0.1")
        self.configure(**switches)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def configure(self, **switches) -> None:
        """Change how it behaves; commands are named by their words, such as "server start".

        hang=["ps"], ignores_terminate   never answers (with a child in its process group and a detached one)
        slow={"ps": 0.5}                 seconds before it does anything; "greeting": a server that only greets
        fail={"ps": "text"}, fail_once   "Error: text" on stderr and exit code 1
        noise={"load": ["line"]}         extra lines on stdout
        passkey_mismatch, passkey_exit   "Invalid passkey for lms CLI client"
        says_failed                      `server start` reports failure although the server is up
        server_lands_on=4321, server_stays_down, server_never_stops
        gui                              the daemon is the desktop application
        cold_start, cold_models          the first `ls` after the daemon's start lists only so many models
        models, load_seconds, estimate   what `ls`, `load` and `load --estimate-only` work with
        only_greets                      its server answers the greeting and nothing else, but starts at once
        update_lines, update_pause, update_exit, version, new_version, survey, link, simulator_args

        What waits (slow, load_seconds, update_pause) goes on as soon as it is told to wait for less.
        """
        unknown = set(switches) - set(FRESH)
        assert not unknown, f"the fake lms knows no {unknown}"
        self._change(**switches)

    def state(self) -> dict:
        return json.loads((self.fake / "state.json").read_text())

    def calls(self) -> list[dict]:
        """Every call so far: argv, pid, group, stdin ("devnull", "tty", "other"), env, daemon_was_running, at."""
        try:
            return [json.loads(line) for line in (self.fake / "calls.jsonl").read_text().splitlines()]
        except FileNotFoundError:
            return []

    def commands(self) -> list[str]:
        return [" ".join(call["argv"]) for call in self.calls()]

    def give_time_to_hang(self, monkeypatch) -> None:
        """From now on, a command's time limit begins when it hangs, or asks a person: a busy machine may take longer
        than the limit to get it there."""
        start = Lms.start

        def start_and_wait(lms: Lms, *args: str):
            process = start(lms, *args)
            assert wait_for((self.fake / "stuck").exists)
            return process

        monkeypatch.setattr(Lms, "start", start_and_wait)

    def log(self, source: str, entry: dict) -> None:
        """A line for `lms log stream -s source`."""
        with (self.fake / f"log-{source}.jsonl").open("a") as lines:
            lines.write(json.dumps(entry) + "\n")

    def write_server_config(self, **config) -> None:
        internal = self.folder / ".internal"
        internal.mkdir(exist_ok=True)
        (internal / "http-server-config.json").write_text(json.dumps(config))

    def lose_daemon(self) -> None:
        """As if it had crashed: its processes are gone."""
        state = self.state()
        self._end(running["pid"] for running in (state["server"], state["daemon"]) if running)
        self._change(server=None, daemon=None, loaded=[])

    def stop(self) -> None:
        """End every process that it started."""
        state = self.state()
        running = [running["pid"] for running in (state["server"], state["daemon"]) if running]
        self._end([*running, *state["children"], *state["detached"], *(call["pid"] for call in self.calls())])

    def _end(self, pids) -> None:
        for pid in pids:
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                if str(self.home) in " ".join(process.cmdline()) or pid in self._own():
                    process.kill()
                    wait_for(lambda process=process: not lives(process.pid))

    def _own(self) -> list[int]:
        state = self.state()
        return [*state["children"], *state["detached"]]

    def _change(self, **values) -> None:
        with (self.fake / "lock").open("w") as lock:  # a running lms may write its state too
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._write({**self.state(), **values})

    def _write(self, state: dict) -> None:
        new = self.fake / "state.new"
        new.write_text(json.dumps(state))
        new.replace(self.fake / "state.json")


def lives(pid: int) -> bool:
    """The process runs; one that only waits to be reaped does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(is_true: Callable[[], bool], seconds: float = 60) -> bool:
    until = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]
