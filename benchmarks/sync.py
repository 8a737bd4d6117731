"""What paired devices wait for: a push, a pull, a poke; and what two hundred of them cost in memory."""

import asyncio
import json
import time
import uuid
from urllib.parse import urlsplit

import websockets

from benchmarks.client import post
from benchmarks.site import MODEL, Site

DEVICES = 200
PAIR = """
from daemonpulse.models import User
from daemonpulse.queue.models import Device, PairingCode
owner = User.objects.first()
for n in range({count}):
    print(Device.pair(PairingCode.issue(owner)[0], name=f"device {{n}}", kind="script")[1])
"""


class SyncBench:
    def __init__(self, report, site: Site):
        self.report, self.site = report, site
        self.tokens = site._manage("shell", "-v0", "-c", PAIR.format(count=DEVICES)).split()

    async def call(self, name: str, data: dict) -> tuple[dict, int]:
        """(answer, its bytes)."""
        status, body = await post(f"{self.site.url}/api/sync/v1/{name}", data, self.tokens[0])
        assert status == 200, body[:300]
        return json.loads(body), len(body)

    async def run(self, pokes: int) -> None:
        self.site._manage("pause_lane", MODEL)
        await self.push(1000)
        await self.pull()
        await self.poke(pokes)
        await self.connected()

    async def push(self, count: int) -> None:
        most = (await self.call("ping", {}))[0]["limits"]["mutations"]
        mutations = [
            {"id": str(uuid.uuid4()), "kind": "submit", "prompt": str(uuid.uuid4()),
             "fields": {"model": MODEL, "text": f"offline {number} " * 10}}
            for number in range(count)
        ]  # fmt: skip
        started = time.perf_counter()
        for at in range(0, count, most):
            told, _ = await self.call("push", {"mutations": mutations[at : at + most]})
            assert all(one["status"] == "applied" for one in told["results"])
        seconds = time.perf_counter() - started
        self.report.row(f"push of {count} prompts", seconds, "s", None, "<= 5 s", seconds <= 5)

    async def pull(self) -> None:
        """A listing of all that is stored."""
        started = time.perf_counter()
        cursor, count, largest = "", 0, 0
        while True:
            told, size = await self.call("pull", {"cursor": cursor, "limit": 500})
            count, largest, cursor = count + len(told["changes"]), max(largest, size), told["cursor"]
            if not told["more"]:
                break
        seconds = (time.perf_counter() - started) * 10_000 / count
        self.report.row("pull of 10000 changes", seconds, "s", None, "<= 5 s", seconds <= 5)
        self.report.row("  its largest page", largest / 1000, "kB", None, "<= 1000 kB", largest <= 1_000_000)

    async def socket(self, token: str):
        address = f"ws://{urlsplit(self.site.url).netloc}/ws/sync/v1/"
        opened = await websockets.connect(address, compression=None, ping_interval=None)
        await opened.send(json.dumps({"type": "hello", "token": token, "cursor": ""}))
        assert json.loads(await opened.recv())["type"] == "welcome"
        return opened

    @staticmethod
    async def hears_poke(opened) -> None:
        while json.loads(await opened.recv())["type"] != "poke":
            await opened.send(json.dumps({"type": "pong"}))  # the server asks now and then

    async def poke(self, count: int) -> None:
        """From the answer to a submit by somebody else to the poke at the device."""
        opened, times = await self.socket(self.tokens[0]), []
        for number in range(count):
            await asyncio.sleep(0.25)
            heard = asyncio.create_task(self.hears_poke(opened))
            started = time.perf_counter()
            await post(f"{self.site.url}/api/v1/prompts", {"model": MODEL, "text": f"poke {number}"}, self.site.token)
            await heard
            times.append((time.perf_counter() - started) * 1000)
        await opened.close()
        times.sort()
        value = times[int(len(times) * 0.95)]
        self.report.row("submit elsewhere to poke at a device, p95", value, "ms", None, "<= 300 ms", value <= 300)

    async def connected(self) -> None:
        before = sum(self.site.memory().values())
        sockets = [await self.socket(token) for token in self.tokens]
        await asyncio.sleep(2)
        more = sum(self.site.memory().values()) - before
        self.report.row(f"{DEVICES} connected devices: memory more", more, "MiB", None, "<= 60 MiB", more <= 60)
        for opened in sockets:
            await opened.close()
