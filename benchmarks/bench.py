"""`make bench`: what people wait for, each figure beside the direct call to the same daemon, in one run.

Prints a table, and the shortfall wherever a target is missed.
"""

import argparse
import asyncio
import json
import statistics
import time
from urllib.parse import urlsplit

import websockets

from benchmarks.client import first_and_last, get, post
from benchmarks.site import MODEL, Daemon, Site
from benchmarks.sync import SyncBench

STORED_ROWS = 10_000


def percentile(values: list[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)]


class Report:
    """Rows of: what, ours, direct, ours over direct (or per direct), target, held?"""

    def __init__(self):
        self.missed: list[str] = []
        print(f"{'figure':<58}{'ours':>12}{'direct':>12}{'ratio':>9}  {'target':<22}", flush=True)

    def row(self, what: str, ours: float, unit: str, direct: float | None, target: str, held: bool):
        ratio = f"{ours / direct:.2f}" if direct else ""
        shown = f"{direct:.1f} {unit}" if direct is not None else ""
        print(
            f"{what:<58}{f'{ours:.1f} {unit}':>12}{shown:>12}{ratio:>9}  {target:<22}{'ok' if held else 'MISSED'}",
            flush=True,
        )
        if not held:
            self.missed.append(f"{what}: {ours:.1f} {unit}, target {target}.")


class Bench:
    def __init__(self, report: Report, daemon: Daemon, site: Site):
        self.report, self.daemon, self.site = report, daemon, site

    def speed(self, first: float, per_second: float | None, slots: int = 16, tokens: int = 64) -> None:
        body = {
            "ttft_seconds": first,
            "tokens_per_second": per_second,
            "slots": slots,
            "output_tokens": tokens,
            "load_seconds": 0.05,
        }
        self.daemon.control("/simulator/reset", {})
        self.daemon.control(f"/simulator/models/{MODEL}", body)

    async def direct(self, tokens: int = 64) -> tuple[float, float]:
        body = {"model": MODEL, "input": f"Hello [[tokens={tokens}]]", "stream": True}
        return await first_and_last(f"{self.daemon.url}/api/v1/chat", body)

    async def ours(self, tokens: int = 64) -> tuple[float, float]:
        body = {"model": MODEL, "text": f"Hello [[tokens={tokens}]]", "stream": True}
        return await first_and_last(f"{self.site.url}/api/v1/prompts", body, self.site.token)

    async def accept(self, count: int) -> None:
        self.speed(0.0, None)
        times, plain = [], []
        for number in range(count):
            started = time.perf_counter()
            status, answer = await post(
                f"{self.site.url}/api/v1/prompts", {"model": MODEL, "text": f"accept {number}"}, self.site.token
            )
            times.append((time.perf_counter() - started) * 1000)
            assert status == 201, answer
            started = time.perf_counter()
            await post(f"{self.daemon.url}/api/v1/chat", {"model": MODEL, "input": "x [[tokens=1]]"})
            plain.append((time.perf_counter() - started) * 1000)
            await asyncio.sleep(0.02)
        held = percentile(times, 0.95) <= 50
        self.report.row(
            f"prompt accepted, p95 ({STORED_ROWS} rows stored)",
            percentile(times, 0.95),
            "ms",
            percentile(plain, 0.95),
            "<= 50 ms",
            held,
        )
        self.report.row("prompt accepted, p50", percentile(times, 0.5), "ms", percentile(plain, 0.5), "", True)

    async def idle(self, count: int) -> None:
        self.speed(0.05, 100)
        await self.ours(4), await self.direct(4)
        over, direct = [], []
        for _ in range(count):
            plain, _ = await self.direct(8)
            first, _ = await self.ours(8)
            over.append((first - plain) * 1000)
            direct.append(plain * 1000)
            await asyncio.sleep(0.05)
        base = statistics.median(direct)
        for part, limit in ((0.5, 15), (0.95, 40)):
            value = percentile(over, part)
            self.report.row(
                f"idle lane, submit to first token, p{part * 100:.0f}",
                base + value,
                "ms",
                base,
                f"<= direct + {limit} ms",
                value <= limit,
            )

    async def paced(self, rounds: int) -> None:
        self.speed(0.05, 100)
        await self.ours(4)
        ours, direct = [], []
        for _ in range(rounds):
            direct += [first * 1000 for first, _ in await asyncio.gather(*(self.direct() for _ in range(8)))]
            ours += [first * 1000 for first, _ in await asyncio.gather(*(self.ours() for _ in range(8)))]
        value, base = statistics.median(ours), statistics.median(direct)
        self.report.row("8 paced streams, first token, p50", value, "ms", base, "<= direct + 30 ms", value - base <= 30)

    async def throughput(self, count: int) -> None:
        self.speed(0.0, None)
        await self.ours(4)

        async def measure(call) -> float:
            numbers = iter(range(count))

            async def client():
                for _ in numbers:
                    await call()

            started = time.perf_counter()
            await asyncio.gather(*(client() for _ in range(16)))
            return count / (time.perf_counter() - started)

        direct = await measure(self.direct)
        before = self.site.cpu()
        ours = await measure(self.ours)
        used = {name: (seconds - before[name]) / count * 1000 for name, seconds in self.site.cpu().items()}
        target, held = ">= 80 /s", ours >= 80
        self.report.row("64-token prompts answered at once, 16 in flight", ours, "/s", direct, target, held)
        shares = ", ".join(f"{name} {milliseconds:.0f} ms" for name, milliseconds in used.items())
        print(f"  (processor time for each of them: {shares})")

    async def slots(self) -> None:
        """32 waiting on 4 slots: how busy the daemon's slots are, ours against 4 direct clients in a loop."""
        self.speed(0.05, 100, slots=4)

        async def busy(call) -> float:
            numbers = iter(range(36))

            async def client():
                for _ in numbers:
                    await call()

            before = sum(self.daemon.state()["slot_busy_seconds"].values())
            started = time.perf_counter()
            await asyncio.gather(*(client() for _ in range(4 if call == self.direct else 36)))
            used = sum(self.daemon.state()["slot_busy_seconds"].values()) - before
            return used / (4 * (time.perf_counter() - started))

        await self.ours(4)
        await asyncio.sleep(1)
        direct = await busy(self.direct)
        ours = await busy(self.ours)
        self.report.row(
            "4 slots, 32 waiting: slots busy", ours * 100, "%", direct * 100, ">= 0.97 of direct", ours / direct >= 0.97
        )

    async def viewers(self, seconds: int) -> None:
        """16 streams of 50 tokens/s, 5 sockets on each: from the daemon's piece to the browser's."""
        self.speed(0.05, 50)
        cookie = self.site.session()
        tokens = seconds * 50
        lags: list[tuple[float, float]] = []

        async def watch(prompt_id: str, due) -> None:
            host = urlsplit(self.site.url).netloc
            headers = {"Cookie": cookie, "Origin": self.site.url}
            async with websockets.connect(
                f"ws://{host}/ws/prompts/{prompt_id}/", additional_headers=headers, compression=None
            ) as socket:
                await socket.recv()
                ready.release()
                async for frame in socket:
                    now = time.perf_counter()
                    if "beforeend:#answer" in frame:
                        due(frame, now)
                    elif "chip-done" in frame:
                        return

        ready = asyncio.Semaphore(0)
        self.site._manage("pause_lane", MODEL)  # viewers are there before the first piece, as people are
        await asyncio.sleep(0.5)
        ids = []
        for number in range(16):
            body = {"model": MODEL, "text": f"{number} [[stamps]] [[tokens={tokens}]]"}
            _, answer = await post(f"{self.site.url}/api/v1/prompts", body, self.site.token)
            ids.append(json.loads(answer)["id"])
        watching = [asyncio.create_task(watch(prompt_id, self._lag(lags))) for prompt_id in ids for _ in range(5)]
        for _ in watching:
            await ready.acquire()
        self.site._manage("resume_lane", MODEL)
        await asyncio.gather(*watching)
        started = min(at for at, _ in lags)
        lags = [(at - started, lag) for at, lag in lags]
        early = [lag for at, lag in lags if at < seconds / 2]
        late = [lag for at, lag in lags if at >= seconds / 2]
        value = percentile([lag for _, lag in lags], 0.99)
        growth = statistics.median(late) - statistics.median(early)
        self.report.row(
            "16 streams x 50 tokens/s x 5 viewers: piece to browser, p99", value, "ms", None, "<= 150 ms", value <= 150
        )
        self.report.row(
            "  median lag, second half less first half", growth, "ms", None, "no growth (<= 15 ms)", growth <= 15
        )
        settled = [lag for at, lag in lags if at > 1.0]
        self.report.row("  after the first second: p50", percentile(settled, 0.5), "ms", None, "", True)
        self.report.row("  after the first second: p99", percentile(settled, 0.99), "ms", None, "", True)
        self.report.row("  pieces delivered", len(lags), "", None, "", True)

    @staticmethod
    def _lag(lags):
        """Each piece of a stamped answer is the daemon's clock in milliseconds when it was made."""

        def note(frame: str, now: float) -> None:
            text = frame.partition(">")[2].rpartition("<")[0]
            stamps = [part for part in text.split() if part.isdigit() and len(part) == 13]
            if stamps:
                lags.append((now, time.time() * 1000 - int(stamps[0])))

        return note

    async def fleet(self, count: int) -> None:
        """The overview of ten nodes with eight GPUs each, as a browser gets it."""
        self.site.add_fleet()
        cookie = self.site.session()
        times, size = [], 0
        for _ in range(count):
            started = time.perf_counter()
            status, body = await get(f"{self.site.url}/nodes/", cookie)
            times.append((time.perf_counter() - started) * 1000)
            assert status == 200
            size = len(body)
        value = percentile(times[1:], 0.5)
        self.report.row("overview of 10 nodes x 8 GPUs, p50", value, "ms", None, "<= 200 ms", value <= 200)
        self.report.row("  its size", size / 1000, "kB", None, "<= 100 kB", size <= 100_000)

    def memory(self) -> None:
        sizes = self.site.memory()
        total = sum(sizes.values())
        parts = ", ".join(f"{name} {size:.0f}" for name, size in sorted(sizes.items(), key=lambda item: -item[1]))
        self.report.row("memory of the process tree after this (PSS)", total, "MiB", None, "<= 250 MiB", total <= 250)
        print(f"  ({parts})")


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, for a first impression")
    parser.add_argument("--only", default="", help="comma-separated names of figures")
    options = parser.parse_args()
    scale = 0.2 if options.quick else 1
    only = set(filter(None, options.only.split(",")))
    daemon = Daemon()
    site = Site(daemon, STORED_ROWS)
    report = Report()
    try:
        seconds = site.up()
        report.row("`up` to the first answer", seconds, "s", None, "<= 4 s", seconds <= 4)
        bench = Bench(report, daemon, site)
        steps = {
            "accept": lambda: bench.accept(int(200 * scale)),
            "idle": lambda: bench.idle(int(100 * scale)),
            "paced": lambda: bench.paced(int(12 * scale)),
            "throughput": lambda: bench.throughput(int(800 * scale)),
            "slots": bench.slots,
            "viewers": lambda: bench.viewers(int(20 * scale) if scale == 1 else 8),
        }
        for name, step in steps.items():
            if not only or name in only:
                await asyncio.sleep(1)
                await step()
        bench.memory()
        if not only or "fleet" in only:
            await bench.fleet(max(5, int(20 * scale)))
        if not only or "sync" in only:
            await SyncBench(report, site).run(max(20, int(50 * scale)))
    finally:
        site.stop()
        daemon.stop()
    for line in report.missed:
        print("shortfall:", line)
    if report.missed:
        print("Likely limit: Python's processor time for each prompt; see the figure for many in flight.")


if __name__ == "__main__":
    asyncio.run(main())
