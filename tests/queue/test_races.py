"""Two at once, on real connections: one wins, the other notices, and nothing is lost or done twice."""

import os
import subprocess
import sys
import threading
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from django.db import connection

from daemonpulse.models import Event
from daemonpulse.queue.models import Attempt, Lane, Prompt

from .prompts import cancelled, claim, die, fresh, kinds_of, running, stream, submit

pytestmark = pytest.mark.django_db(transaction=True)
ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 8

CLAIMER = """
import sys, django
django.setup()
from daemonpulse.queue.models import Prompt
lane, node, name = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
print("ready", flush=True)
sys.stdin.readline()
while attempt := Prompt.claim_next(lane, node, name):
    print(attempt.prompt_id)
"""


@pytest.fixture
def at_once(closing_connections):
    """Runs functions in threads that start together; returns what each returned, or the exception it raised."""

    def run(*functions):
        barrier = threading.Barrier(len(functions))

        def start(function):
            barrier.wait(60)
            try:
                return function()
            except Exception as error:
                return error

        with ThreadPoolExecutor(len(functions)) as pool:
            return list(pool.map(closing_connections(start), functions))

    return run


def many(owner, count: int) -> list[Prompt]:
    return Prompt.submit_many(owner=owner, drafts=[{"model": "otter", "text": str(n)} for n in range(count)])


def test_it_claims_each_of_two_hundred_prompts_once_with_eight_claimers(alice, node, at_once):
    prompts = many(alice, 200)

    def claim_all():
        claimed = []
        while attempt := claim(prompts[0], node):
            claimed.append(attempt.prompt_id)
        return claimed

    claimed = at_once(*[claim_all] * 8)

    assert Counter(pk for mine in claimed for pk in mine) == Counter(prompt.pk for prompt in prompts)
    assert sum(bool(mine) for mine in claimed) > 1, "only one of them got any: this was no race"
    assert Attempt.objects.count() == Event.objects.filter(kind="prompt.claimed").count() == 200


def test_it_claims_each_prompt_once_with_processes(alice, node):
    prompts = many(alice, 60)
    environment = {
        "DJANGO_SETTINGS_MODULE": "daemonpulse.settings",
        "DAEMONPULSE_TEST_DATABASE": connection.settings_dict["NAME"],
    }
    code = (
        "import django.conf, os; from daemonpulse import settings as s;"
        "s.DATABASES['default']['NAME'] = os.environ['DAEMONPULSE_TEST_DATABASE']\n" + CLAIMER
    )
    arguments = [str(prompts[0].lane_id), str(node.pk)]
    claimers = [
        subprocess.Popen(
            [sys.executable, "-c", code, *arguments, f"process/{number}"],
            cwd=ROOT,
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    for claimer in claimers:
        assert claimer.stdout.readline() == "ready\n"
    for claimer in claimers:
        claimer.stdin.write("go\n")
        claimer.stdin.flush()
    claimed = [claimer.communicate(timeout=30)[0].split() for claimer in claimers]

    assert Counter(pk for mine in claimed for pk in mine) == Counter(str(prompt.pk) for prompt in prompts)
    assert sum(bool(mine) for mine in claimed) > 1, "only one of them got any: this was no race"
    assert not fresh(prompts[0].lane).prompts.exclude(state="sending").exists()


def test_it_ends_once_when_a_cancel_meets_the_end(alice, node, at_once):
    ends = Counter()
    for _ in range(ROUNDS):
        prompt, attempt = running(alice, node)
        stream(attempt, ("message", "Half"))
        other = fresh(prompt)

        finished, was_cancelled = at_once(
            lambda prompt=prompt, attempt=attempt: prompt.finish(attempt, [("message", " and half")]), other.cancel
        )

        assert {finished, was_cancelled} == {True, False}
        state, outcome = fresh(prompt).state, fresh(attempt).outcome
        assert state == outcome == ("done" if finished else "cancelled")
        assert fresh(attempt).answer == ("Half and half" if finished else "Half")
        assert not attempt.chunks.exists()
        assert len(kinds_of(prompt)) == 3
        ends[state] += 1


def test_it_ends_once_when_a_rescue_meets_the_end(alice, node, at_once):
    for _ in range(ROUNDS):
        prompt, attempt = running(alice, node)
        die(attempt)

        finished, rescued = at_once(
            lambda prompt=prompt, attempt=attempt: prompt.finish(attempt, [("message", "Because.")]), Prompt.rescue
        )

        assert (finished, rescued) in {(True, 0), (False, 1)}
        assert fresh(prompt).state == ("done" if finished else "queued")
        assert fresh(attempt).outcome == ("done" if finished else "lost")
        fresh(prompt).cancel()


def test_it_rescues_once_when_two_watch(alice, node, at_once):
    for _ in range(5):
        die(running(alice, node)[1])
    at_once(Prompt.rescue, Prompt.rescue, Prompt.rescue)

    assert Event.objects.filter(kind="prompt.queued").count() == 10
    assert Attempt.objects.filter(outcome="lost").count() == 5
    assert Prompt.objects.queued().count() == 5


def test_it_adds_one_prompt_when_the_same_id_comes_twice_at_once(alice, at_once):
    Lane.for_model("otter")
    for _ in range(ROUNDS):
        pk = uuid.uuid4()

        results = at_once(*[lambda pk=pk: Prompt.submit(owner=alice, model="otter", text="x", id=pk)] * 3)

        assert sorted(is_new for _, is_new in results) == [False, False, True]
        assert {prompt.pk for prompt, _ in results} == {pk}
        assert kinds_of(Prompt.objects.get(pk=pk)) == ["prompt.queued"]


def test_it_makes_one_lane_when_two_prompts_of_a_new_model_come_at_once(alice, at_once):
    for number in range(ROUNDS):
        results = at_once(*[lambda model=f"model {number}": submit(alice, model=model)] * 3)

        assert len({prompt.lane_id for prompt in results}) == 1


def test_it_claims_or_cancels_a_waiting_prompt_but_not_both(alice, node, at_once):
    for _ in range(ROUNDS):
        prompt = submit(alice)

        at_once(lambda prompt=prompt: claim(prompt, node), fresh(prompt).cancel)

        assert fresh(prompt).state == "cancelled"  # at once, or out of the hands of its worker
        assert not Attempt.objects.running().exists()
        assert claim(prompt, node) is None


def test_it_changes_a_waiting_prompt_before_it_is_claimed_or_not_at_all(alice, node, at_once):
    for _ in range(ROUNDS):
        prompt = submit(alice, "old")

        was_changed, attempt = at_once(
            lambda prompt=prompt: fresh(prompt).edit(text="new"), lambda prompt=prompt: claim(prompt, node)
        )

        assert attempt.prompt.text == ("new" if was_changed else "old")
        fresh(prompt).cancel()


def test_it_retries_once_when_two_ask_at_once(alice, at_once):
    for _ in range(ROUNDS):
        prompt = cancelled(alice)

        assert sorted(at_once(fresh(prompt).retry, fresh(prompt).retry)) == [False, True]
        assert kinds_of(prompt).count("prompt.queued") == 2
