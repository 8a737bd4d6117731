"""Downloads that outlive processes, pages and daemons. The node is a real local server, or nobody."""

import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import IntegrityError, connection, connections
from django.utils import timezone

from daemonpulse.models import Event
from fleet.models import Node, Reading
from fleet.telemetry.readings import Machine
from forge import inventory
from forge.downloads import downloader as downloads
from forge.downloads.downloader import Downloader, figures
from forge.models import Download
from forge.models.download import MOVES
from tests.conftest import wait_for
from tests.fleet.simulator_fixture import SimulatorProcess
from tests.forge.downloading_node import FORGOTTEN, GIB, DownloadingNode, going, job

pytestmark = pytest.mark.django_db
State = Download.State
ROOT = Path(__file__).resolve().parents[2]
OTTER = "acme/otter-8b"


class AtOnce:
    """A pool that needs no threads, so that a test needs no clock."""

    def submit(self, function, *args):
        function(*args)


@pytest.fixture(autouse=True)
def one_connection(monkeypatch):
    """The threads' care for their own would end the one of the test."""
    monkeypatch.setattr(downloads, "close_old_connections", lambda: None)


@pytest.fixture
def there():
    with DownloadingNode() as made:
        yield made


@pytest.fixture
def rig(db, there):
    return Node.objects.create(name="rig", base_url=there.url, state="online")


@pytest.fixture
def step(monkeypatch):
    """One step of a downloader that was just started, as after each of them the server had been killed."""
    for name in ("WATCHED_SECONDS", "UNWATCHED_SECONDS", "HOLD_OFF_SECONDS"):
        monkeypatch.setattr(downloads, name, 0.0)

    def run(downloader: Downloader | None = None) -> bool:
        downloader = downloader or Downloader()
        downloader.pool = AtOnce()
        return downloader.step()

    return run


@pytest.fixture
def under_way(rig, step):
    """A download that its node has begun."""
    row = Download.ask(rig, OTTER)
    step()
    return fresh(row)


def fresh(row: Download) -> Download:
    return Download.objects.select_related("node").get(pk=row.pk)


def kinds(row: Download) -> list[str]:
    return [
        event.kind for event in Event.objects.filter(subject=str(row.pk), kind__startswith="download").order_by("id")
    ]


def later(row: Download, seconds: float, *names: str) -> None:
    """As if these moments of the row were so long ago."""
    moved = {name: getattr(row, name) - timedelta(seconds=seconds) for name in names}
    Download.objects.filter(pk=row.pk).update(**moved)


# Begin, follow, end


def test_it_follows_a_download_from_the_wish_to_the_end(rig, there, step):
    row = Download.ask(rig, "https://huggingface.co/acme/otter", "Q4_K_M")
    step()
    assert there.asked == [{"model": "https://huggingface.co/acme/otter", "quantization": "Q4_K_M"}]
    row = fresh(row)
    assert (row.state, row.job_id, row.total_bytes, row.percent) == (State.DOWNLOADING, "job_1", 4 * GIB, None)

    there.status = going(1.0)
    step()
    row = fresh(row)
    assert there.polled == ["/api/v1/models/download/status/job_1"]
    assert (row.percent, row.bytes_per_second) == (25, 2**20)
    assert abs((row.finishes_at - timezone.now()).total_seconds() - 3 * 1024) < 5

    there.status = job("completed", downloaded_bytes=4 * GIB)
    assert step() is True
    row = fresh(row)
    assert (row.state, row.percent, row.bytes_per_second) == (State.DONE, 100, None)
    assert row.node.look_wanted_at is not None, "its models are not looked at"
    assert kinds(row) == [f"download.{it}" for it in ("asked", "asked", "downloading", "moved", "done")]
    assert step() is False
    assert len(there.asked) == 1


def test_it_asks_the_database_once_when_nothing_is_open(rig, django_assert_num_queries):
    Download.objects.create(node=rig, source=OTTER, state=State.FAILED)
    downloader = Downloader()
    with django_assert_num_queries(1):
        assert downloader.step() is False


def test_it_is_done_at_once_with_what_the_node_has_already(rig, there, step):
    there.begun = 200, {"status": "already_downloaded"}
    row = Download.ask(rig, OTTER)
    step()
    assert fresh(row).state == State.DONE
    assert there.polled == []


def test_it_says_what_to_do_when_the_node_gives_up(under_way, there, step):
    there.status = job("failed", downloaded_bytes=2 * GIB)
    step()
    row = fresh(under_way)
    assert row.state == State.FAILED and "does not say why" in row.problem and "retry" in row.problem
    assert row.finished_at is not None
    assert step() is False, "it is begun again by itself"

    assert row.retry() is True
    assert (row.problem, row.job_id, row.downloaded_bytes) == ("", "", None)
    step()
    assert fresh(row).state == State.DOWNLOADING
    assert len(there.asked) == 2


def test_it_tells_of_a_pause_and_goes_on_after_it(under_way, there, step):
    there.status = job("paused", downloaded_bytes=GIB)
    step()
    row = fresh(under_way)
    assert (row.state, row.bytes_per_second, row.finishes_at) == (State.PAUSED, None, None)
    later(row, 3600, "moved_at", "checked_at")
    there.status = going(1.0)
    step()
    assert fresh(row).state == State.DOWNLOADING
    assert not fresh(row).is_stalled, "a pause is no stall"


def test_it_cannot_follow_what_has_no_number(rig, there, step):
    there.begun = job(job_id=None)
    row = Download.ask(rig, OTTER)
    step()
    assert fresh(row).state == State.FAILED and "did not say under which number" in fresh(row).problem


# A server that is killed


@pytest.mark.parametrize("moment", range(1, 5))
def test_it_goes_on_after_the_server_was_killed_at_any_moment(rig, there, step, moment):
    """The downloader is thrown away after `moment` steps, and another one begins with the rows alone."""
    answers = [going(1.0), going(2.0), job("completed")]
    row, downloader = Download.ask(rig, OTTER), Downloader()
    for number in range(4):
        there.status = answers[max(0, number - 1)]
        if number == moment:
            downloader = Downloader()
        step(downloader)
    assert fresh(row).state == State.DONE
    assert len(there.asked) == 1


def test_it_asks_again_when_the_server_was_killed_while_it_asked(rig, there, step):
    row = Download.ask(rig, OTTER)
    assert row.claim(2)  # and then its process died
    later(row, 20, "started_at")
    step()
    assert fresh(row).state == State.ASKED, "it may still be alive"
    later(row, 40, "started_at")
    step()
    assert fresh(row).state == State.WAITING
    step()
    assert fresh(row).state == State.DOWNLOADING
    assert len(there.asked) == 1


def test_it_beats_while_it_waits_for_the_nodes_answer(rig, step):
    row = Download.ask(rig, OTTER)
    assert row.claim(2)
    later(row, 40, "started_at")
    downloader = Downloader()
    downloader.handed.add(row.pk)
    step(downloader)
    step()  # another process
    assert fresh(row).state == State.ASKED


WORKER = """
import os, time, django
from daemonpulse import settings
settings.DATABASES["default"]["NAME"] = os.environ["DAEMONPULSE_TEST_DATABASE"]
django.setup()
from forge import inventory
from forge.downloads import downloader as downloads
downloads.UNWATCHED_SECONDS = 0.05
downloader = downloads.Downloader()
print("ready", flush=True)
while True:
    downloader.step()
    time.sleep(0.02)
"""


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("state", [State.ASKED, State.DOWNLOADING])
def test_it_goes_on_after_a_worker_was_really_killed(rig, there, step, state):
    there.slow_seconds = 20.0 if state == State.ASKED else 0.0
    row = Download.ask(rig, OTTER)
    environment = {"DJANGO_SETTINGS_MODULE": "daemonpulse.settings",
                   "DAEMONPULSE_TEST_DATABASE": connection.settings_dict["NAME"]}  # fmt: skip
    worker = subprocess.Popen([sys.executable, "-c", WORKER], cwd=ROOT, env=os.environ | environment)
    try:
        wait_for(lambda: worker.poll() is not None or (fresh(row).state == state and there.asked), 20)
        assert worker.poll() is None, "it ended by itself"
    finally:
        worker.kill()
        worker.wait()
    assert fresh(row).state == state
    there.slow_seconds, there.status = 0.0, job("completed")
    later(fresh(row), 60, "started_at")
    for _ in range(3):
        step()
    assert fresh(row).state == State.DONE


def test_it_agrees_with_the_simulated_daemon(db, step):
    simulated = SimulatorProcess().start("--speed", "20")
    try:
        node = Node.objects.create(name="simulated", base_url=simulated.url, state="online")
        rows = [Download.ask(node, name) for name in ("acme/kestrel", "acme/broken-kestrel")]
        wait_for(lambda: not step(), 20)
        assert [fresh(row).state for row in rows] == [State.DONE, State.FAILED]
        assert inventory.look(node) and node.models.filter(key="acme/kestrel").exists()
        assert Download.ask(node, "acme/kestrel") and not (step() and step()), "it has that one already"

        restarted = Download.ask(node, "acme/stalled-kestrel")
        wait_for(lambda: step() and fresh(restarted).percent in {39, 40}, 20)
        simulated.restart()
        wait_for(lambda: step() and fresh(restarted).restarts == 1, 20)
        wait_for(lambda: step() and fresh(restarted).percent in {39, 40}, 20)
    finally:
        simulated.stop()


# A node that forgets, stalls, is away or answers oddly


def test_it_begins_anew_what_the_node_forgot(under_way, there, step):
    there.status = FORGOTTEN
    step()
    row = fresh(under_way)
    assert (row.state, row.restarts, row.job_id) == (State.WAITING, 1, "")
    assert "no longer knew" in row.problem
    there.begun, there.status = job(job_id="job_2"), going(2.0, job_id="job_2")
    step()
    step()
    row = fresh(row)
    assert (row.state, row.job_id, row.percent, row.problem) == (State.DOWNLOADING, "job_2", 50, "")


def test_it_is_done_when_the_node_forgot_the_job_but_has_the_model(under_way, there, step):
    there.status = FORGOTTEN
    there.has("Acme/Otter-8B")
    step()
    assert fresh(under_way).state == State.DONE
    assert len(there.asked) == 1


def test_it_does_not_take_another_quantization_for_the_one_that_was_asked_for(rig, there, step):
    row = Download.ask(rig, "https://huggingface.co/acme/otter-8b", "Q8_0")
    step()
    there.status = FORGOTTEN
    there.has("acme/otter-8b", quantization={"name": "Q4_K_M"})
    step()
    assert fresh(row).state == State.WAITING


def test_it_gives_up_on_a_node_that_forgets_again_and_again(under_way, there, step):
    there.status = FORGOTTEN
    for _ in range(20):
        step()
    row = fresh(under_way)
    assert row.state == State.FAILED and "keeps restarting" in row.problem
    assert len(there.asked) == 1 + downloads.MAX_RESTARTS


def test_it_tells_once_that_no_byte_comes_any_more(under_way, there, step):
    there.status = going(1.0, speed=5e6)
    step()
    assert not fresh(under_way).is_stalled
    later(fresh(under_way), 50, "moved_at", "checked_at")
    step()
    assert not fresh(under_way).is_stalled
    later(fresh(under_way), 11, "moved_at", "checked_at")
    before = len(kinds(under_way))
    step()
    row = fresh(under_way)
    assert row.is_stalled and row.state == State.DOWNLOADING
    assert kinds(row)[before:] == ["download.moved"]
    there.status = going(1.5)
    step()
    assert not fresh(row).is_stalled


def test_it_calls_nothing_stalled_that_it_does_not_know(under_way, there, step):
    there.status = job()  # tells no bytes
    step()
    later(fresh(under_way), 600, "moved_at")
    step()
    assert not fresh(under_way).is_stalled
    assert fresh(under_way).percent is None


def test_a_node_that_was_away_is_not_stalled(under_way, there, step):
    there.status = going(1.0)
    step()
    later(fresh(under_way), 3600, "moved_at", "checked_at")  # and the server too
    assert not fresh(under_way).is_stalled


def test_it_waits_for_a_node_that_is_offline(rig, there, step):
    Node.objects.update(state="offline")
    row = Download.ask(rig, OTTER)
    step()
    assert (fresh(row).state, there.asked) == (State.WAITING, [])
    Node.objects.update(state="online", is_enabled=False)
    step()
    assert (fresh(row).state, there.asked) == (State.WAITING, [])
    Node.objects.update(is_enabled=True)
    step()
    assert fresh(row).state == State.DOWNLOADING


def test_it_keeps_what_is_under_way_while_the_node_is_offline(under_way, there, step):
    Node.objects.update(state="offline")
    step()
    assert (fresh(under_way).state, there.polled) == (State.DOWNLOADING, [])
    Node.objects.update(state="online")
    there.status = job("completed")
    step()
    assert fresh(under_way).state == State.DONE


def test_a_node_that_is_not_there_fails_nothing(there, step, rig):
    row = Download.ask(rig, OTTER)
    Node.objects.update(base_url="http://127.0.0.1:9")
    for _ in range(6):
        step()
    row = fresh(row)
    assert (row.state, row.restarts) == (State.WAITING, 0)
    assert "Nothing answers" in row.problem
    assert row.node.look_wanted_at is not None
    Node.objects.update(base_url=there.url)
    step()
    assert (fresh(row).state, fresh(row).problem) == (State.DOWNLOADING, "")


@pytest.mark.parametrize(
    ("answer", "tries", "words"),
    [((404, {"error": {"code": "model_not_found", "message": "No model “otter”"}}), 1, "look it up in the hub"),
     ((400, {"error": {"type": "invalid_request", "message": "no <b>such</b> quantization"}}), 1, "“no <b>such</b> q"),
     ((500, {"error": {"message": "disk on fire"}}), 4, "disk on fire"), ((200, {"status": 7}), 1, "Then retry")],
)  # fmt: skip
def test_it_says_why_a_download_could_not_begin(rig, there, step, answer, tries, words):
    there.begun = answer
    row = Download.ask(rig, OTTER)
    for _ in range(6):
        step()
    row = fresh(row)
    assert row.state == State.FAILED and words in row.problem
    assert len(there.asked) == tries


def test_it_says_when_the_node_does_not_say_how_far_it_is(under_way, there, step):
    there.status = 500, {"error": "boom"}
    step()
    step()
    assert fresh(under_way).state == State.DOWNLOADING
    assert "does not say how far it is" in fresh(under_way).problem
    assert kinds(under_way).count("download.moved") == 1
    there.status = going(2.0)
    step()
    assert (fresh(under_way).problem, fresh(under_way).percent) == ("", 50)


def test_it_believes_no_figure_that_cannot_be(under_way, there, step):
    there.status = going(9.0, speed=1e-300, estimated_completion="9999-12-31T00:00:00Z")
    step()
    assert fresh(under_way).percent == 100
    there.status = 200, {"job_id": "x", "status": "warming", "total_size_bytes": -1, "downloaded_bytes": "many",
                         "bytes_per_second": float("nan"), "estimated_completion": "soon"}  # fmt: skip
    step()
    assert (fresh(under_way).state, fresh(under_way).bytes_per_second) == (State.DOWNLOADING, None)


# Figures


def test_it_measures_the_speed_where_the_node_does_not_tell_it(under_way, there, step):
    there.status = going(1.0, speed=None)
    step()
    later(fresh(under_way), 2000, "checked_at")
    there.status = going(1.5, speed=None)
    step()
    row = fresh(under_way)
    assert row.bytes_per_second == pytest.approx(GIB / 4000, rel=0.1)
    assert (row.finishes_at - timezone.now()).total_seconds() == pytest.approx(10_000, rel=0.1)


def test_it_tells_pages_only_what_they_would_show_otherwise(under_way, there, step):
    there.status = going(1.0, speed=0)
    step()
    before = len(kinds(under_way))
    for _ in range(3):
        step()
    assert len(kinds(under_way)) == before


def test_it_asks_often_while_somebody_looks_and_seldom_else(rig, there, monkeypatch):
    Download.objects.create(node=rig, source=OTTER, state=State.DOWNLOADING, job_id="job_1")
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    downloader = Downloader()
    downloader.pool = AtOnce()

    def polls_in(seconds: int) -> int:
        before = len(there.polled)
        for _ in range(seconds * 2):
            now[0] += 0.5
            downloader.step()
        return len(there.polled) - before

    assert polls_in(20) == 20 / downloads.UNWATCHED_SECONDS
    Node.watch(None, 60)
    assert polls_in(20) == 20 / downloads.WATCHED_SECONDS


# Limits


def test_it_begins_no_more_than_the_limit_on_each_node(rig, there, step, settings):
    settings.DOWNLOADS_PER_NODE = 2
    attic = Node.objects.create(name="attic", base_url=f"{there.url}/", state="online")
    rows = [Download.ask(rig, f"acme/{name}") for name in "abc"] + [Download.ask(attic, "acme/a")]
    for _ in range(3):
        step()
    assert [fresh(row).state for row in rows] == [State.DOWNLOADING] * 2 + [State.WAITING, State.DOWNLOADING]
    assert fresh(rows[0]).finish()
    step()
    assert fresh(rows[2]).state == State.DOWNLOADING


def test_two_processes_together_keep_the_limit(rig):
    rows = [Download.ask(rig, f"acme/{name}") for name in "abc"]
    assert [row.claim(2) for row in rows] == [True, True, False]
    assert [fresh(row).claim(9) for row in rows[2:]] == [True]
    assert not rows[2].claim(9), "the same one twice"


@pytest.mark.django_db(transaction=True)
def test_a_slow_node_holds_up_no_other(rig, there):
    with DownloadingNode() as slow:
        slow.slow_seconds = 60.0
        far = Node.objects.create(name="far", base_url=slow.url, state="online")
        first, second = Download.ask(far, OTTER), Download.ask(rig, OTTER)
        downloader = Downloader()
        downloader.step()
        wait_for(lambda: fresh(second).state == State.DOWNLOADING)
        assert fresh(first).state in {State.WAITING, State.ASKED}
        slow.go_on.set()
        downloader.pool.submit(connections.close_all)
        downloader.pool.shutdown()


# The disk


def free(node: Node, gib: float | None) -> None:
    disk = None if gib is None else int(gib * GIB)
    Reading.of(node).keep(Machine(time.time(), disk_free_bytes=disk))


def test_it_does_not_begin_what_the_disk_has_no_room_for(rig, there, step):
    free(rig, 2.0)
    row = Download.ask(rig, OTTER, size_bytes=5 * GIB)
    step()
    row = fresh(row)
    assert row.state == State.FAILED and there.asked == []
    assert "needs 5.0 GiB" in row.problem and "2.0 GiB are free" in row.problem and "Make room" in row.problem


def test_it_warns_when_the_size_is_told_too_late(rig, there, step):
    free(rig, 2.0)
    row = Download.ask(rig, OTTER)
    step()
    row = fresh(row)
    assert row.state == State.DOWNLOADING
    assert "needs 4.0 GiB" in row.caution and "2.0 GiB were free" in row.caution and "in LM Studio" in row.caution


def test_it_counts_what_is_on_its_way_already(rig, there, step):
    free(rig, 6.0)
    first, second = Download.ask(rig, "acme/a"), Download.ask(rig, "acme/b")
    step()
    assert fresh(first).caution == ""
    assert "needs 8.0 GiB" in fresh(second).caution


@pytest.mark.parametrize(("gib", "size"), [(None, 5 * GIB), (50.0, None), (50.0, 5 * GIB)])
def test_it_goes_on_where_nothing_speaks_against_it(rig, step, gib, size):
    free(rig, gib)
    row = Download.ask(rig, OTTER, size_bytes=size)
    step()
    assert (fresh(row).state, fresh(row).caution) == (State.DOWNLOADING, "")


# The rows


@pytest.mark.parametrize("to", State.values)
@pytest.mark.parametrize("old", State.values)
def test_it_makes_the_allowed_moves_and_no_other(rig, old, to):
    row = Download.objects.create(node=rig, source=OTTER, state=old)
    if to in MOVES[State(old)]:
        assert row.move(State(to)) is True
        assert fresh(row).state == to
    else:
        with pytest.raises(ValueError, match="cannot become"):
            row.move(State(to))


def test_it_notices_that_another_was_faster(rig):
    row = Download.ask(rig, OTTER)
    other = fresh(row)
    assert row.cancel() is True
    assert other.claim(2) is False
    assert other.tell(problem="x") is False
    assert kinds(row) == ["download.asked", "download.cancelled"]


def test_it_asks_once_for_the_same(rig, alice):
    row = Download.ask(rig, OTTER, user=alice)
    assert Download.ask(rig, OTTER) == row
    assert Download.ask(rig, OTTER, "Q8_0") != row
    with pytest.raises(IntegrityError):
        Download.objects.create(node=rig, source=OTTER)


def test_it_takes_back_and_forgets_only_what_can_be(under_way):
    assert under_way.cancel() is False
    assert under_way.retry() is False
    assert under_way.forget() is False
    assert under_way.fail("as the test wants it")
    again = Download.ask(under_way.node, OTTER)
    assert under_way.retry() is False, "the same one is open"
    assert again.cancel() and again.retry() and again.cancel()
    assert under_way.forget() is True
    assert not Download.objects.filter(pk=under_way.pk).exists()


def test_figures_are_its_own_where_the_node_tells_none(under_way):
    told = downloads.Told("job_1", "downloading")
    now = timezone.now()
    kept = figures(under_way, told, State.DOWNLOADING, now)
    assert (kept["total_bytes"], kept["downloaded_bytes"], kept["checked_at"]) == (4 * GIB, None, now)
