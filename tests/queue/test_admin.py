"""The queue for operators: no text for those who may not read it, and actions that do their work."""

import pytest
from django.contrib.auth.models import Permission
from django.urls import reverse

from daemonpulse.queue.models import Lane, Prompt

from .prompts import cancelled, done, failed, fresh, running, stream, submit

pytestmark = pytest.mark.django_db
MARK = "xylophone-7319"


@pytest.fixture
def operator(client, bob):
    """Bob looks after the queue; what people write is not his business."""
    bob.is_staff = True
    bob.save()
    names = ("view_prompt", "change_prompt", "view_attempt", "view_lane", "change_lane")
    bob.user_permissions.set(Permission.objects.filter(codename__in=names))
    client.force_login(bob)
    return client


def pages_of(prompt: Prompt) -> list[str]:
    attempt = prompt.attempts.first()
    return [
        reverse("admin:queue_prompt_change", args=[prompt.pk]),
        reverse("admin:queue_attempt_change", args=[attempt.pk]),
        reverse("admin:queue_prompt_changelist"),
        reverse("admin:queue_attempt_changelist"),
    ]


def text_in(client, path: str) -> str:
    response = client.get(path)
    assert response.status_code == 200
    return response.content.decode()


def act(client, model: str, action: str, *rows) -> None:
    path = reverse(f"admin:queue_{model}_changelist")
    data = {"action": action, "_selected_action": [str(row.pk) for row in rows]}
    response = client.post(path, data, follow=True)
    assert response.status_code == 200


def everything(alice, node) -> Prompt:
    return done(
        alice,
        node,
        text=f"text {MARK}",
        system_prompt=f"system {MARK}",
        answer=f"answer {MARK}",
        reasoning=f"hm {MARK}",
    )


def test_it_hides_texts_from_those_who_may_not_read_them(operator, alice, node):
    prompt = everything(alice, node)

    for path in pages_of(prompt):
        page = text_in(operator, path)
        assert str(prompt.pk) in page
        assert MARK not in page


def test_it_shows_texts_to_those_who_may_read_them(operator, bob, alice, node):
    bob.user_permissions.add(Permission.objects.get(codename="view_prompt_text"))
    prompt = everything(alice, node)

    prompt_page, attempt_page, *lists = [text_in(operator, path) for path in pages_of(prompt)]

    for text in (f"text {MARK}", f"system {MARK}", f"answer {MARK}", f"hm {MARK}"):
        assert text in prompt_page
    assert f"answer {MARK}" in attempt_page
    assert not any(MARK in page for page in lists)


def test_it_cancels_what_is_open(operator, alice, node):
    (going, attempt), waiting, over = running(alice, node), submit(alice), failed(alice, node, model="heron")
    stream(attempt, ("message", "Half"))

    act(operator, "prompt", "cancel", going, waiting, over)

    assert [fresh(prompt).state for prompt in (going, waiting, over)] == ["cancelled", "cancelled", "failed"]
    assert fresh(attempt).answer == "Half"


def test_it_retries_what_failed_or_was_cancelled(operator, alice, node):
    prompts = [failed(alice, node), cancelled(alice), done(alice, node, model="heron")]

    act(operator, "prompt", "retry", *prompts)

    assert [fresh(prompt).state for prompt in prompts] == ["queued", "queued", "done"]


def test_it_requeues_what_runs(operator, alice, node):
    (going, attempt), waiting = running(alice, node), submit(alice)

    act(operator, "prompt", "requeue", going, waiting)

    assert (fresh(going).state, fresh(attempt).outcome, fresh(waiting).state) == ("queued", "released", "queued")


def test_it_pauses_and_resumes_lanes(operator, alice):
    lanes = [submit(alice).lane, submit(alice, model="heron").lane]

    act(operator, "lane", "pause", *lanes)
    assert set(Lane.objects.values_list("is_paused", flat=True)) == {True}

    act(operator, "lane", "resume", lanes[0])
    assert [fresh(lane).is_paused for lane in lanes] == [False, True]


def test_it_sets_a_lanes_limit_and_nothing_measured(operator, alice):
    lane = submit(alice).lane
    path = reverse("admin:queue_lane_change", args=[lane.pk])

    data = {"model": "otter", "limit": 2, "opening_tag": "<think>", "closing_tag": "</think>", "is_paused": "on"}
    response = operator.post(path, data)

    assert response.status_code == 302
    assert (fresh(lane).limit, fresh(lane).is_paused) == (2, False)


def test_it_takes_no_actions_from_those_who_may_only_look(operator, bob, alice, node):
    bob.user_permissions.set(Permission.objects.filter(codename__in=["view_prompt", "view_lane"]))
    prompt = submit(alice)

    act(operator, "prompt", "cancel", prompt)
    act(operator, "lane", "pause", prompt.lane)

    assert (fresh(prompt).state, fresh(prompt.lane).is_paused) == ("queued", False)


def test_it_changes_no_prompt_by_hand(operator, alice):
    prompt = submit(alice)

    response = operator.post(reverse("admin:queue_prompt_change", args=[prompt.pk]), {"priority": 10})

    assert response.status_code == 403
    assert operator.get(reverse("admin:queue_prompt_add")).status_code == 403
    assert fresh(prompt).priority == 0


def test_it_shuts_out_those_who_are_no_staff(alice_client, client, bob):
    client.force_login(bob)

    assert client.get(reverse("admin:queue_prompt_changelist")).status_code == 302


def test_it_lists_many_with_as_many_queries_as_few(operator, alice, node, django_assert_max_num_queries):
    def queries(count: int) -> int:
        Prompt.submit_many(owner=alice, drafts=[{"model": f"m{n % 5}", "text": "x"} for n in range(count)])
        with django_assert_max_num_queries(30) as captured:
            text_in(operator, reverse("admin:queue_prompt_changelist"))
        return len(captured)

    assert queries(6) == queries(60)
