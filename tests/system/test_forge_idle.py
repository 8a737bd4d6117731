"""A whole installation unloads what has been idle for its time, within seconds of it."""

import time
from datetime import datetime

from tests.conftest import wait_for
from tests.system.conftest import HERON, Installation

SPEED = {"ttft_seconds": 0.05, "tokens_per_second": 45, "load_seconds": 1}
TTL_SECONDS = 6
SHORT_TTL = """
from forge.models import LoadProfile, Model
LoadProfile.choose(Model.objects.get(key={key!r}), ttl_seconds={seconds})
"""


def test_it_unloads_what_has_been_idle_and_work_begins_the_time_anew(daemon):
    daemon.control("models/*", SPEED)
    site = Installation(daemon)
    site._manage("shell", "-v0", "-c", SHORT_TTL.format(key=HERON, seconds=TTL_SECONDS))
    site.up()
    try:
        site.wait_for_state(site.submit(HERON, "short [[tokens=20]]"), "done")
        time.sleep(TTL_SECONDS / 2)
        long = site.submit(HERON, f"longer than it may be idle [[tokens={TTL_SECONDS * 40}]]")
        site.wait_for_state(long, "done")
        assert (daemon.state()["loads"], daemon.state()["unloads"]) == (1, 0)
        ended = datetime.fromisoformat(site.prompt(long)["finished_at"]).timestamp()
        wait_for(lambda: daemon.state()["unloads"] == 1, TTL_SECONDS + 6)
        idle = time.time() - ended
        print(f"\nunloaded after {idle:.1f} s, its idle time is {TTL_SECONDS} s")
        assert abs(idle - TTL_SECONDS) <= 5
    finally:
        site.stop()
