"""The background of a client: delivers, listens and notices when the server goes or comes back. It never raises."""

import asyncio
import logging
import random
import time
from contextlib import suppress
from urllib.parse import urlsplit

from django.db import DatabaseError
from django.utils import timezone

from daemonpulse import wakeup
from daemonpulse.consumers import in_thread

from ..models import Remote
from .delivery import Delivery, Superseded
from .line import CallFailed, Line, Numbers
from .socket import Lost, ServerSocket

log = logging.getLogger(__name__)

FIRST_SECONDS, MOST_SECONDS = 1.0, 60.0  # between tries to deliver
RECONNECT_SECONDS, MOST_RECONNECT_SECONDS = 0.5, 30.0
PROBE_SECONDS = 3.0  # how often a server that is gone is looked for
PRESENCE_TIMEOUT = (1.5, 3)  # of the call that tells a lost socket from a lost server
LOOK_SECONDS = 6.0  # a server does not poke when execution stops or starts there
MODELS_SECONDS = 60.0
REST_SECONDS = 30.0  # without a call somebody looks all the same
ALONE_SECONDS = 10.0  # the same while the socket cannot be opened: nobody pokes then
SHUT_OUT_SECONDS = 300.0  # a server that does not know this device may get the right data folder back
MOST_RETRY_SECONDS = 600.0  # of what a server may ask for
TIDY_SECONDS = 600.0
NEVER = float("-inf")  # the clock may have started with the machine, a moment ago
WORDS = {
    "unknown_token": "The server at {url} does not know this computer. Either another server is there now, or this one "
    "was put back to a state from before the pairing. What waits here stays; pair again if that is your server.",
}
COPIED = (
    "Something else calls the server with this computer’s key: most likely its data folder was copied, and both copies "
    "run. Nothing is lost or runs twice, but both are slower. Pair one of the two again, and it gets a key of its own."
)
FAULT = "This client stumbled over something; its log says over what. It tries again by itself."
PASSING = {"too_fast", "replayed"}  # nothing that a person could mend


def back_off(failures: int, first: float, most: float) -> float:
    """1, 2, 4 … times `first`, each shortened by up to half at random."""
    return min(first * 2 ** min(failures, 16), most) * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load


class Courier:
    """`due`: something may be to deliver. Two loops: one delivers, one keeps the socket."""

    def __init__(self):
        self.due = asyncio.Event()
        self.paired = asyncio.Event()  # set at every call: is it another pairing now?
        self.delivery: Delivery | None = None
        self.socket: ServerSocket | None = None
        self.numbers: Numbers | None = None
        self.failures = 0
        self.looked_at = self.models_at = self.shut_out_at = NEVER
        self.not_before = 0.0  # the server asked for that

    async def run(self) -> None:
        listener = await in_thread(wakeup.listen)(hear_self=False)
        if listener.fileno() is not None:
            asyncio.get_running_loop().add_reader(listener.fileno(), self._hear, listener)
        await asyncio.gather(self._forever(self._deliver), self._forever(self._listen), self._forever(self._tidy))

    def _hear(self, listener) -> None:
        if listener.drain():
            self.due.set()
            self.paired.set()

    async def _forever(self, loop) -> None:
        failures = 0
        while True:
            try:
                await loop()
                failures = 0
            except Exception:
                log.exception("courier.failed")
                await in_thread(self.note_fault)()
                await asyncio.sleep(back_off(failures, FIRST_SECONDS, MOST_SECONDS))
                failures += 1

    @staticmethod
    def note_fault() -> None:
        """So that a page says it as well."""
        with suppress(DatabaseError):
            if remote := Remote.current():
                note_failure(remote.device, CallFailed("fault", FAULT))

    def news(self) -> None:
        """The server may have changes for us."""
        if self.delivery is not None:
            self.delivery.is_behind = True
        self.due.set()

    # Delivering

    async def _deliver(self) -> None:
        self.due.clear()
        seconds = await in_thread(self.deliver_all)()
        if self.socket is not None:
            self.socket.look.set()
        await asyncio.sleep(self.not_before - time.monotonic())
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.due.wait()

    def deliver_all(self) -> float:
        """Do everything that is to be done; returns after how many seconds to look again without a call."""
        remote = Remote.current()
        if remote is None or not self._may_call(remote):
            self.delivery = None
            return REST_SECONDS
        if self.delivery is None or self.delivery.device != remote.device:
            self.delivery, self.failures = Delivery(remote, self.numbers_of(remote)), 0
            self.looked_at = self.models_at = NEVER
        try:
            self._work(self.delivery, remote)
        except Superseded:
            return 0.0
        except CallFailed as failure:
            return self._failed(self.delivery, failure)
        self.failures = 0
        if self.numbers_of(remote).are_anothers_too:
            Remote.warn(remote.device, "copied", COPIED)
            self.numbers_of(remote).jumped_at.clear()  # whoever has seen it is told again when it goes on
        return LOOK_SECONDS if self.is_poked else ALONE_SECONDS

    @property
    def is_poked(self) -> bool:
        return self.socket is not None and self.socket.is_welcome

    def numbers_of(self, remote: Remote) -> Numbers:
        if self.numbers is None or self.numbers.device != remote.device:
            self.numbers = Numbers(remote.device)
        return self.numbers

    def _may_call(self, remote: Remote) -> bool:
        """Who is shut out may leave all the same; and a server that knew us may know us again."""
        if not remote.is_shut_out or (remote.is_paired and remote.is_leaving):
            return True
        if remote.problem != "unknown_token" or time.monotonic() - self.shut_out_at < SHUT_OUT_SECONDS:
            return False
        self.shut_out_at = time.monotonic()
        return True

    def _work(self, delivery: Delivery, remote: Remote) -> None:
        """1. Look how the server is; after a failure first of all, so that nothing counts as sent to one that is gone.
        2. Its models. 3. The outbox and the changes."""
        if remote.is_leaving:
            delivery.leave()
            return
        now, has_worked = time.monotonic(), False
        if self.failures or now - self.looked_at > LOOK_SECONDS / 2:  # 1
            delivery.ping()
            self.looked_at = now
        if now - self.models_at > (MODELS_SECONDS if self.is_poked else ALONE_SECONDS / 2):  # 2
            delivery.models()
            self.models_at = now
            has_worked = True
        while delivery.step():  # 3
            has_worked = True
        if has_worked:
            delivery.note_done()

    def _failed(self, delivery: Delivery, failure: CallFailed) -> float:
        """Keep what a person must know of it; returns when to try again."""
        self.failures += 1
        delivery.is_behind = True
        log.info("courier.call_failed code=%s status=%s", failure.code, failure.status)
        note_failure(delivery.device, failure)
        if failure.code == "unknown_token":
            self.shut_out_at = time.monotonic()
        if failure.code == "too_fast":
            seconds = seconds_of(failure.told.get("retry_after"))
            self.not_before = time.monotonic() + seconds
            return seconds
        return back_off(self.failures - 1, FIRST_SECONDS, MOST_SECONDS)

    # Listening

    async def _listen(self) -> None:
        """1. Stay connected as long as it goes. 2. Lost: is the server gone? 3. Try again after a while, or at once
        when it is back."""
        tries = 0
        while True:
            self.paired.clear()
            remote = await in_thread(Remote.current)()
            if remote is None or remote.is_shut_out or remote.is_leaving:
                with suppress(TimeoutError):
                    async with asyncio.timeout(REST_SECONDS):
                        await self.paired.wait()
                continue
            line = Line(remote, self.numbers_of(remote))
            self.socket = ServerSocket(remote, line, self.news)
            await self._stay(self.socket, remote)  # 1
            tries = 0 if self.socket.is_welcome else tries + 1
            self.socket = None
            await in_thread(self._look_whether_gone)(line, remote)  # 2
            await self._wait_for_return(remote, back_off(tries, RECONNECT_SECONDS, MOST_RECONNECT_SECONDS))  # 3

    async def _stay(self, socket: ServerSocket, remote: Remote) -> None:
        """Until the connection is lost, or this client is paired anew."""
        staying = asyncio.create_task(socket.stay())
        while not staying.done():
            calling = asyncio.create_task(self.paired.wait())
            await asyncio.wait({staying, calling}, return_when=asyncio.FIRST_COMPLETED)
            calling.cancel()
            self.paired.clear()
            now = await in_thread(Remote.current)()
            if now is None or now.device != remote.device or now.is_shut_out or now.is_leaving:
                staying.cancel()
                break
        try:
            await staying
        except (Lost, asyncio.CancelledError):
            pass
        except CallFailed as failure:
            log.warning("courier.frame_refused code=%s", failure.code)

    def _look_whether_gone(self, line: Line, remote: Remote) -> None:
        now = Remote.current()
        if now is None or now.device != remote.device or now.is_leaving or not now.is_paired:
            return
        delivery = Delivery(remote, line.numbers)
        delivery.line = line
        try:
            delivery.ping(PRESENCE_TIMEOUT)
        except CallFailed as failure:
            note_failure(remote.device, failure)
        except Superseded:
            return
        else:
            Remote.note(remote.device, is_news=now.gone_since is not None, gone_since=None)

    async def _wait_for_return(self, remote: Remote, seconds: float) -> None:
        until = time.monotonic() + seconds
        was_there = await reaches(remote.url)
        while (rest := until - time.monotonic()) > 0:
            await asyncio.sleep(min(rest, PROBE_SECONDS))
            if not was_there and await reaches(remote.url):
                self.due.set()
                return

    async def _tidy(self) -> None:
        from ..watch import tidy

        await asyncio.sleep(TIDY_SECONDS)
        await in_thread(tidy)()


def seconds_of(told: object) -> float:
    """How long a server asks us to wait, within reason."""
    is_number = isinstance(told, int | float) and not isinstance(told, bool)
    return min(max(float(told), 1.0), MOST_RETRY_SECONDS) if is_number else MOST_SECONDS


def note_failure(device: str, failure: CallFailed) -> None:
    """What the pages say of it: gone since when, or what a person must mend. What is known already is no news."""
    remote = Remote.objects.filter(device=device).first()
    if remote is None:
        return
    if failure.code == "gone":
        if remote.gone_since is None:
            Remote.note(device, gone_since=timezone.now())
        return
    text = WORDS[failure.code].format(url=remote.url) if failure.code in WORDS else failure.message
    told = {"problem": failure.code, "problem_text": text[:500]}
    if failure.code not in PASSING and told != {name: getattr(remote, name) for name in told}:
        Remote.note(device, **told, gone_since=None)
        log.warning("courier.problem code=%s", failure.code)


async def reaches(url: str) -> bool:
    """Whether something listens at the server's address."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        async with asyncio.timeout(2):
            _, writer = await asyncio.open_connection(parts.hostname, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True
