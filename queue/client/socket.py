"""The socket to the server: it pokes when something changed, brings output as it comes, and its silence is news."""

import asyncio
import json
import time
from contextlib import suppress

import websockets
from django.utils import timezone
from websockets.asyncio.client import ClientConnection

from daemonpulse import sealing
from daemonpulse.consumers import in_thread

from ..models import Prompt, Remote
from ..models.mirrored import take_pieces, take_progress
from ..states import State
from . import trust
from .delivery import pending
from .line import Line, not_understood

# Together below 10 s with the call that confirms it: so soon a client knows that its server is gone.
PAUSE_SECONDS, ANSWER_SECONDS, OPEN_SECONDS = 1.0, 3.0, 6.0
FLUSH_SECONDS = 0.1
NOTED_SECONDS = 8.0
MOST_WATCHED = 20  # where the server has not told its limit
MAX_FRAME = 4 * 1024 * 1024  # bytes


class Lost(Exception):
    """The connection is gone, or was never there."""


class ServerSocket:
    """One connection. `on_news` is called when the server may have changes for us."""

    def __init__(self, remote: Remote, line: Line, on_news):
        self.remote, self.line, self.on_news = remote, line, on_news
        self.hello_seq = self.last_n = 0
        self.heard_at = time.monotonic()
        self.pieces: list[dict] = []
        self.look = asyncio.Event()  # what is watched may be another now
        self.watched: list[str] = []
        self.is_welcome = False
        self.saying = asyncio.Lock()  # numbers must go out in their order

    async def stay(self) -> None:
        """Connect and serve until the connection is lost. Raises Lost, CallFailed for a frame that is not ours."""
        tls = trust.context(self.remote.ca_certificate) if self.remote.url.startswith("https://") else None
        url = "ws" + self.remote.url.removeprefix("http") + "/ws/sync/v1/"
        try:
            async with websockets.connect(
                url, ssl=tls, proxy=None, compression=None, open_timeout=OPEN_SECONDS, close_timeout=1,
                ping_interval=None, max_size=MAX_FRAME,
            ) as connection:  # fmt: skip
                await self._serve(connection)
        except (OSError, TimeoutError, websockets.WebSocketException) as error:
            raise Lost from error

    async def _serve(self, connection: ClientConnection) -> None:
        hello = {"type": "hello", "token": self.line.token, "cursor": self.remote.cursor}
        hello["pending"] = await in_thread(pending)(self.remote.server)
        self.hello_seq = await self._say(connection, hello)
        tasks = [asyncio.create_task(each) for each in (
            self._receive(connection), self._keep_asking(connection), self._flush(), self._watch(connection),
        )]  # fmt: skip
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _say(self, connection: ClientConnection, frame: dict) -> int:
        async with self.saying:
            seq, sealed = await in_thread(self.line.seal)("socket", frame)
            await connection.send(sealed)
        return seq

    async def _receive(self, connection: ClientConnection) -> None:
        async for text in connection:
            self.heard_at = time.monotonic()
            frame = self._opened(text)
            match frame.get("type"):
                case "welcome":
                    self.is_welcome = True
                    await in_thread(Remote.note)(
                        self.line.device, is_working=bool(frame.get("is_working")), gone_since=None,
                        last_contact_at=timezone.now(),
                    )  # fmt: skip
                    self.on_news()
                case "poke" | "restart":
                    self.on_news()
                case "piece":
                    self.pieces.append(frame)
                case "progress":
                    await in_thread(take_progress)(frame)
                case "error" if isinstance(seen := (frame.get("error") or {}).get("seen"), int):
                    await in_thread(self.line.numbers.go_on_after)(seen)
                case "ping":
                    await self._say(connection, {"type": "pong"})
        raise Lost

    def _opened(self, text: str | bytes) -> dict:
        """A frame of the server. Raises CallFailed for one that was altered, or was here before."""
        try:
            header, body = sealing.open_sealed(self.line.key, text if isinstance(text, str) else "")
        except sealing.CannotOpen as error:
            raise not_understood("A frame was sealed with another key, or altered.") from error
        n = header.get("n")
        is_ours = header.get("kid") == self.line.device and header.get("re") == self.hello_seq
        if not is_ours or not isinstance(n, int) or n <= self.last_n:
            raise not_understood("A frame came twice, or is of another connection.")
        self.last_n = n
        frame = json.loads(body)
        return frame if isinstance(frame, dict) else {}

    async def _keep_asking(self, connection: ClientConnection) -> None:
        noted_at = 0.0
        while True:
            await asyncio.sleep(PAUSE_SECONDS)
            asked_at = time.monotonic()
            waiting = await in_thread(pending)(self.remote.server)
            await self._say(connection, {"type": "ping", "pending": waiting})
            await asyncio.sleep(ANSWER_SECONDS)
            if self.heard_at < asked_at:
                raise Lost
            if asked_at - noted_at > NOTED_SECONDS:
                noted_at = asked_at
                await in_thread(Remote.note)(self.line.device, is_news=False, last_contact_at=timezone.now())

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            if self.pieces:
                pieces, self.pieces = self.pieces, []
                if await in_thread(take_pieces)(pieces):
                    self.on_news()

    async def _watch(self, connection: ClientConnection) -> None:
        """What runs there is watched, so that its page here is live."""
        most = self.remote.limits.get("watched", MOST_WATCHED)
        while True:
            if (wanted := await in_thread(running)(self.remote.server, most)) != self.watched:
                self.watched = wanted
                await self._say(connection, {"type": "watch", "prompts": wanted})
            with suppress(TimeoutError):
                async with asyncio.timeout(30):  # wait_for() of Python 3.11 can lose a cancellation
                    await self.look.wait()
            self.look.clear()


def running(server: str, most: int) -> list[str]:
    sending = Prompt.objects.filter(state=State.SENDING, mirror__server=server).order_by("-started_at", "pk")
    return [str(pk) for pk in sending.values_list("pk", flat=True)[:most]]
