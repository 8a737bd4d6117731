"""A device's socket: who gets in, what it hears, when it counts as online."""

import asyncio
import json
import time
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from channels.testing import WebsocketCommunicator
from django.utils import timezone

from daemonpulse import sealing
from daemonpulse.consumers import in_thread
from daemonpulse.models import Event
from daemonpulse.queue.models import Device
from daemonpulse.queue.models.attempt import note_progress
from daemonpulse.queue.sync import cursors, socket
from daemonpulse.tail import tail
from pulse.thinking import Kind
from tests.sockets import HOST, SECONDS, own_tail

from .devices import TestDevice
from .prompts import fresh, running, stream, submit

pytestmark = pytest.mark.django_db(transaction=True)
PATH = "/ws/sync/v1/"


def play(scene) -> None:
    with own_tail():
        asyncio.run(scene())


class Line:
    """One socket of a device."""

    def __init__(self, device: TestDevice, path: str = PATH, origin: str = ""):
        from daemonpulse.asgi import application

        headers = [(b"host", HOST.encode())] + ([(b"origin", origin.encode())] if origin else [])
        self.socket = WebsocketCommunicator(application, path, headers=headers)
        self.device, self.hello_seq, self.n = device, 0, 0

    def frame(self, type_: str, **fields) -> str:
        data = {"type": type_} | fields
        if not self.device.key:
            return json.dumps(data)
        text = self.device.sealed("socket", data)
        if type_ == "hello":
            self.hello_seq = sealing.header_of(text)["seq"]
        return text

    async def say(self, type_: str, **fields) -> None:
        await self.socket.send_to(self.frame(type_, **fields))

    async def hears(self) -> dict:
        text = await self.socket.receive_from(timeout=SECONDS)
        if not self.device.key:
            return json.loads(text)
        header, body = sealing.open_sealed(self.device.key, text)
        assert header["re"] == self.hello_seq
        assert header["n"] == self.n + 1
        self.n = header["n"]
        return json.loads(body)

    async def hears_of(self, type_: str) -> dict:
        async with asyncio.timeout(SECONDS):
            while (frame := await self.hears())["type"] != type_:
                pass
        return frame

    async def closed(self) -> int:
        """The code, which Daphne's Autobahn must let pass; frames before it are skipped."""
        async with asyncio.timeout(SECONDS):
            while (output := await self.socket.receive_output(timeout=SECONDS))["type"] != "websocket.close":
                pass
        assert output["code"] == 1000 or 3000 <= output["code"] <= 4999
        return output["code"]


@asynccontextmanager
async def line(device: TestDevice, **hello):
    """A socket that was let in."""
    opened = Line(device)
    assert (await opened.socket.connect(timeout=SECONDS))[0]
    await opened.say("hello", **{"token": device.token, "cursor": ""} | hello)
    assert (await opened.hears())["type"] == "welcome"
    try:
        yield opened
    finally:
        await opened.socket.disconnect(timeout=SECONDS)


@pytest.fixture(params=[False, True], ids=["plain", "sealed"])
def phone(request, alice, node):
    return TestDevice(alice, sealed=request.param)


def test_it_pokes_when_something_of_its_owner_changed(phone, alice, bob, node):
    async def scene():
        async with line(phone) as opened:
            await in_thread(submit)(bob)
            prompt = await in_thread(submit)(alice)
            poke = await opened.hears_of("poke")
            assert poke["cursor"] == await in_thread(cursors.text_of)(prompt.submitted_as)
            assert await opened.socket.receive_nothing(timeout=0.3)

    play(scene)


def test_it_pokes_at_most_ten_times_a_second_and_with_the_newest_at_last(phone, alice):
    async def scene():
        async with line(phone) as opened:
            began = time.monotonic()
            for _ in range(30):
                await in_thread(submit)(alice)
            newest = await in_thread(cursors.newest)()
            pokes = [(await opened.hears_of("poke"))["cursor"]]
            while pokes[-1] != newest:
                pokes.append((await opened.hears_of("poke"))["cursor"])
            assert len(pokes) <= 2 + (time.monotonic() - began) / socket.POKE_SECONDS

    play(scene)


def test_it_streams_what_is_watched(phone, alice, node):
    prompt, attempt = running(alice, node)

    async def scene():
        async with line(phone) as opened:
            await opened.say("watch", prompts=[str(prompt.pk)])
            await opened.say("ping")
            await opened.hears_of("pong")
            await in_thread(note_progress)(attempt, {"phase": "load", "fraction": 0.25})
            told = await opened.hears_of("progress")
            assert told == {"type": "progress", "prompt": str(prompt.pk), "phase": "load", "fraction": 0.25}
            await in_thread(stream)(attempt, (Kind.REASONING, "hm"), (Kind.MESSAGE, "because"))
            first = await opened.hears_of("piece")
            assert first == {"type": "piece", "prompt": str(prompt.pk), "attempt": 1, "kind": "reasoning",
                             "offset": 0, "text": "hm"}  # fmt: skip
            assert (await opened.hears_of("piece"))["kind"] == "answer"
            await opened.say("watch", prompts=[])
            await opened.say("ping")
            await opened.hears_of("pong")
            await in_thread(lambda: stream(fresh(attempt), (Kind.MESSAGE, "more")))()
            await in_thread(note_progress)(attempt, {"phase": "prompt", "fraction": None})
            assert await opened.socket.receive_nothing(timeout=0.3)

    play(scene)


def test_nobody_watches_another_persons_prompt(phone, bob, node):
    prompt, attempt = running(bob, node)

    async def scene():
        async with line(phone) as opened:
            await opened.say("watch", prompts=[str(prompt.pk)])
            await opened.say("ping")
            await opened.hears_of("pong")
            await in_thread(stream)(attempt, (Kind.MESSAGE, "not hers"))
            assert await opened.socket.receive_nothing(timeout=0.3)

    play(scene)


def test_it_is_online_while_the_socket_is_open(phone, alice):
    def kinds():
        return list(Event.objects.filter(subject=phone.id).order_by("id").values_list("kind", flat=True))

    async def scene():
        async with line(phone, pending=3):
            row = await in_thread(lambda: phone.row)()
            assert row.is_online and row.pending == 3
        row = await in_thread(lambda: phone.row)()
        assert not row.is_online

    play(scene)
    assert kinds() == ["device.paired", "device.online", "device.offline"]


def test_one_that_went_silent_is_offline_by_the_clock(phone):
    row = phone.row
    row.heard(is_connected=True)
    Device.note_silent()
    assert phone.row.is_online
    Device.objects.update(last_heard_at=timezone.now() - timedelta(seconds=29))
    assert not phone.row.is_online
    Device.note_silent()
    assert Event.objects.filter(kind="device.offline", subject=phone.id).count() == 1


def test_revoking_closes_it_at_once(phone):
    async def scene():
        async with line(phone) as opened:
            await in_thread(lambda: phone.row.revoke())()
            assert await opened.closed() == 4403

    play(scene)


def test_the_server_pings_and_lets_go_of_who_does_not_answer(phone, monkeypatch):
    monkeypatch.setattr(socket, "PING_SECONDS", 1.1)
    monkeypatch.setattr(socket, "ANSWER_SECONDS", 1.0)

    async def scene():
        async with line(phone) as opened:
            await opened.hears_of("ping")
            await opened.say("pong")
            await opened.hears_of("ping")
            assert await opened.closed() == 4408

    play(scene)


def hello_of(device: TestDevice, **fields) -> str:
    return Line(device).frame("hello", **{"token": device.token, "cursor": ""} | fields)


def test_it_refuses_strangers_in_words(alice, node):
    plain, sealed, gone = TestDevice(alice), TestDevice(alice, sealed=True), TestDevice(alice)
    gone.row.revoke()
    used = hello_of(sealed)
    other = TestDevice(alice, sealed=True)
    hellos = [
        ("nonsense", 4400, "malformed"),
        ("{}", 4400, "invalid"),
        ("[]", 4400, "malformed"),
        (json.dumps({"type": "ping", "token": plain.token}), 4400, "malformed"),
        (json.dumps({"type": "hello", "token": "dpd_x"}), 4401, "unknown_token"),
        (json.dumps({"type": "hello", "token": "\ud800"}), 4400, "invalid"),
        (hello_of(gone), 4401, "revoked"),
        (json.dumps({"type": "hello", "token": sealed.token}), 4401, "sealed_only"),
        (sealed.sealed("push", {"type": "hello", "token": sealed.token}), 4401, "unopened"),
        (hello_of(sealed, token=other.token), 4401, "unknown_token"),
        (sealing.seal(sealed.key, {"kid": "x"}, b"{}"), 4400, "invalid"),
    ]

    async def refused(text: str, device=plain):
        opened = Line(device)
        await opened.socket.connect(timeout=SECONDS)
        await opened.socket.send_to(text)
        told = json.loads(await opened.socket.receive_from(timeout=SECONDS))
        return await opened.closed(), told["error"]["code"]

    async def scene():
        for text, code, word in hellos:
            assert await refused(text) == (code, word), text
        opened = Line(sealed)
        await opened.socket.connect(timeout=SECONDS)
        await opened.socket.send_to(used)
        opened.hello_seq = sealing.header_of(used)["seq"]
        assert (await opened.hears())["type"] == "welcome"
        assert await refused(used) == (4429, "replayed")
        await opened.socket.disconnect()

    play(scene)


def test_another_version_is_told_by_the_code(alice):
    async def scene():
        opened = Line(TestDevice.__new__(TestDevice), "/ws/sync/v2/")
        await opened.socket.connect(timeout=SECONDS)
        assert await opened.closed() == 4426

    play(scene)


def test_it_waits_ten_seconds_for_a_hello(alice, monkeypatch):
    monkeypatch.setattr(socket, "HELLO_SECONDS", 0.1)

    async def scene():
        opened = Line(TestDevice.__new__(TestDevice))
        await opened.socket.connect(timeout=SECONDS)
        assert await opened.closed() == 4408

    play(scene)


@pytest.mark.parametrize("origin", ["http://evil.example", "null"])
def test_it_refuses_a_foreign_page(alice, origin):
    async def scene():
        opened = Line(TestDevice.__new__(TestDevice), origin=origin)
        assert not (await opened.socket.connect(timeout=SECONDS))[0]

    play(scene)


def test_it_refuses_a_frame_that_was_here_before(alice, node):
    phone = TestDevice(alice, sealed=True)

    async def scene():
        async with line(phone) as opened:
            ping = opened.frame("ping")
            await opened.socket.send_to(ping)
            await opened.hears_of("pong")
            await opened.socket.send_to(ping)
            assert (await opened.hears_of("error"))["error"]["code"] == "replayed"

    play(scene)


@pytest.mark.parametrize(
    "frame", ["[]", '{"type": "dance"}', '{"type": "watch"}', '{"type": "watch", "prompts": ["x"]}', "no"]
)
def test_a_wrong_frame_ends_it(alice, node, frame):
    device = TestDevice(alice)

    async def scene():
        async with line(device) as opened:
            await opened.socket.send_to(frame)
            assert await opened.closed() == 4400

    play(scene)


def test_a_device_that_is_revoked_during_its_hello_stays_outside(phone, monkeypatch):
    watch = socket.SyncConsumer._watch

    async def revoked_meanwhile(consumer, groups):
        await in_thread(lambda: phone.row.revoke())()
        await watch(consumer, groups)

    monkeypatch.setattr(socket.SyncConsumer, "_watch", revoked_meanwhile)

    async def scene():
        opened = Line(phone)
        await opened.socket.connect(timeout=SECONDS)
        await opened.say("hello", token=phone.token)
        assert await opened.closed() == 4403

    play(scene)
    assert not phone.row.is_online
    assert not Event.objects.filter(kind="device.online").exists()


def test_one_whose_owner_may_not_come_in_any_more_is_let_go(phone, alice, monkeypatch):
    monkeypatch.setattr(socket, "NOTED_SECONDS", 0)

    async def scene():
        async with line(phone) as opened:
            await in_thread(type(alice).objects.filter(pk=alice.pk).update)(is_active=False)
            await opened.say("ping")
            assert await opened.closed() == 4403

    play(scene)


def test_it_stays_online_while_one_of_two_sockets_is_open(phone):
    async def scene():
        async with line(phone):
            async with line(phone):
                pass
            assert (await in_thread(lambda: phone.row)()).is_online
        assert not (await in_thread(lambda: phone.row)()).is_online

    play(scene)


def test_nothing_is_heard_after_the_close(alice):
    device = TestDevice(alice)

    async def scene():
        opened = Line(device)
        await opened.socket.connect(timeout=SECONDS)
        await opened.socket.send_to("{}")
        await opened.socket.send_to(hello_of(device))
        assert json.loads(await opened.socket.receive_from(timeout=SECONDS))["type"] == "error"
        assert await opened.closed() == 4400
        assert await opened.socket.receive_nothing(timeout=0.2)

    play(scene)
    assert not device.row.is_online


def test_a_fault_of_ours_leaves_nobody_listening(alice, node, monkeypatch):
    device = TestDevice(alice)

    async def scene():
        opened = Line(device)
        await opened.socket.connect(timeout=SECONDS)
        await opened.say("hello", token=device.token)
        assert (await opened.hears())["type"] == "welcome"
        monkeypatch.setattr(socket, "counted", lambda *args: 1 / 0)
        await opened.say("ping")
        with pytest.raises(ZeroDivisionError):
            await opened.socket.wait(timeout=SECONDS)
        assert not tail().watched

    play(scene)
    assert not device.row.is_online
