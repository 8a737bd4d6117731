"""Sync on PostgreSQL, where transactions run side by side: real threads, each with a connection of its own."""

import itertools
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connections

from daemonpulse.models import Event, User
from daemonpulse.models.event import writing
from daemonpulse.queue.models import Device, PairingCode, Prompt
from daemonpulse.queue.sync.errors import SyncError
from daemonpulse.queue.sync.pairing import pair
from daemonpulse.queue.sync.pulling import pull
from daemonpulse.queue.sync.pushing import push
from fleet.models import Node
from forge.models import Model

from .devices import mutation, submission
from .postgres import as_default, running_server

pytestmark = pytest.mark.postgres
ROUNDS = 5
PUSHES, PROMPTS_EACH = 5, 3
NUMBERS = itertools.count(1)


@pytest.fixture(scope="module", autouse=True)
def postgres(django_db_blocker):
    with django_db_blocker.unblock(), running_server() as url, as_default(url):
        node = Node.objects.create(name="box", base_url="http://127.0.0.1:9", state="online")
        for key in ("otter", "heron"):
            Model.objects.create(node=node, key=key, name=key.capitalize(), type="llm", loaded=[], slots=2)
        yield


@pytest.fixture
def alice():
    return User.objects.create_user(f"alice-{next(NUMBERS)}")


@pytest.fixture
def devices(alice):
    """Three phones of Alice."""
    return [paired(alice) for _ in range(3)]


def paired(owner) -> Device:
    answer = pair({"code": PairingCode.issue(owner)[1], "name": "phone", "kind": "phone"})
    return Device.objects.select_related("owner").get(pk=answer["device"])


def side_by_side(*functions, seconds: float = 90.0) -> list:
    """What each returned; they start together. Raises what one of them raised."""
    barrier = threading.Barrier(len(functions))

    def start(function):
        barrier.wait(60)
        try:
            return function()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(functions)) as pool:
        futures = [pool.submit(start, function) for function in functions]
        return [future.result(seconds) for future in futures]


def shuffled(things: list) -> list:
    return random.sample(things, len(things))


def test_a_code_that_eight_use_at_once_pairs_one(alice):
    for number in range(1, ROUNDS + 1):
        code = PairingCode.issue(alice)[1]

        def use(code=code):
            try:
                return pair({"code": code, "name": "phone", "kind": "phone"})["token"]
            except SyncError as error:
                return error.code

        told = side_by_side(*[use] * 8)

        assert Counter(one for one in told if not one.startswith("dpd_")) == {"bad_code": 7}
        assert Device.objects.of(alice).count() == number


def test_a_push_that_comes_by_several_ways_at_once_is_done_once(alice, devices):
    """The phone itself, late and again, and the phone it was before it was paired anew."""
    prompt = Prompt.submit(owner=alice, model="heron", text="old")[0]
    for number in range(1, ROUNDS + 1):
        told = {"mutations": [mutation("edit", prompt.pk, text=f"new {number}"), submission(model="heron")]}

        answers = side_by_side(*[lambda device=device, told=told: push(device, told) for device in devices[:2] * 2])

        assert all(one["results"] == answers[0]["results"] for one in answers)
        assert Prompt.objects.of(alice).count() == 1 + number
        assert Event.objects.filter(kind="prompt.edited", subject=str(prompt.pk)).count() == number


def test_changes_of_the_same_prompts_in_any_order_do_not_wait_for_each_other(alice, devices):
    shared = [str(Prompt.submit(owner=alice, model="heron", text="shared")[0].pk) for _ in range(4)]

    def change(device):
        for _ in range(ROUNDS):
            told = push(device, {"mutations": [mutation("edit", one, text="new") for one in shuffled(shared)]})
            assert [one["status"] for one in told["results"]] == ["applied"] * len(shared)

    side_by_side(*[lambda device=device: change(device) for device in devices])


class Phone:
    """Pushes its prompts in order, three at a time, each push twice; and changes what others push, in any order."""

    def __init__(self, device: Device, shared: list[str]):
        self.device, self.shared = device, shared
        self.prompts: list[str] = []

    def work(self) -> None:
        for number in range(PUSHES):
            drafts = [submission(f"{number}.{n}") for n in range(PROMPTS_EACH)]
            self.prompts += [draft["prompt"] for draft in drafts]
            edits = [mutation("edit", one, text=f"by {self.device.pk}") for one in shuffled(self.shared)]
            told = {"mutations": [*edits, *drafts]}
            first = push(self.device, told)["results"]
            assert push(self.device, told)["results"] == first
            assert {one["status"] for one in first} == {"applied"}


class Reader:
    """A device that pulls, in small pages, as long as there is work."""

    def __init__(self, device: Device):
        self.device, self.mirror, self.cursor = device, {}, ""
        self.catch_up()

    def read(self, is_over: threading.Event) -> None:
        while not is_over.wait(0.005):
            self.catch_up()

    def catch_up(self) -> None:
        has_more = True
        while has_more:
            told = pull(self.device, {"cursor": self.cursor, "limit": 3})
            self.mirror |= {one["id"]: (one["state"], one["text"]) for one in told["changes"]}
            for gone in told["removed"]:
                self.mirror.pop(gone, None)
            self.cursor, has_more = told["cursor"], told["more"]


def test_all_that_devices_the_api_and_a_runner_do_at_once_happens_once_in_order_and_is_told(alice, devices):
    lane_id = Prompt.submit(owner=alice, model="otter", text="first")[0].lane_id
    node_id = Node.objects.get().pk
    # In a lane that nobody works.
    shared = [Prompt.submit(owner=alice, model="heron", text="shared")[0] for _ in range(3)]
    phones = [Phone(device, [str(one.pk) for one in shared]) for device in devices[:2]]
    reader = Reader(devices[2])
    is_over = threading.Event()
    by_api: list[str] = []
    claimed: list[str] = []
    count = 1 + PUSHES * PROMPTS_EACH * 3

    def submit_by_api():
        for number in range(PUSHES * PROMPTS_EACH):
            by_api.append(str(Prompt.submit(owner=alice, model="otter", text=f"api {number}")[0].pk))

    def run():
        until = time.monotonic() + 60
        try:
            while len(claimed) < count and time.monotonic() < until:
                attempt = Prompt.claim_next(lane_id, node_id, "runner/1")
                if attempt is None:
                    time.sleep(0.005)
                    continue
                claimed.append(str(attempt.prompt_id))
                attempt.prompt.finish(attempt, [("message", "yes")])
        finally:
            is_over.set()

    side_by_side(*[phone.work for phone in phones], submit_by_api, run, lambda: reader.read(is_over))

    stored = Prompt.objects.filter(lane=lane_id, state="done")
    assert Counter(claimed) == Counter(str(pk) for pk in stored.values_list("pk", flat=True))
    assert len(claimed) == count
    for mine in (*[phone.prompts for phone in phones], by_api):
        assert [one for one in claimed if one in mine] == mine
    reader.catch_up()
    assert reader.mirror == {str(row.pk): (row.state, row.text) for row in Prompt.objects.of(alice)}


def test_a_change_that_commits_late_is_told(alice, devices):
    """Events are numbered before they are committed: a later one must not be told of before an earlier one."""
    reader = Reader(devices[0])
    has_written, others_are_done = threading.Event(), threading.Event()

    def commit_late():
        with writing():
            Prompt.submit(owner=alice, model="otter", text="late")
            has_written.set()
            others_are_done.wait(1.0)  # they cannot be, while nobody passes anybody

    def overtake():
        has_written.wait(10)
        push(devices[1], {"mutations": [submission("quick")]})
        reader.catch_up()
        others_are_done.set()

    side_by_side(commit_late, overtake)
    reader.catch_up()

    assert sorted(text for _, text in reader.mirror.values()) == ["late", "quick"]
    assert Event.objects.filter(kind="prompt.queued", owner=alice).count() == 2
