"""The queue's pages, as their visitors meet them."""

import html
import json
import re
import uuid
from datetime import timedelta

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.urls import reverse
from django.utils import timezone

from daemonpulse.queue import board
from daemonpulse.queue.board import lane_statuses
from daemonpulse.queue.models import Lane, Prompt, Runner
from fleet.models import Node

from .prompts import CUT, cancelled, claim, done, failed, fresh, running, stream, submit

pytestmark = pytest.mark.django_db
HTMX = {"HX-Request": "true"}
GOOD = {"model": "otter", "text": "Why?", "priority": "normal"}


@pytest.fixture
def visit(alice_client):
    """What Alice sees at an address: the words, without the markup."""

    def see(path: str, status: int = 200, **headers) -> str:
        response = alice_client.get(path, headers=headers)
        assert response.status_code == status
        return words(response)

    return see


def words(response) -> str:
    content = re.sub(r"<(script|style)\b.*?</\1>", " ", response.content.decode(), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", content)).split())


def url(name: str, row) -> str:
    return reverse(name, args=[row.pk])


# Who may


PAGES = ["board", "prompt_list", "prompt_new", "prompt_batch"]
OF_A_PROMPT = ["prompt", "prompt_edit", "prompt_cancellation", "prompt_retry", "prompt_repeat", "prompt_position"]
VERBS = ["prompt_cancellation", "prompt_retry", "prompt_repeat", "prompt_position"]


def test_it_sends_charlie_to_the_sign_in_page(client, alice, node):
    prompt = submit(alice)
    addresses = [reverse(name) for name in PAGES] + [url(name, prompt) for name in OF_A_PROMPT]
    addresses += [url("lane_pause", prompt.lane), url("lane_resume", prompt.lane)]

    for address in addresses:
        for response in (client.get(address), client.post(address)):
            assert response.status_code == 302
            assert response["Location"].startswith(reverse("sign_in"))
    assert fresh(prompt).state == "queued"


def test_it_knows_nothing_of_another_users_prompt(alice_client, bob, node):
    theirs = done(bob, node)
    before = Prompt.objects.values().get(pk=theirs.pk)

    for pk in (theirs.pk, uuid.uuid4()):
        for name in OF_A_PROMPT:
            address = reverse(name, args=[pk])
            for response in (alice_client.get(address), alice_client.post(address, GOOD), alice_client.post(address)):
                assert response.status_code in {404, 405}, (name, response.status_code)
            assert alice_client.post(address, headers=HTMX).status_code == (405 if name == "prompt" else 404)
        assert alice_client.get(reverse("prompt_new"), {"follows": pk}).status_code == 404
        assert alice_client.post(reverse("prompt_new"), GOOD | {"follows": pk}).status_code == 404
    assert alice_client.get(reverse("prompt_new"), {"follows": "x"}).status_code == 404
    assert Prompt.objects.values().get(pk=theirs.pk) == before
    assert Prompt.objects.count() == 1


@pytest.mark.parametrize("name", VERBS)
def test_it_does_nothing_on_a_get(alice_client, alice, node, name):
    prompt = failed(alice, node)

    assert alice_client.get(url(name, prompt)).status_code == 405
    assert fresh(prompt).state == "failed"
    assert Prompt.objects.count() == 1


def test_it_wants_the_csrf_token(alice, node):
    from django.test import Client

    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    prompt = submit(alice)

    assert client.post(url("prompt_cancellation", prompt)).status_code == 403
    assert fresh(prompt).state == "queued"


# The board


def test_it_tells_a_newcomer_to_add_a_node(visit):
    assert "Add a node" in visit("/")


def test_it_tells_to_write_the_first_prompt(visit, node):
    assert "Write the first prompt" in visit("/")


def test_it_shows_what_runs_and_what_waits_and_why(visit, alice, node):
    running(alice, node, text="An otter question")
    submit(alice, "Next otter question")
    submit(alice, "A heron question", model="heron")

    page = visit("/")

    assert "1 of 2 slots running" in page
    assert page.index("An otter question") < page.index("Next otter question")
    assert "A heron question" in page
    assert "The node is busy with another model. In the way: otter" in page


def test_it_never_shows_another_persons_text(visit, bob, alice, node):
    marks = []
    for number, make in enumerate([lambda **f: running(bob, node, **f)[0], lambda **f: submit(bob, **f)]):
        marks += [f"xylophone-{number}", f"zither-{number}"]
        make(text=marks[-2], system_prompt=marks[-1])
    retried, attempt = running(bob, node, model="heron", text="lyre-1")
    retried.fail(attempt, CUT, rest=[("message", "lyre-2")])
    submit(alice, "mine")

    for page in (visit("/"), visit("/", **HTMX)):
        assert "mine" in page
        assert "Another person’s prompt" in page
        assert not [mark for mark in [*marks, "lyre-1", "lyre-2", CUT.detail] if mark in page]


def test_it_links_and_cancels_only_ones_own(alice_client, bob, node):
    theirs = submit(bob)

    content = alice_client.get("/").content.decode()

    assert url("prompt", theirs) not in content
    assert url("prompt_cancellation", theirs) not in content


def test_it_counts_what_others_have_waiting(visit, alice, bob, node):
    for _ in range(6):
        submit(bob)
    submit(alice)

    page = visit("/")

    assert "7 waiting" in page
    assert "and 2 more waiting" in page
    assert "1 of the 7 waiting is yours" in page


def test_it_counts_what_ended_within_a_day(visit, alice, node):
    done(alice, node)
    failed(alice, node)
    old = done(alice, node)
    Prompt.objects.filter(pk=old.pk).update(finished_at=timezone.now() - timedelta(hours=25))

    assert "1 done, 1 failed in 24 h" in visit("/")


def test_it_shows_the_next_try_and_its_reason(visit, alice, node):
    prompt, attempt = running(alice, node)
    prompt.fail(attempt, CUT)

    page = visit("/")

    assert "next try" in page
    assert "The connection broke in the middle of the answer." in page


def test_it_estimates_when_a_prompt_starts(visit, alice, node):
    Lane.for_model("otter").measure([timedelta(minutes=2)])
    prompt = submit(alice)

    assert "starts" not in visit("/")  # nothing executes it
    assert "It starts" not in visit(url("prompt", prompt))
    Runner.note_watch()
    assert "starts" in visit("/")
    assert "It starts" in visit(url("prompt", prompt))


@pytest.mark.parametrize("other", [5, 200])
def test_it_shows_the_board_with_as_many_queries_for_many_prompts(alice_client, alice, bob, node, other, settings):
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    def queries() -> int:
        with CaptureQueriesContext(
            connection,
        ) as captured:
            assert alice_client.get("/").status_code == 200
        return len(captured)

    node.models.update(slots=50)
    for owner in (alice, bob):
        running(owner, node)
        submit(owner)
        submit(owner, model="heron")
    few = queries()
    drafts = [{"model": ("otter", "heron")[n % 2], "text": "x", "priority": (0, 10)[n % 3 == 0]} for n in range(other)]
    Prompt.submit_many(owner=bob, drafts=drafts)
    for _ in range(other // 5):
        claim(Prompt.objects.filter(lane__model="otter").first(), node)

    assert queries() == few <= 20


def test_it_shows_the_board_while_a_new_lane_comes(alice, node, monkeypatch):
    count = board._count

    def count_while_somebody_submits(statuses, user):
        running(alice, node, model="ibis")
        submit(alice, model="ibis")
        done(alice, node, model="kite")
        count(statuses, user)

    submit(alice)
    monkeypatch.setattr(board, "_count", count_while_somebody_submits)

    assert [status.lane.model for status in lane_statuses(alice)] == ["otter"]


# Lanes


def test_it_pauses_and_resumes_a_lane(alice_client, visit, alice, node):
    lane = submit(alice).lane

    response = alice_client.post(url("lane_pause", lane), follow=True)
    assert fresh(lane).is_paused
    assert "Paused. Resume the lane to go on." in words(response)

    response = alice_client.post(url("lane_resume", lane), headers=HTMX)
    assert not fresh(lane).is_paused
    assert response.templates[0].name == "queue/_lane.html"
    assert "Pause" in words(response)
    assert alice_client.get(url("lane_pause", lane)).status_code == 405
    assert alice_client.post(reverse("lane_pause", args=[99])).status_code == 404


# Composing


def test_it_queues_what_was_written_and_shows_it(alice_client, alice, node):
    data = GOOD | {"system_prompt": "Be brief.", "priority": "high", "temperature": "0.5", "node": node.pk}

    response = alice_client.post(reverse("prompt_new"), data)

    prompt = Prompt.objects.get()
    assert response.status_code == 302
    assert response["Location"] == url("prompt", prompt)
    assert (prompt.owner, prompt.text, prompt.system_prompt, prompt.priority) == (alice, "Why?", "Be brief.", 10)
    assert (prompt.settings, prompt.node_pin) == ({"temperature": 0.5}, node)


def test_it_goes_on_with_the_next_prompt_of_the_same_model(alice_client, node):
    response = alice_client.post(reverse("prompt_new"), GOOD | {"model": "heron", "another": "1"}, follow=True)

    assert "Queued. Write the next one." in words(response)
    assert response.context["chosen"] == "heron"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"text": "  \n "}, "Write a prompt; this one is only white space."),
        ({"model": "kraken"}, "No node has the model “kraken”."),
        ({"temperature": "9"}, "less than or equal to 2"),
        ({"text": "x" * 5 * 1024 * 1024}, "at most 1000000 characters"),
    ],
)
def test_it_says_what_is_wrong_and_keeps_what_was_written(alice_client, node, changes, complaint):
    response = alice_client.post(reverse("prompt_new"), GOOD | {"system_prompt": "kept-by-the-form"} | changes)

    assert response.status_code == 422
    assert complaint in words(response)
    assert "kept-by-the-form" in response.content.decode()
    assert not Prompt.objects.exists()


def test_it_says_that_a_chosen_model_is_gone(visit, node):
    assert "no longer on any node" in visit(reverse("prompt_new") + "?model=kraken")


def test_it_offers_the_models_of_the_nodes(alice_client, node):
    content = alice_client.get(reverse("prompt_new")).content.decode()

    assert 'value="otter"' in content
    assert 'value="heron"' in content


def test_it_continues_a_chat(alice_client, alice, node):
    earlier = done(alice, node, system_prompt="Be brief.", priority=10)
    page = alice_client.get(reverse("prompt_new"), {"follows": earlier.pk})
    assert (page.context["chosen"], page.context["form"]["text"].value()) == ("otter", "")
    assert page.context["form"]["system_prompt"].value() == "Be brief."

    alice_client.post(reverse("prompt_new"), GOOD | {"follows": earlier.pk})

    prompt = Prompt.objects.get(follows=earlier)
    assert (prompt.node_pin, prompt.text) == (node, "Why?")


# Editing


def test_it_changes_a_waiting_prompt(alice_client, alice, node):
    prompt = submit(alice, "old", settings={"top_k": 3})
    page = alice_client.get(url("prompt_edit", prompt))
    assert (page.context["form"]["text"].value(), page.context["form"]["top_k"].value()) == ("old", 3)

    response = alice_client.post(url("prompt_edit", prompt), GOOD | {"text": "new", "model": "heron"})

    assert response["Location"] == url("prompt", prompt)
    assert (fresh(prompt).text, fresh(prompt).model, fresh(prompt).settings) == ("new", "heron", {})


def test_it_says_that_a_running_prompt_cannot_be_changed(alice_client, alice, node):
    prompt = submit(alice, "old")
    claim(prompt, node)

    for response in (
        alice_client.get(url("prompt_edit", prompt), follow=True),
        alice_client.post(url("prompt_edit", prompt), GOOD, follow=True),
    ):
        assert response.redirect_chain[-1][0] == url("prompt", prompt)
        assert "not changed" in words(response) or "Only a waiting prompt" in words(response)
    assert fresh(prompt).text == "old"


def test_it_refuses_a_bad_change_and_keeps_the_prompt(alice_client, alice, node):
    prompt = submit(alice, "old")

    response = alice_client.post(url("prompt_edit", prompt), GOOD | {"text": " "})

    assert response.status_code == 422
    assert fresh(prompt).text == "old"


def test_it_keeps_a_changed_follow_up_with_its_model(alice_client, alice, node):
    """The daemon has its chat for this model only, whatever a form leaves out."""
    prompt = submit(alice, "old", follows=done(alice, node))

    response = alice_client.post(url("prompt_edit", prompt), GOOD | {"model": "heron"})

    assert response.status_code == 422
    assert (fresh(prompt).model, fresh(prompt).text) == ("otter", "old")


# Many at once


def test_it_queues_many_pasted_prompts(alice_client, alice, node):
    response = alice_client.post(reverse("prompt_batch"), {"model": "otter", "texts": "one\r\ntwo\r\n"}, follow=True)

    assert "2 prompts queued." in words(response)
    assert [prompt.text for prompt in Prompt.objects.in_lane_order()] == ["one", "two"]


def test_it_queues_a_file_or_nothing_of_it(alice_client, node):
    def upload(*lines: str):
        file = SimpleUploadedFile("prompts.jsonl", "\n".join(lines).encode())
        return alice_client.post(reverse("prompt_batch"), {"model": "otter", "file": file})

    good = [json.dumps({"text": f"prompt {number}"}) for number in range(1, 11)]

    broken = upload(*good[:6], "{", *good[7:])
    assert broken.status_code == 422
    assert "Line 7: not valid JSON" in words(broken)
    assert "Nothing was queued." in words(broken)
    assert not Prompt.objects.exists()

    assert upload(*good).status_code == 302
    assert Prompt.objects.count() == 10


@pytest.mark.parametrize("line", ['{"\\ud800": 1}', '{"text": "a", "model": "\\ud800"}', '{"text": "\\ud800"}'])
def test_it_answers_a_file_with_half_a_character(alice_client, node, line):
    file = SimpleUploadedFile("prompts.jsonl", line.encode())

    response = alice_client.post(reverse("prompt_batch"), {"model": "otter", "file": file})

    assert response.status_code == 422
    assert "Line 1:" in words(response)


# History


def test_it_lists_ones_own_prompts_newest_first(visit, alice, bob, node):
    submit(bob, "a secret of Bob")
    submit(alice, "the older one")
    done(alice, node, text="the newer one")

    page = visit(reverse("prompt_list"))

    assert page.index("the newer one") < page.index("the older one")
    assert "secret" not in page


def test_it_says_what_to_do_when_there_is_nothing(visit):
    assert "No prompts yet" in visit(reverse("prompt_list"))


def test_it_filters_the_history(visit, alice, node):
    submit(alice, "waiting otter")
    cancelled(alice, text="cancelled otter")
    submit(alice, "waiting heron", model="heron")
    everything = ["waiting otter", "cancelled otter", "waiting heron"]

    def shown(query: str) -> set[str]:
        page = visit(reverse("prompt_list") + "?" + query)
        return {text for text in everything if text in page}

    assert shown("model=otter") == {"waiting otter", "cancelled otter"}
    assert shown("state=queued") == {"waiting otter", "waiting heron"}
    assert shown("model=otter&state=cancelled") == {"cancelled otter"}
    assert shown("state=melted&model=kraken&page=x") == set(everything)
    assert "No prompt is like that" in visit(reverse("prompt_list") + "?state=done")


def test_it_searches_texts_and_answers(visit, alice, bob, node):
    done(alice, node, text="Why is the sky blue?", answer="Rayleigh scattering")
    submit(alice, "Why do otters hold hands?")
    submit(bob, "Rayleigh again")

    page = visit(reverse("prompt_list") + "?q=RAYLEIGH")

    assert "1 found." in page
    assert "Why is the sky blue?" in page
    assert "otters" not in page
    assert "again" not in page


def test_it_pages_the_history_and_keeps_the_filters(alice_client, alice):
    Prompt.submit_many(owner=alice, drafts=[{"model": "otter", "text": f"number {n}."} for n in range(35)])

    first = alice_client.get(reverse("prompt_list"), {"state": "queued"})
    second = alice_client.get(reverse("prompt_list"), {"state": "queued", "page": 2})

    texts = [{prompt.text for prompt in response.context["page"]} for response in (first, second)]
    assert ([len(part) for part in texts], texts[0] & texts[1]) == ([30, 5], set())
    assert "state=queued" in first.content.decode().split("page=2")[0][-200:]


def test_it_shows_the_history_with_as_many_queries_for_many(alice_client, alice, node, django_assert_max_num_queries):
    def queries(query: str = "") -> int:
        with django_assert_max_num_queries(12) as captured:
            assert alice_client.get(reverse("prompt_list") + query).status_code == 200
        return len(captured)

    done(alice, node, text="x")
    submit(alice, "x")
    few = [queries(), queries("?q=x")]
    drafts = [{"model": f"m{n % 5}", "text": "x"} for n in range(40)]
    Prompt.submit_many(owner=alice, drafts=drafts)

    assert [queries(), queries("?q=x")] == few


# One prompt


def test_it_shows_a_waiting_prompt_and_what_it_waits_for(visit, alice, node):
    submit(alice)
    prompt = submit(alice, "Why?")
    assert "It is no. 2 in its lane." in visit(url("prompt", prompt))

    prompt.lane.pause()
    assert "Paused. Resume the lane to go on." in visit(url("prompt", prompt))

    prompt.lane.resume()
    Node.objects.update(state="offline")
    assert "does not answer" in visit(url("prompt", prompt))


def test_it_is_headed_by_the_models_name_and_says_which_one_it_is(alice_client, alice, node):
    named, gone = submit(alice), submit(alice, model="acme/dodo")

    page = alice_client.get(url("prompt", named)).content.decode()
    assert '<h1><span class="visually-hidden">Prompt for </span>Otter</h1>' in page
    assert '<span class="mono">otter</span>' in page
    assert "Prompt for </span>acme/dodo</h1>" in alice_client.get(url("prompt", gone)).content.decode()


def test_it_shows_the_text_so_far(visit, alice, node):
    prompt, attempt = running(alice, node)
    stream(attempt, ("reasoning", "Let me think"), ("message", "Blue <b>light"))

    page = visit(url("prompt", prompt))

    assert "Let me think" in page
    assert "Blue <b>light" in page  # as text, not as markup


def test_it_renders_the_answer_and_nothing_dangerous(alice_client, alice, node):
    prompt = done(alice, node, answer="**Blue** <script>alert(1)</script> [x](javascript:alert(1))")

    content = alice_client.get(url("prompt", prompt)).content.decode()

    assert "<strong>Blue</strong>" in content
    assert "<script>alert" not in content
    assert 'href="javascript' not in content


def test_it_shows_why_it_failed_and_earlier_tries(visit, alice, node):
    prompt, attempt = running(alice, node)
    prompt.fail(attempt, CUT, rest=[("message", "Half an answer")])
    Prompt.objects.update(due_at=timezone.now())
    second = claim(prompt, node)
    second.prompt.finish(second, [("message", "The whole answer")])

    page = visit(url("prompt", prompt))

    assert "The whole answer" in page
    assert "Earlier tries" in page
    assert "Half an answer" in page
    assert "The connection broke" in page


def test_it_offers_only_what_can_be_done(alice_client, alice, node):
    def offered(prompt) -> set[str]:
        content = alice_client.get(url("prompt", prompt)).content.decode()
        names = {"edit", "retry", "repeat", "follow-up", "cancel", "move-first"}
        return {name for name in names if f'id="{name}"' in content}

    assert offered(submit(alice)) == {"edit", "cancel", "move-first"}
    assert offered(running(alice, node)[0]) == {"cancel"}
    assert offered(done(alice, node, model="heron")) == {"follow-up", "repeat"}
    assert offered(failed(alice, node, model="ibis")) == {"retry", "repeat"}
    assert offered(cancelled(alice)) == {"retry", "repeat"}


# Verbs


@pytest.mark.parametrize(
    ("name", "make", "state"),
    [
        ("prompt_cancellation", lambda alice, node: running(alice, node)[0], "cancelled"),
        ("prompt_retry", failed, "queued"),
    ],
)
def test_it_answers_htmx_with_the_prompt_and_others_with_a_redirect(alice_client, alice, node, name, make, state):
    plain, by_htmx = make(alice, node), make(alice, node)

    response = alice_client.post(url(name, plain))
    assert (response.status_code, response["Location"]) == (302, url("prompt", plain))

    response = alice_client.post(url(name, by_htmx), headers=HTMX)
    assert response.status_code == 200
    assert response.templates[0].name == "queue/_prompt.html"
    assert response.content.decode().strip().startswith(f'<article class="stack" id="prompt-{by_htmx.pk}"')
    assert [fresh(prompt).state for prompt in (plain, by_htmx)] == [state, state]


def test_it_may_be_told_twice(alice_client, alice, node):
    prompt = submit(alice)

    answers = [alice_client.post(url("prompt_cancellation", prompt)).status_code for _ in range(2)]

    assert (answers, fresh(prompt).state) == ([302, 302], "cancelled")


def test_it_answers_a_cancel_on_the_board_with_the_lane(alice_client, alice, node):
    prompt = submit(alice, "gone soon")

    response = alice_client.post(url("prompt_cancellation", prompt), headers=HTMX | {"HX-Target": prompt.lane.dom_id})

    assert response.templates[0].name == "queue/_lane.html"
    assert "gone soon" not in words(response)
    assert fresh(prompt).state == "cancelled"


def test_it_moves_a_waiting_prompt(alice_client, alice, node):
    first, second = submit(alice, "first"), submit(alice, "second")

    alice_client.post(url("prompt_position", second), {"where": "first"})
    assert [prompt.text for prompt in Prompt.objects.in_lane_order()] == ["second", "first"]

    response = alice_client.post(url("prompt_position", first), {"where": "sideways"}, headers=HTMX)
    assert response.status_code == 200
    assert [prompt.text for prompt in Prompt.objects.in_lane_order()] == ["second", "first"]


def test_it_repeats_a_prompt_as_a_new_one(alice_client, alice, node):
    prompt = done(alice, node, text="Why?")

    response = alice_client.post(url("prompt_repeat", prompt))

    again = Prompt.objects.exclude(pk=prompt.pk).get()
    assert response["Location"] == url("prompt", again)
    assert (again.text, again.state, fresh(prompt).state) == ("Why?", "queued", "done")


def test_it_lets_only_operators_pause_a_lane(alice, bob, node, client):
    lane = submit(alice).lane
    client.force_login(bob)

    assert client.post(f"/lanes/{lane.pk}/pause/").status_code == 403
    assert "Pause" not in client.get("/").text
    lane.refresh_from_db()
    assert not lane.is_paused


def test_it_has_no_second_password_form_in_the_admin(bob, client):
    assert client.get("/admin/login/", follow=True).redirect_chain[-1][0].startswith("/sign-in/")
    client.force_login(bob)
    assert client.get("/admin/", follow=True).status_code == 403
