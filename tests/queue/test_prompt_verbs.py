"""What can be done with a prompt. Every verb may come twice, because a task may run twice."""

import subprocess
import uuid
from datetime import timedelta
from unittest.mock import patch

import pytest
from django.utils import timezone
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from daemonpulse.models import Event
from daemonpulse.queue.models import Attempt, Chunk, Lane, Prompt, Runner
from daemonpulse.queue.models.runner import machine
from daemonpulse.queue.models.running import Ending
from daemonpulse.queue.states import Outcome
from fleet.models import Node
from pulse.thinking import Kind

from .prompts import (
    CUT,
    cancelled,
    claim,
    die,
    done,
    failed,
    fresh,
    kinds_of,
    make_due,
    running,
    stream,
    submit,
)

pytestmark = pytest.mark.django_db
REST = [(Kind.MESSAGE, "!")]


def texts_of_lane(lane: Lane) -> list[str]:
    return [prompt.text for prompt in Prompt.objects.queued().filter(lane=lane).in_lane_order()]


# submit


def test_it_queues_a_submitted_prompt_in_its_models_lane(alice, node):
    prompt, is_new = Prompt.submit(
        owner=alice, model="otter", text="Why?", system_prompt="Be brief.", settings={"top_k": 3}, priority=10
    )

    stored = fresh(prompt)
    assert is_new
    assert (stored.state, stored.model, stored.text, stored.system_prompt) == ("queued", "otter", "Why?", "Be brief.")
    assert (stored.settings, stored.priority, stored.attempt_number) == ({"top_k": 3}, 10, 0)
    event = Event.objects.get(kind="prompt.queued")
    assert (event.subject, event.owner) == (str(prompt.pk), alice)
    assert "Why" not in str(event.data)


def test_it_adds_nothing_for_an_id_that_was_used_before(alice):
    pk = uuid.uuid4()
    first = submit(alice, "one", id=pk)

    again, is_new = Prompt.submit(owner=alice, model="heron", text="two", id=pk)

    assert (again.pk, again.text, again.model, is_new) == (first.pk, "one", "otter", False)
    assert Prompt.objects.count() == 1
    assert kinds_of(first) == ["prompt.queued"]
    assert not Lane.objects.filter(model="heron").exists()


@pytest.mark.django_db(transaction=True)
def test_it_refuses_an_id_of_another_owner(alice, bob):
    theirs = submit(alice)

    with pytest.raises(PermissionError):
        Prompt.submit(owner=bob, model="otter", text="mine", id=theirs.pk)

    assert fresh(theirs).owner == alice
    assert Prompt.objects.count() == 1


def test_it_calls_a_runner_only_when_the_prompt_is_committed(alice, django_capture_on_commit_callbacks):
    with patch("daemonpulse.queue.models.Runner.call") as call, django_capture_on_commit_callbacks(execute=True):
        submit(alice)
        assert not call.called
    assert call.called


@pytest.mark.parametrize("many", [False, True])
def test_what_comes_later_waits_behind_though_the_clock_was_set_back(alice, many):
    drafts = [{"model": "otter", "text": text} for text in ("one", "two")]
    first = submit(alice)
    Prompt.objects.filter(pk=first.pk).update(position=first.position + 100)
    later = Prompt.submit_many(owner=alice, drafts=drafts) if many else [submit(alice), submit(alice)]
    assert [row.pk for row in Prompt.objects.order_by("position")] == [first.pk, *(row.pk for row in later)]


def test_it_submits_many_in_their_order(alice):
    texts = [f"prompt {number}" for number in range(50)]

    prompts = Prompt.submit_many(owner=alice, drafts=[{"model": "otter", "text": text} for text in texts])

    assert [prompt.text for prompt in prompts] == texts
    assert texts_of_lane(prompts[0].lane) == texts
    assert Event.objects.filter(kind="prompt.queued").count() == 50


@pytest.mark.django_db(transaction=True)
def test_it_submits_none_of_many_when_one_cannot_be_stored(alice, bob):
    known = submit(bob)
    drafts = [{"model": "heron", "text": "one"}, {"model": "heron", "text": "two", "id": known.pk}]

    with pytest.raises(PermissionError):
        Prompt.submit_many(owner=alice, drafts=drafts)

    assert Prompt.objects.count() == 1
    assert Event.objects.count() == 1


@pytest.mark.django_db
def test_it_adds_nothing_when_the_same_batch_comes_twice(alice):
    drafts = [{"model": "heron", "text": str(n), "id": uuid.uuid4()} for n in range(3)]

    assert len(Prompt.submit_many(owner=alice, drafts=drafts)) == 3
    assert Prompt.submit_many(owner=alice, drafts=[*drafts, {"model": "heron", "text": "new"}])[0].text == "new"

    assert Prompt.objects.count() == 4


# claim


def test_it_claims_by_priority_and_then_by_age(alice, node):
    for text, priority in [("a", 0), ("b", -10), ("c", 10), ("d", 0), ("e", 10)]:
        prompt = submit(alice, text, priority=priority)

    assert [claim(prompt, node).prompt.text for _ in range(5)] == ["c", "e", "a", "d", "b"]
    assert claim(prompt, node) is None


def test_it_claims_with_a_number_a_node_and_a_lease(alice, node):
    attempt = claim(submit(alice), node, "runner/7")

    stored = fresh(attempt)
    assert (stored.number, stored.node, stored.runner, stored.outcome) == (1, node, "runner/7", "running")
    assert timedelta(seconds=8) < stored.leased_until - timezone.now() <= timedelta(seconds=10)
    assert (stored.prompt.state, stored.prompt.attempt_number, stored.prompt.node) == ("sending", 1, node)
    assert stored.prompt.lane.served_at is not None


def test_it_claims_nothing_before_its_due_time(alice, node):
    prompt = submit(alice, due_at=timezone.now() + timedelta(minutes=1))

    assert claim(prompt, node) is None

    make_due(prompt)
    assert claim(prompt, node).prompt == prompt


def test_it_claims_a_pinned_prompt_for_its_node_only(alice, node):
    other = Node.objects.create(name="attic", base_url="http://127.0.0.1:10")
    pinned, free = submit(alice, "pinned", node_pin=other), submit(alice, "free")

    assert claim(free, node).prompt == free
    assert claim(free, node) is None
    assert claim(pinned, other).prompt == pinned


def test_it_claims_nothing_of_a_paused_lane(alice, node):
    prompt = submit(alice)
    prompt.lane.pause()
    assert claim(prompt, node) is None

    prompt.lane.resume()
    assert claim(prompt, node).prompt == prompt


def test_it_claims_from_one_lane_only(alice, node):
    submit(alice, model="heron")

    assert claim(cancelled(alice), node) is None


# finish, fail, release


def test_it_keeps_the_whole_answer_with_the_attempt_when_it_finishes(alice, node):
    prompt, attempt = running(alice, node)
    stream(attempt, (Kind.REASONING, "Hm, "), (Kind.REASONING, "sky."), (Kind.MESSAGE, "Blue"))

    assert prompt.finish(attempt, [(Kind.MESSAGE, " light.")], {"output_tokens": 9}, "resp_9") is True

    stored = fresh(attempt)
    assert (stored.reasoning, stored.answer, stored.outcome) == ("Hm, sky.", "Blue light.", "done")
    assert (stored.stats, stored.response_id) == ({"output_tokens": 9}, "resp_9")
    assert (fresh(prompt).state, fresh(prompt).finished_at is not None) == ("done", True)
    assert not Chunk.objects.exists()


def test_it_finishes_many_at_once_and_leaves_out_those_that_were_ended_by_others(alice, node):
    prompts = [running(alice, node, model=model) for model in ("otter", "otter", "heron")]
    fresh(prompts[1][0]).cancel()
    endings = [Ending(attempt, [(Kind.MESSAGE, str(n))], {}, "") for n, (_, attempt) in enumerate(prompts)]

    assert Prompt.finish_all(endings) == 2

    assert [fresh(prompt).state for prompt, _ in prompts] == ["done", "cancelled", "done"]
    assert [fresh(attempt).answer for _, attempt in prompts] == ["0", "", "2"]
    assert Event.objects.filter(kind="prompt.finished").count() == 2


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_it_finishes_an_attempt_though_an_earlier_one_of_the_prompt_ends_with_it(alice, node, order):
    prompt, first = running(alice, node)
    fresh(prompt).requeue()
    second = claim(prompt, node)
    endings = [Ending(first, [(Kind.MESSAGE, "stale")], {}, ""), Ending(second, [(Kind.MESSAGE, "alive")], {}, "")]

    assert Prompt.finish_all([endings[at] for at in order]) == 1

    assert fresh(prompt).state == "done"
    assert (fresh(first).answer, fresh(second).answer) == ("", "alive")


def test_it_claims_as_many_as_asked_in_order_and_gives_each_its_next_number(alice, node):
    again, attempt = running(alice, node, text="again", priority=10)
    again.release(attempt, Outcome.RELEASED)
    for text in "abc":
        submit(alice, text)

    attempts = Prompt.claim(again.lane_id, node.pk, "runner/1", 3)

    assert {(a.prompt.text, a.number, fresh(a).prompt.attempt_number) for a in attempts} == {
        ("again", 2, 2), ("a", 1, 1), ("b", 1, 1),
    }  # fmt: skip
    assert texts_of_lane(again.lane) == ["c"]
    assert Prompt.claim(again.lane_id, node.pk, "runner/1", 3)[0].prompt.text == "c"
    assert Prompt.claim(again.lane_id, node.pk, "runner/1", 3) == []


def test_it_finishes_once(alice, node):
    prompt, attempt = running(alice, node)
    assert prompt.finish(attempt, [(Kind.MESSAGE, "first")])

    again = Attempt.objects.select_related("prompt__lane").get(pk=attempt.pk)
    again.prompt.state = "sending"  # as a second worker saw it
    assert again.prompt.finish(again, [(Kind.MESSAGE, "second")]) is False

    assert fresh(attempt).answer == "first"
    assert kinds_of(prompt) == ["prompt.queued", "prompt.claimed", "prompt.finished"]


def test_it_measures_the_lane_by_what_finishes(alice, node):
    lane = submit(alice).lane
    for seconds, mean in [(10, 10.0), (20, 12.0), (2, 10.0)]:
        lane.measure([timedelta(seconds=seconds)])
        assert fresh(lane).mean_seconds == pytest.approx(mean)

    prompt, attempt = running(alice, node, model="heron")
    attempt.started_at = timezone.now() - timedelta(seconds=4)
    prompt.finish(attempt)
    assert fresh(prompt).lane.mean_seconds == pytest.approx(4, abs=0.5)


def test_it_queues_a_failed_try_again_for_later_and_keeps_what_had_come(alice, node):
    prompt, attempt = running(alice, node)
    stream(attempt, (Kind.MESSAGE, "Half an"))

    assert prompt.fail(attempt, CUT, rest=[(Kind.MESSAGE, " answer")]) is True

    stored = fresh(prompt)
    assert (stored.state, stored.tries, stored.reason, stored.detail) == ("queued", 1, "cut", "the wire was cut")
    assert timedelta(seconds=1) < stored.due_at - timezone.now() < timedelta(seconds=2.5)
    assert (fresh(attempt).answer, fresh(attempt).outcome, fresh(attempt).reason) == ("Half an answer", "failed", "cut")
    assert not Chunk.objects.exists()


def test_it_fails_at_once_where_no_try_can_help(alice, node):
    prompt = failed(alice, node)

    stored = fresh(prompt)
    assert (stored.state, stored.tries, stored.reason, stored.detail) == ("failed", 1, "bad_request", "no such setting")
    assert stored.finished_at is not None


def test_it_fails_for_good_after_the_fifth_try_and_keeps_all_attempts(alice, node):
    prompt = submit(alice)
    for number in range(1, 6):
        assert fresh(prompt).state == "queued"
        make_due(prompt)
        attempt = claim(prompt, node)
        attempt.prompt.fail(attempt, CUT, rest=[(Kind.MESSAGE, f"try {number}")])

    assert (fresh(prompt).state, fresh(prompt).tries) == ("failed", 5)
    assert [attempt.answer for attempt in prompt.attempts.all()] == [f"try {number}" for number in range(1, 6)]


def test_it_fails_once(alice, node):
    prompt, attempt = running(alice, node)
    stale = fresh(prompt)

    assert prompt.fail(attempt, CUT) is True
    assert stale.fail(fresh(attempt), CUT) is False

    assert fresh(prompt).tries == 1


def test_it_releases_without_burning_a_try(alice, node):
    prompt, attempt = running(alice, node)
    stream(attempt, (Kind.MESSAGE, "Hal"))
    stale = fresh(prompt)

    assert prompt.release(attempt, Outcome.RELEASED, rest=[(Kind.MESSAGE, "f")]) is True
    assert stale.release(fresh(attempt), Outcome.RELEASED, rest=REST) is False

    stored = fresh(prompt)
    assert (stored.state, stored.tries, stored.due_at <= timezone.now()) == ("queued", 0, True)
    assert (fresh(attempt).outcome, fresh(attempt).answer) == ("released", "Half")
    assert claim(prompt, node).number == 2


# cancel, retry, requeue, repeat


def test_it_cancels_a_waiting_prompt_once(alice):
    prompt = submit(alice)

    assert [prompt.cancel(), prompt.cancel(), fresh(prompt).cancel()] == [True, False, False]

    assert fresh(prompt).state == "cancelled"
    assert kinds_of(prompt) == ["prompt.queued", "prompt.cancelled"]


def test_it_cancels_a_running_prompt_and_keeps_what_had_come(alice, node):
    prompt, attempt = running(alice, node)
    stream(attempt, (Kind.REASONING, "Hm"), (Kind.MESSAGE, "Bl"))

    assert prompt.cancel() is True

    assert (fresh(prompt).state, fresh(prompt).finished_at is not None) == ("cancelled", True)
    stored = fresh(attempt)
    assert (stored.outcome, stored.reasoning, stored.answer) == ("cancelled", "Hm", "Bl")
    assert not Chunk.objects.exists()


def test_it_cancels_what_was_claimed_after_the_caller_looked(alice, node):
    prompt = submit(alice)
    attempt = claim(prompt, node)

    assert prompt.cancel() is True

    assert fresh(attempt).outcome == "cancelled"


def test_it_cancels_nothing_that_has_ended(alice, node):
    for prompt in (done(alice, node), failed(alice, node)):
        state = fresh(prompt).state
        assert prompt.cancel() is False
        assert fresh(prompt).state == state


@pytest.mark.parametrize("ended", [lambda alice, node: failed(alice, node), lambda alice, node: cancelled(alice)])
def test_it_retries_with_all_tries_and_at_the_end_of_the_lane(alice, node, ended):
    prompt = ended(alice, node)
    Prompt.objects.filter(pk=prompt.pk).update(tries=5)
    waiting = submit(alice, "waits")
    prompt = fresh(prompt)

    assert [prompt.retry(), prompt.retry()] == [True, False]

    stored = fresh(prompt)
    assert (stored.state, stored.tries, stored.reason, stored.detail, stored.finished_at) == ("queued", 0, "", "", None)
    assert claim(prompt, node).prompt == waiting


def test_it_retries_nothing_else(alice, node):
    for prompt in (submit(alice), running(alice, node)[0], done(alice, node)):
        assert prompt.retry() is False


def test_it_retries_once_when_two_ask(alice, node):
    prompt = failed(alice, node)
    one, two = fresh(prompt), fresh(prompt)

    assert [one.retry(), two.retry()] == [True, False]
    assert kinds_of(prompt).count("prompt.queued") == 2


def test_it_requeues_a_running_prompt_and_keeps_what_had_come(alice, node):
    prompt, attempt = running(alice, node)
    stream(attempt, (Kind.MESSAGE, "Half"))

    assert prompt.requeue() is True
    assert prompt.requeue() is False

    assert (fresh(prompt).state, fresh(attempt).outcome, fresh(attempt).answer) == ("queued", "released", "Half")


def test_it_requeues_what_was_claimed_after_the_caller_looked(alice, node):
    prompt = submit(alice)
    attempt = claim(prompt, node)

    assert prompt.requeue() is True

    assert (fresh(prompt).state, fresh(attempt).outcome) == ("queued", "released")


def test_it_requeues_failed_and_cancelled_prompts_but_not_done_ones(alice, node):
    assert failed(alice, node).requeue() is True
    assert cancelled(alice, model="heron").requeue() is True
    assert done(alice, node, model="ibis").requeue() is False


def test_it_repeats_with_everything_but_the_outcome(alice, node):
    earlier = done(alice, node)
    prompt = failed(
        alice, node, text="x", system_prompt="y", settings={"top_k": 1}, priority=10, follows=earlier, node_pin=node
    )

    again = fresh(prompt.repeat())

    assert again.pk != prompt.pk
    assert (again.state, again.text, again.system_prompt, again.settings) == ("queued", "x", "y", {"top_k": 1})
    assert (again.priority, again.follows, again.node_pin, again.model) == (10, earlier, node, "otter")
    assert (again.attempt_number, again.tries, again.reason) == (0, 0, "")
    assert fresh(prompt).state == "failed"


# edit and reorder


def test_it_changes_a_waiting_prompt(alice):
    prompt = submit(alice)

    for _ in range(2):
        assert prompt.edit(text="new", model="heron", settings={"top_p": 0.5}, priority=-10) is True

    stored = fresh(prompt)
    assert (stored.text, stored.model, stored.settings, stored.priority) == ("new", "heron", {"top_p": 0.5}, -10)
    assert kinds_of(prompt)[-1] == "prompt.edited"


def test_it_changes_nothing_that_waits_no_more(alice, node):
    prompt = submit(alice, "old")
    claim(prompt, node)

    assert prompt.edit(text="new") is False

    assert fresh(prompt).text == "old"
    assert "prompt.edited" not in kinds_of(prompt)


def lane_of(owner, count: int) -> list[Prompt]:
    drafts = [{"model": "otter", "text": str(number)} for number in range(count)]
    return Prompt.submit_many(owner=owner, drafts=drafts)


@pytest.mark.parametrize(
    ("moved", "where", "order"),
    [
        (2, "first", "2013"),
        (2, "up", "0213"),
        (1, "up", "1023"),
        (1, "down", "0213"),
        (2, "down", "0132"),
        (1, "last", "0231"),
    ],
)
def test_it_moves_a_waiting_prompt_within_its_lane(alice, moved, where, order):
    prompts = lane_of(alice, 4)

    assert prompts[moved].reorder(where) is True

    assert "".join(texts_of_lane(prompts[0].lane)) == order
    assert kinds_of(prompts[moved])[-1] == "prompt.reordered"


@pytest.mark.parametrize(("moved", "where"), [(0, "first"), (0, "up"), (2, "down"), (2, "last")])
def test_it_moves_nothing_past_the_ends(alice, moved, where):
    prompts = lane_of(alice, 3)

    assert prompts[moved].reorder(where) is False
    assert "".join(texts_of_lane(prompts[0].lane)) == "012"


def test_it_moves_only_among_prompts_of_its_priority(alice):
    high, low = submit(alice, "high", priority=10), submit(alice, "low")

    assert low.reorder("first") is False
    assert texts_of_lane(high.lane) == ["high", "low"]


def test_it_moves_nothing_that_waits_no_more(alice, node):
    prompts = lane_of(alice, 3)
    claim(prompts[0], node)

    assert prompts[0].reorder("last") is False
    assert "prompt.reordered" not in kinds_of(prompts[0])


def test_it_moves_a_prompt_as_often_as_people_like(alice):
    prompts = lane_of(alice, 3)
    for turn in range(40):
        mover = prompts[2 - turn % 2]
        assert fresh(mover).reorder("up") is True
        assert texts_of_lane(mover.lane)[1] == mover.text


MOVES = st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["first", "up", "down", "last"])), max_size=25)


@given(moves=MOVES)
@hypothesis_settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_it_keeps_the_order_that_people_made_however_often_they_move(alice, moves):
    Prompt.objects.all().delete()
    prompts = {prompt.text: prompt for prompt in lane_of(alice, 4)}
    expected = list(prompts)
    for index, where in moves:
        name = str(index)
        at = expected.index(name)
        to = {"first": 0, "up": max(at - 1, 0), "down": min(at + 1, 3), "last": 3}[where]
        fresh(prompts[name]).reorder(where)
        expected.insert(to, expected.pop(at))
        assert texts_of_lane(prompts["0"].lane) == expected


# Lost workers


def test_it_rescues_only_what_expired(alice, node):
    lost, gone = running(alice, node)
    _, held = running(alice, node, model="heron")
    stream(gone, (Kind.MESSAGE, "Half"))
    die(gone)

    assert [Prompt.rescue(), Prompt.rescue()] == [1, 0]

    assert (fresh(lost).state, fresh(lost).tries) == ("queued", 0)
    assert (fresh(gone).outcome, fresh(gone).answer) == ("lost", "Half")
    assert fresh(held).outcome == "running"
    assert not Chunk.objects.exists()


def test_it_rescues_nothing_whose_lease_was_prolonged_meanwhile(alice, node, monkeypatch):
    for model in ("otter", "heron"):
        die(running(alice, node, model=model)[1])
    release = Prompt.release

    def release_while_the_other_beats(prompt, *args):
        Attempt.objects.exclude(prompt=prompt).update(leased_until=timezone.now() + timedelta(seconds=10))
        return release(prompt, *args)

    monkeypatch.setattr(Prompt, "release", release_while_the_other_beats)

    assert Prompt.rescue() == 1
    assert sorted(Prompt.objects.values_list("state", flat=True)) == ["queued", "sending"]


def test_it_rescues_at_once_what_a_dead_process_of_this_machine_held(alice, node):
    process = subprocess.Popen(["true"])
    process.wait()
    prompt = submit(alice)
    attempt = claim(prompt, node, f"{machine()}/{process.pid}/abcd")
    alive = claim(submit(alice, model="heron"), node, Runner.name_of_this_process())

    assert Prompt.rescue() == 1

    assert (fresh(attempt).outcome, fresh(alive).outcome) == ("lost", "running")


def test_it_ends_a_prompt_that_keeps_killing_its_workers(alice, node):
    prompt = submit(alice)
    for _ in range(10):
        assert fresh(prompt).state == "queued"
        die(claim(prompt, node))
        Prompt.rescue()

    assert fresh(prompt).state == "failed"
    assert "died 10 times" in fresh(prompt).detail


# Texts so far, place and wait


def test_it_tells_the_texts_so_far_while_it_streams_and_the_same_after(alice, node):
    prompt, attempt = running(alice, node)
    stream(attempt, (Kind.REASONING, "Hm"), (Kind.MESSAGE, "Blue"))
    stale = fresh(attempt)
    so_far = {Kind.REASONING: "Hm", Kind.MESSAGE: "Blue"}
    assert stale.texts() == so_far

    prompt.finish(attempt)

    assert stale.texts() == so_far  # a reader that still thinks it runs
    assert fresh(attempt).texts() == so_far


def test_it_counts_the_place_in_the_lane(alice, node):
    first, second = submit(alice), submit(alice)
    other_lane, urgent = submit(alice, model="heron"), submit(alice, priority=10)

    assert [prompt.place() for prompt in (urgent, first, second, other_lane)] == [1, 2, 3, 1]
    assert running(alice, node, model="ibis")[0].place() is None


def test_it_estimates_the_wait_by_the_measured_speed(alice):
    prompt = submit(alice)
    assert prompt.expected_wait(5, 4) is None

    prompt.lane.measure([timedelta(seconds=8)])

    assert prompt.expected_wait(1, 4) == timedelta(seconds=4)
    assert prompt.expected_wait(5, 4) == timedelta(seconds=12)
    assert prompt.expected_wait(5, 1) == timedelta(seconds=36)


def test_it_explains_its_last_failure(alice, node):
    assert failed(alice, node).reason_explanation == "The node did not accept the request."
    assert submit(alice).reason_explanation == ""
