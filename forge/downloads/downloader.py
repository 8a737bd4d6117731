"""Begins downloads and follows them, whether or not anybody looks. The rows are all that must outlive a process.

That asking a daemon twice for one model is harmless (it answers with the job that runs, or "already_downloaded") is
taken to be so: the contract says nothing of it (§2.4), nor how long a daemon remembers its jobs (§2.5).
"""

import logging
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

from django.conf import settings
from django.db import close_old_connections
from django.utils import timezone

from daemonpulse.models.event import record, writing
from fleet.allocation.amounts import amount
from fleet.daemons.errors import DaemonError, Reason
from fleet.daemons.types import Download as Told
from fleet.models import ANSWERING
from fleet.texts import clean
from forge.downloads import disk
from forge.models import Download
from forge.models.download import UNDER_WAY, State

log = logging.getLogger(__name__)

MAX_CALLS = 4  # at a time; a node that is silent holds one for seconds
WATCHED_SECONDS, UNWATCHED_SECONDS = 1.0, 5.0  # between two questions how far it is
HOLD_OFF_SECONDS = 10.0  # before the node is told again of one that it did not take
BEAT = timedelta(seconds=5)
MAX_RESTARTS = 3
LONGEST_SECONDS = 30 * 24 * 3600.0  # an end that is further away than this is not told
MAX_WORDS = 200  # of the daemon's own

NO_REASON = (
    "The node gave up, and does not say why. Look into LM Studio’s own list of downloads and at the node’s "
    "disk and internet connection, then retry."
)
NO_JOB = (
    "The node took it, but did not say under which number, so it cannot be followed. "
    "It shows up among the models when it is there."
)
FORGOTTEN = "The node no longer knew this download, as after a restart. It is begun anew."
FORGOTTEN_OFTEN = (
    f"The node forgot this download {MAX_RESTARTS + 1} times. See whether LM Studio keeps restarting there, then retry."
)
TO_DO = {
    Reason.MODEL_NOT_FOUND: "Check its name, or look it up in the hub.",
    Reason.BAD_REQUEST: "Check the name and the quantization.",
}


class Downloader:
    """`step()` starts what is due and returns; slow nodes are waited for in threads."""

    def __init__(self):
        self.pool = ThreadPoolExecutor(MAX_CALLS, thread_name_prefix="download")
        self.handed: set[int] = set()  # pks that have a thread, or wait for one
        self.asked_at: dict[int, float] = {}  # pk → when its node was last spoken to of it

    def step(self) -> bool:
        """Begin what may begin and ask how far the others are. False when no download is open at all."""
        rows = list(Download.objects.open().select_related("node").order_by("asked_at", "pk"))
        pks = {row.pk for row in rows}
        self.asked_at = {pk: at for pk, at in self.asked_at.items() if pk in pks}
        under_way = Counter(row.node_id for row in rows if row.state in UNDER_WAY and not row.is_stalled)
        for row in rows:
            if row.pk in self.handed:
                _beat(row)
            elif row.state == State.ASKED:
                if row.is_lost:  # its worker died in mid-question
                    row.give_back()
            elif row.state == State.WAITING:
                if row.node.is_online and under_way[row.node_id] < settings.DOWNLOADS_PER_NODE:
                    under_way[row.node_id] += self._hand(row, begin, HOLD_OFF_SECONDS)
            elif row.node.state in ANSWERING:
                self._hand(row, follow, WATCHED_SECONDS if _is_watched(row) else UNWATCHED_SECONDS)
        return bool(rows)

    def _hand(self, row: Download, function: Callable[[Download], None], pause_seconds: float) -> bool:
        """Give it to a thread; False when its node was spoken to of it less than the pause ago."""
        now = time.monotonic()
        if now - self.asked_at.get(row.pk, -pause_seconds) < pause_seconds:
            return False
        self.asked_at[row.pk] = now
        self.handed.add(row.pk)
        self.pool.submit(self._run, row, function)
        return True

    def _run(self, row: Download, function: Callable[[Download], None]) -> None:
        try:
            close_old_connections()
            function(row)
        except Exception:
            log.exception("download.step_failed download=%s", row.pk)
        finally:
            self.handed.discard(row.pk)


def begin(row: Download) -> None:
    """Have the node download it.

    1. Its disk is known to be too small: failed, and nothing was sent.
    2. Somebody else has it, or the node has enough to do: nothing.
    3. The node is told, and what it answers is kept.
    """
    if problem := disk.problem(row.node, row.total_bytes):  # 1
        row.fail(problem)
        return
    if not row.claim(settings.DOWNLOADS_PER_NODE):  # 2
        return
    try:
        told = row.node.connect().download(row.source, row.quantization)  # 3
    except DaemonError as error:
        _not_begun(row, error)
    else:
        keep(row, told)


def follow(row: Download) -> None:
    """Ask the node how far it is."""
    daemon = row.node.connect()
    try:
        keep(row, daemon.download_status(row.job_id))
    except DaemonError as error:
        if error.reason is not Reason.JOB_NOT_FOUND:
            _not_heard(row, error)
        elif _is_there(row):
            row.finish()
        else:
            _begin_anew(row)


def keep(row: Download, told: Told) -> None:
    """Take in what the node told of it; pages hear of it when it is something that they show."""
    job_id = told.job_id or row.job_id
    if told.status in {"completed", "already_downloaded"}:
        row.finish(told.total_bytes)
    elif told.status == "failed":
        row.fail(NO_REASON)
    elif not job_id:
        row.fail(NO_JOB)
    else:
        state = State.PAUSED if told.status == "paused" else State.DOWNLOADING
        fields = figures(row, told, state, timezone.now()) | {"job_id": job_id, "problem": ""}
        if state != row.state:
            row.move(state, **fields)
        else:
            _tell(row, **fields)


def figures(row: Download, told: Told, state: State, now: datetime) -> dict:
    """The figures of the row after this answer: its own where the node tells none."""
    total = told.total_bytes or row.total_bytes
    got = row.downloaded_bytes if told.downloaded_bytes is None else told.downloaded_bytes
    has_moved = state != row.state or (got or 0) > (row.downloaded_bytes or 0)
    speed = _speed(row, told, now) if state == State.DOWNLOADING else None
    is_news = row.state == State.ASKED or total != row.total_bytes
    needed = None if total is None else max(0, total - (got or 0))
    return {
        "total_bytes": total,
        "downloaded_bytes": got,
        "bytes_per_second": speed,
        "finishes_at": _end(needed, speed, told.finishes_at, now),
        "moved_at": now if has_moved else row.moved_at,
        "checked_at": now,
        "caution": disk.caution(row.node, needed, disk.promised_bytes(row)) if is_news else row.caution,
    }


def _speed(row: Download, told: Told, now: datetime) -> float | None:
    """Bytes per second: as the node says, else between its last answer and this one."""
    if told.bytes_per_second is not None:
        return told.bytes_per_second
    if row.state != State.DOWNLOADING or None in (told.downloaded_bytes, row.downloaded_bytes, row.checked_at):
        return None
    seconds = (now - row.checked_at).total_seconds()
    return max(0, told.downloaded_bytes - row.downloaded_bytes) / seconds if seconds > 0 else None


def _end(needed: int | None, speed: float | None, told_at: float | None, now: datetime) -> datetime | None:
    """When it will be complete: from its speed, because the node's clock may differ, else as the node says."""
    if needed is not None and speed:
        seconds = needed / speed
    elif told_at is not None:
        seconds = told_at - now.timestamp()
    else:
        return None
    return now + timedelta(seconds=max(0.0, seconds)) if seconds < LONGEST_SECONDS else None


def _tell(row: Download, **fields) -> None:
    """Keep figures, and have pages show them if what they show is another."""
    before = _shown(row)
    with writing():
        if row.tell(**fields) and _shown(row) != before:
            record("download.moved", row.pk, node=row.node_id)


def _shown(row: Download) -> tuple:
    sizes = (row.downloaded_bytes, row.total_bytes, row.bytes_per_second)
    words = [None if size is None else amount(int(size)) for size in sizes]
    end = row.finishes_at.replace(microsecond=0) if row.finishes_at else None
    return row.percent, *words, end, row.is_stalled, row.problem, row.caution


def _not_begun(row: Download, error: DaemonError) -> None:
    """A node that is down is waited for; what may get better is tried a few times; the rest has failed."""
    if error.reason.may_mean_node_down:
        row.node.want_look()
    problem = _explained(error)
    if error.reason is Reason.UNREACHABLE:
        row.give_back(problem)
    elif error.reason.can_retry and row.restarts < MAX_RESTARTS:
        row.give_back(problem, is_restart=True)
    else:
        row.fail(f"{problem} {TO_DO.get(error.reason, 'Then retry.')}")


def _explained(error: DaemonError) -> str:
    """In our words and the daemon's; those quote no more than the name of the model, which is no secret."""
    words = clean(error.detail, MAX_WORDS).strip()
    return f"{error.reason.explanation} It said: “{words}”." if words else error.reason.explanation


def _not_heard(row: Download, error: DaemonError) -> None:
    """It may go on all the same: nothing is decided."""
    if error.reason.may_mean_node_down:
        row.node.want_look()
    _tell(row, problem=f"The node does not say how far it is. {error.reason.explanation}")


def _is_there(row: Download) -> bool:
    """Whether the node lists it by the very name that was asked for; else its answer to asking again will tell."""
    try:
        models = row.node.connect().models()
    except DaemonError:
        return False
    return any(
        model.key.casefold() == row.name.casefold()
        and row.quantization.casefold() in {"", model.quantization.casefold()}
        for model in models
    )


def _begin_anew(row: Download) -> None:
    if row.restarts < MAX_RESTARTS:
        row.give_back(FORGOTTEN, is_restart=True)
    else:
        row.fail(FORGOTTEN_OFTEN)


def _beat(row: Download) -> None:
    """Others are to know that somebody still waits for its node's answer."""
    last = row.checked_at or row.started_at
    if row.state == State.ASKED and timezone.now() - last > BEAT:
        row.tell(checked_at=timezone.now())


def _is_watched(row: Download) -> bool:
    return row.node.watched_until is not None and row.node.watched_until > timezone.now()
