"""The socket of a paired device: told when something changed, and the pieces of what it watches."""

import asyncio
import json
import time
from collections import Counter
from contextlib import suppress
from typing import ClassVar

from autobahn.exception import Disconnected
from channels.exceptions import StopConsumer
from channels.generic.websocket import AsyncWebsocketConsumer

from daemonpulse import sealing
from daemonpulse.consumers import in_thread
from daemonpulse.tail import tail

from ..models import Device, Runner
from . import cursors, door
from .about import MOST_PENDING, WATCHED, server
from .errors import SyncError, wrong_field
from .pulling import owned
from .schema import counted, fields_of, uuid_of

HELLO_SECONDS = 10.0
PING_SECONDS, ANSWER_SECONDS = 20.0, 8.0
POKE_SECONDS = 0.1
NOTED_SECONDS = 8.0  # a device that says the same again is written down so often
MALFORMED, NOT_ADMITTED, REVOKED, SILENT, VERSION, AGAIN = 4400, 4401, 4403, 4408, 4426, 4429
MAY_COME_BACK = {"too_fast", "replayed"}
HELLO = {"type": str, "token": str, "cursor": str, "pending": int}
FRAMES = {
    "ping": {"type": str, "pending": int},
    "pong": {"type": str},
    "watch": {"type": str, "prompts": list},
}
SHOWN_KIND = {"reasoning": "reasoning", "message": "answer"}


class SyncConsumer(AsyncWebsocketConsumer):
    """1. connect: wait for the hello. 2. receive: the hello admits, the rest is answered. 3. event: poke, pieces."""

    open_sockets: ClassVar[Counter] = Counter()  # of this process, by device: one may have several for a moment
    device: Device | None = None
    last_id = 0
    is_closing = False

    async def __call__(self, scope, receive, send):
        try:
            await super().__call__(scope, receive, send)
        except StopConsumer:
            raise
        except Exception:  # Channels then sends no disconnect
            await self._let_go()
            raise

    async def connect(self):
        self.groups_watched: set[str] = set()
        self.seq = self.hello_seq = self.sent = 0
        self.heard_at = time.monotonic()
        self.noted_at, self.noted_pending = 0.0, None
        self.tasks: set[asyncio.Task] = set()
        self.poke_due: str | None = None
        await self.accept()
        if int(self.scope["url_route"]["kwargs"]["version"]) != door.VERSION:
            await self.close(VERSION)
            return
        self._start(self._close_without_hello())

    async def disconnect(self, code):
        await self._let_go()

    async def _let_go(self) -> None:
        self.is_closing = True
        for task in self.tasks:
            task.cancel()
        groups, self.groups_watched = self.groups_watched, set()
        for group in groups:
            await tail().unwatch(group, self.channel_name)
        if self.device is None:
            return
        key, self.device = self.device.pk, None
        self.open_sockets[key] -= 1
        if not self.open_sockets[key]:
            del self.open_sockets[key]
            await in_thread(Device(pk=key).gone)()

    async def close(self, code=None, reason=None):
        """What comes after this is not heard."""
        if not self.is_closing:
            self.is_closing = True
            await super().close(code, reason)

    async def receive(self, text_data=None, bytes_data=None):
        if self.is_closing:
            return
        self.heard_at = time.monotonic()
        try:
            if self.device is None:
                await self._greet(text_data or "")
            else:
                await self._hear(await self._opened(text_data or ""))
        except SyncError as error:
            await self._refuse(error)

    async def event(self, message: dict):
        if self.is_closing or message["id"] <= self.last_id:  # one event may come through several groups
            return
        self.last_id = message["id"]
        kind, subject = message["kind"], message["subject"]
        if kind == "device.revoked" and subject == str(self.device.pk):
            await self.close(REVOKED)
        elif kind == "prompt.output":
            for piece in message.get("pieces", ()):
                await self._say("piece", prompt=subject, attempt=piece["attempt"], offset=piece["offset"],
                                kind=SHOWN_KIND[piece["kind"]], text=piece["text"])  # fmt: skip
        elif kind == "prompt.reclassified":
            await self._say("restart", prompt=subject)
        elif kind == "prompt.progress":
            if f"prompt.{subject}" in self.groups_watched:
                data = message["data"]
                await self._say("progress", prompt=subject, phase=data["phase"], fraction=data["fraction"])
        elif kind in cursors.KINDS:
            self._poke_soon(cursors.text_of(message["id"], message["mark"]))

    # The hello

    async def _greet(self, text: str) -> None:
        device, seq, hello = await in_thread(admitted)(text)
        self.hello_seq = self.seq = seq or 0
        pending = counted(hello, "pending", None, MOST_PENDING)
        self.device = device
        self.open_sockets[device.pk] += 1
        await self._watch({f"user.{device.owner_id}", f"device.{device.pk}"})
        await self._note(pending)  # and look whether it may still come in, now that it would hear of the contrary
        if self.is_closing:
            return
        is_working = await in_thread(Runner.has_worker)()
        told = await in_thread(server)()
        await self._say("welcome", server=told, cursor=await in_thread(cursors.newest)(), is_working=is_working)
        self._start(self._ping())

    async def _close_without_hello(self) -> None:
        await asyncio.sleep(HELLO_SECONDS)
        if self.device is None:
            await self.close(SILENT)

    async def _refuse(self, error: SyncError) -> None:
        """The reason and the end; what is wrong once would be wrong again."""
        await self._say("error", **error.as_json())
        if error.code in MAY_COME_BACK:
            code = AGAIN
        elif error.code in {"malformed", "invalid"}:
            code = MALFORMED
        else:
            code = NOT_ADMITTED
        await self.close(code, error.code)

    # Frames

    async def _opened(self, text: str) -> dict:
        if door.PACE.wait(("socket", self.device.pk)):
            raise door.too_fast(1)
        if not self.device.is_sealed:
            return door.parsed(text.encode())
        seq, body = door.unseal(self.device, text, "socket")
        if seq <= self.seq:
            raise SyncError(409, "replayed", "This frame was here before.", seen=self.seq)
        self.seq = seq
        return door.parsed(body)

    async def _hear(self, frame: object) -> None:
        kind = frame.get("type") if isinstance(frame, dict) else None
        if kind not in FRAMES:
            raise SyncError(400, "malformed", f"Send an object with a type of {', '.join(FRAMES)}.")
        fields_of(frame, FRAMES[kind], required=tuple(FRAMES[kind]) if kind == "watch" else ("type",))
        if kind == "watch":
            await self._watch_prompts(frame["prompts"])
        else:
            await self._note(counted(frame, "pending", None, MOST_PENDING))
        if kind == "ping":
            await self._say("pong")

    async def _say(self, type_: str, **fields) -> None:
        text = json.dumps({"type": type_} | fields, ensure_ascii=False)
        if self.device is not None and self.device.is_sealed:
            self.sent += 1
            header = {"kid": str(self.device.pk), "re": self.hello_seq, "n": self.sent}
            text = sealing.seal(sealing.from_text(self.device.key), header, text.encode())
        await self.send(text)

    # What it follows

    async def _watch(self, groups: set[str]) -> None:
        for group in groups - self.groups_watched:
            self.groups_watched.add(group)  # first: whatever happens, it is let go of
            await tail().watch(group, self.channel_name)

    async def _watch_prompts(self, prompts: list) -> None:
        if len(prompts) > WATCHED:
            raise wrong_field("prompts", "too_many", f"At most {WATCHED} at once.")
        ids = [uuid_of(text, "prompts") for text in prompts]
        wanted = {f"prompt.{pk}" for pk in await in_thread(owned)(self.device, ids)}
        for group in {group for group in self.groups_watched if group.startswith("prompt.")} - wanted:
            await tail().unwatch(group, self.channel_name)
            self.groups_watched.discard(group)
        await self._watch(wanted)

    def _poke_soon(self, cursor: str) -> None:
        is_waiting = self.poke_due is not None
        self.poke_due = cursor
        if not is_waiting:
            self._start(self._poke())

    async def _poke(self) -> None:
        """At once, and then at most every POKE_SECONDS."""
        while (cursor := self.poke_due) is not None:
            await self._say("poke", cursor=cursor)
            await asyncio.sleep(POKE_SECONDS)
            if self.poke_due == cursor:
                self.poke_due = None

    # Presence

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(PING_SECONDS - ANSWER_SECONDS)
            asked_at = time.monotonic()
            await self._say("ping")
            await asyncio.sleep(ANSWER_SECONDS)
            if self.heard_at < asked_at:
                await self.close(SILENT)
                return

    async def _note(self, pending: int | None) -> None:
        """Write down that it was heard of, and look whether it may still be here: its owner may not."""
        is_news = pending is not None and pending != self.noted_pending
        if is_news or time.monotonic() - self.noted_at > NOTED_SECONDS:
            self.noted_at, self.noted_pending = time.monotonic(), pending if pending is not None else self.noted_pending
            if await in_thread(heard)(self.device, pending):
                return
            await self.close(REVOKED, "revoked")

    def _start(self, work) -> None:
        task = asyncio.create_task(self._while_open(work))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    @staticmethod
    async def _while_open(work) -> None:
        with suppress(Disconnected):  # it went in this very moment; disconnect() follows
            await work


def heard(device: Device, pending: int | None) -> bool:
    """Note it; False when the device or its owner may not come in any more."""
    device.heard(pending, is_connected=True)
    return device.is_usable


def admitted(text: str) -> tuple[Device, int | None, dict]:
    """(device, seq of a sealed hello, the hello). Raises SyncError."""
    if text.lstrip().startswith("{"):
        hello = fields_of(door.parsed(text.encode()), HELLO, required=("type", "token"))
        device = door.device_of(hello["token"])
        if device.is_sealed:
            raise SyncError(403, "sealed_only", "This device was paired sealed; a plain frame is refused.")
        return device, None, _checked(hello)
    device = _named_in(text)
    seq, body = door.unseal(device, text, "socket")
    hello = _checked(fields_of(door.parsed(body), HELLO, required=("type", "token")))
    if door.device_of(hello["token"]).pk != device.pk:
        raise SyncError(401, "unknown_token", "This token is another device's.")
    door.check_fresh(device, seq)
    return device, seq, hello


def _checked(hello: dict) -> dict:
    if hello["type"] != "hello":
        raise SyncError(400, "malformed", "The first frame must be a hello.")
    return hello


def _named_in(text: str) -> Device:
    """The device that a sealed frame says it is from."""
    try:
        kid = sealing.header_of(text).get("kid")
    except sealing.CannotOpen as error:
        raise SyncError(400, "malformed", "The first frame must be a hello, as JSON or sealed.") from error
    device = Device.objects.select_related("owner").filter(pk=uuid_of(kid, "kid")).first()
    if device is None:
        raise SyncError(401, "unknown_token", "This server does not know the device. Pair it again.")
    if device.revoked_at is not None:
        raise SyncError(401, "revoked", "The device was shut out. Pair it again if it should come back.")
    return device
