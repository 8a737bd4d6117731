"""A whole installation unloads what has been idle for its time, within seconds of it."""

import time
from datetime import datetime

from tests.conftest import wait_for
from tests.system.conftest import HERON, Installation, best_of_three

# In the daemon's time, which runs five times as fast.
SPEED = {"ttft_seconds": 0.05, "tokens_per_second": 9, "load_seconds": 1}
TOKENS_PER_SECOND = 5 * SPEED["tokens_per_second"]
TTL_SECONDS = 6
SHORT_TTL = """
from forge.models import LoadProfile, Model
LoadProfile.choose(Model.objects.get(key={key!r}), ttl_seconds={seconds})
"""


def finished(site: Installation, prompt_id: str) -> float:
    """When it was done, in unix seconds."""
    return datetime.fromisoformat(site.wait_for_state(prompt_id, "done")["finished_at"]).timestamp()


def test_it_unloads_what_has_been_idle_and_work_begins_the_time_anew(daemon):
    daemon.control("models/*", SPEED)
    site = Installation(daemon)
    site._manage("shell", "-v0", "-c", SHORT_TTL.format(key=HERON, seconds=TTL_SECONDS))
    site.up()
    try:
        ended = finished(site, site.submit(HERON, "short [[tokens=20]]"))
        time.sleep(max(0.0, ended + 1 - time.time()))
        long = site.submit(HERON, f"longer than it may be idle [[tokens={TTL_SECONDS * TOKENS_PER_SECOND}]]")
        ended = finished(site, long)
        assert (daemon.state()["loads"], daemon.state()["unloads"]) == (1, 0)
        unloads = 0

        def seconds_beside_its_time() -> float:
            nonlocal ended, unloads
            if unloads:
                ended = finished(site, site.submit(HERON, "again [[tokens=20]]"))
            unloads += 1
            wait_for(lambda: daemon.state()["unloads"] == unloads)
            idle = time.time() - ended
            print(f"\nunloaded after {idle:.1f} s, its idle time is {TTL_SECONDS} s")
            return abs(idle - TTL_SECONDS)

        assert best_of_three(seconds_beside_its_time, 5) <= 5
    finally:
        site.stop()
