"""Simulated downloads: jobs that take some seconds and end with one more model (contract §2.4, §2.5).

A name with "broken" in it fails half way, and one with "stalled" stops moving, so that this can be seen as well.
"""

import re
import secrets
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from twisted.internet import reactor
from twisted.internet.interfaces import IDelayedCall

from fleet.simulator.catalogue import ScriptedModel
from fleet.simulator.errors import ApiError, UnknownModel
from fleet.simulator.models import Model
from fleet.simulator.settings import Settings

DOWNLOAD_SECONDS = 4.0
BROKEN_AT, STALLED_AT = 0.5, 0.4  # shares of the whole
NAME = re.compile(r"[\w.-]+/[\w.-]+")
HUB_PREFIX = "https://huggingface.co/"


@dataclass
class Job:
    id: str
    total_bytes: int
    started_at: float  # unix
    seconds: float
    fails: bool
    stalls: bool
    is_done: bool = False
    timer: IDelayedCall | None = None

    def status_json(self) -> dict:
        # Below 1 until the model is listed: "completed" promises that it can be used.
        share = 1.0 if self.is_done else min(0.99, (time.time() - self.started_at) / self.seconds)
        answer = {
            "job_id": self.id,
            "total_size_bytes": self.total_bytes,
            "started_at": _iso(self.started_at),
        }
        end = self.started_at + self.seconds
        if self.fails and share >= BROKEN_AT:
            return {**answer, "status": "failed", "downloaded_bytes": int(self.total_bytes * BROKEN_AT)}
        if self.stalls and share >= STALLED_AT:
            done = int(self.total_bytes * STALLED_AT)
            return {**answer, "status": "downloading", "bytes_per_second": 0.0, "downloaded_bytes": done}
        if share >= 1.0:
            done = {"status": "completed", "downloaded_bytes": self.total_bytes, "completed_at": _iso(end)}
            return {**answer, **done}
        return {
            **answer,
            "status": "downloading",
            "bytes_per_second": round(self.total_bytes / self.seconds, 1),
            "estimated_completion": _iso(end),
            "downloaded_bytes": int(self.total_bytes * share),
        }


class Downloads:
    def __init__(self, settings: Settings, models: dict[str, Model], add_model: Callable[[ScriptedModel], None]):
        self._settings, self._models, self._add_model = settings, models, add_model
        self._jobs: dict[str, Job] = {}

    def start(self, source: str, quantization: str | None) -> dict:
        """The job object for a catalogue name or a hub address; raises ApiError for anything else."""
        key = source.removeprefix(HUB_PREFIX).rstrip("/")
        if quantization is not None and key == source:
            message = "'quantization' goes with a full repository address only."
            raise ApiError(400, "invalid_request", message, "invalid_value", "quantization")
        if key in self._models:
            return {"status": "already_downloaded"}
        if not NAME.fullmatch(key):
            raise UnknownModel(source)
        size = 1_000_000_000 + zlib.crc32(key.encode()) % 4_000_000_000
        script = ScriptedModel(
            key,
            f"{key.partition('/')[2]} (simulated)",
            size_bytes=size,
            quantization=quantization or "Q4_K_M",
        )
        return self._begin(script)

    def _begin(self, script: ScriptedModel) -> dict:
        seconds = self._settings.scaled(DOWNLOAD_SECONDS)
        fails, stalls = "broken" in script.key, "stalled" in script.key
        job = Job(f"job_{secrets.token_hex(5)}", script.size_bytes, time.time(), seconds, fails, stalls)
        if not (fails or stalls):
            job.timer = reactor.callLater(seconds, self._finish, job, script)
        self._jobs[job.id] = job
        status = job.status_json()
        return {name: status[name] for name in ("job_id", "status", "total_size_bytes", "started_at")}

    def _finish(self, job: Job, script: ScriptedModel) -> None:
        self._add_model(script)
        job.is_done = True

    def status(self, job_id: str) -> dict:
        if job_id not in self._jobs:
            raise ApiError(404, "job_not_found", f'No download job "{job_id}".', "job_not_found")
        return self._jobs[job_id].status_json()

    def forget(self) -> None:
        """Drop all jobs; none of them adds its model any more."""
        for job in self._jobs.values():
            if job.timer is not None and job.timer.active():
                job.timer.cancel()
        self._jobs.clear()


def _iso(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
