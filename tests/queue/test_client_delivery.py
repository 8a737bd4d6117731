"""Delivery to a server that keeps its promises in memory: whatever breaks, everything arrives once and is told back."""

import asyncio
import uuid
from unittest.mock import AsyncMock, patch

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from daemonpulse.models import Event
from daemonpulse.queue.client import socket
from daemonpulse.queue.client.delivery import Delivery, Superseded, fitting
from daemonpulse.queue.client.line import CallFailed
from daemonpulse.queue.models import Attempt, Mirror, Mutation, Prompt, Remote, RemoteModel
from daemonpulse.queue.models.mirrored import take_pieces, take_progress
from daemonpulse.queue.states import Outcome, State
from pulse.thinking import Kind

from .clients import ServerInMemory, change, paired
from .prompts import fresh, kinds_of, submit

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def client_role(settings):
    settings.IS_CLIENT = True


@pytest.fixture
def delivery(alice):
    return Delivery(paired(alice))


@pytest.fixture
def server(delivery):
    return ServerInMemory(delivery)


def finish(delivery, tries: int = 50) -> None:
    """Until nothing is left, going on after each broken call."""
    for _ in range(tries):
        try:
            while delivery.step():
                pass
            return
        except CallFailed:
            delivery.is_behind = True
    raise AssertionError("it never came to an end")


def told(server, pk, **fields) -> Prompt:
    server.tell(change(pk, **fields))
    return Prompt.objects.filter(pk=pk).first()


# Push


def test_it_delivers_in_order_and_knows_that_they_are_there(alice, delivery, server):
    prompts = [submit(alice, str(number)) for number in range(3)]
    finish(delivery)
    assert server.applied == [("submit", str(prompt.pk)) for prompt in prompts]
    assert [fresh(prompt).state_words for prompt in prompts] == ["queued there"] * 3
    assert not Mutation.objects.exists()
    assert Remote.current().cursor == "e.3"


def test_a_push_without_an_answer_is_sent_again_and_counts_once(alice, delivery, server):
    prompt = submit(alice)
    server.breaks = 1
    with pytest.raises(CallFailed):
        delivery.step()
    assert Mutation.objects.get().is_tried
    prompt.cancel()
    finish(delivery)
    assert server.applied == [("submit", str(prompt.pk)), ("cancel", str(prompt.pk))]
    assert fresh(prompt).state == State.CANCELLED


@pytest.mark.parametrize("is_unsent", [True, False])
def test_a_push_of_which_nothing_was_sent_does_not_count(alice, delivery, server, is_unsent):
    before = submit(alice, "Before")
    server.breaks = 1
    with pytest.raises(CallFailed):
        delivery.step()
    prompt = submit(alice, "Old")

    server.is_away, server.breaks = is_unsent, 1
    with pytest.raises(CallFailed):
        delivery.step()
    assert [one.is_tried for one in Mutation.objects.all()] == [True, not is_unsent]
    assert prompt.cancel()
    assert (fresh(prompt).state == State.CANCELLED) is is_unsent
    server.is_away = False
    finish(delivery)
    assert fresh(prompt).state == State.CANCELLED
    assert (("submit", str(prompt.pk)) in server.applied) is not is_unsent
    assert server.applied[0] == ("submit", str(before.pk))


def test_it_keeps_what_was_refused_with_the_servers_words(alice, delivery, server):
    wrong, right = submit(alice, "wrong"), submit(alice, "right")
    server.refuses[str(wrong.pk)] = {"code": "invalid", "message": "No such model."}
    finish(delivery)
    assert [one.reasons for one in fresh(wrong).refused] == [["No such model."]]
    assert fresh(wrong).state_words == "not accepted"
    assert fresh(right).is_on_server
    assert "prompt.carried" in kinds_of(wrong)
    server.calls.clear()
    finish(delivery)
    assert [use for use, _ in server.calls] == []


def test_what_was_to_happen_to_a_refused_prompt_goes_with_it(alice, delivery, server):
    prompt = submit(alice)
    server.refuses[str(prompt.pk)] = {"code": "invalid", "message": "No."}
    Mutation.objects.update(is_tried=True)
    prompt.cancel()
    finish(delivery)
    assert [one.kind for one in Mutation.objects.all()] == ["submit"]


def test_it_sends_less_at_once_where_the_server_takes_less(alice, delivery, server):
    Prompt.submit_many(owner=alice, drafts=[{"model": "otter", "text": str(n)} for n in range(7)])
    server.limit = 2
    finish(delivery)
    assert len(server.applied) == 7
    server.limit = 0
    prompt = submit(alice)
    finish(delivery)
    assert fresh(prompt).refused[0].reasons == ["Too large."]


def test_what_the_server_takes_for_malformed_does_not_hold_up_the_rest(alice, delivery, server):
    prompts = [submit(alice, str(number)) for number in range(5)]
    whole, wrong = server.push, str(prompts[2].pk)

    def push(body):
        if any(one["prompt"] == wrong for one in body["mutations"]):
            raise CallFailed("invalid", "No.", 422, {"code": "invalid", "message": "mutations[2] is wrong."})
        return whole(body)

    server.push = push
    finish(delivery)
    assert [pk for _, pk in server.applied] == [str(prompt.pk) for prompt in prompts if str(prompt.pk) != wrong]
    assert fresh(prompts[2]).refused[0].reasons == ["mutations[2] is wrong."]


def test_it_fits_bodies_into_their_limit_but_sends_at_least_one(alice):
    mutations = [Mutation(prompt_id=uuid.uuid4(), kind="submit", fields_json=f'{{"text": "{"x" * 100}"}}')] * 5
    assert len(fitting(mutations, 500)) == 2
    assert len(fitting(mutations, 1)) == 1


def test_nothing_is_taken_over_from_a_pairing_that_is_over(alice, delivery, server):
    submit(alice)
    paired(alice)
    with pytest.raises(Superseded):
        delivery.step()
    assert server.calls == []


@hypothesis_settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_breaks_everything_is_applied_once_and_both_agree(alice, data):
    Prompt.objects.all().delete()
    Mutation.objects.all().delete()
    delivery = Delivery(paired(alice, str(uuid.uuid4())))
    server = ServerInMemory(delivery)
    prompts: list[Prompt] = []

    def act():
        known = list(Prompt.objects.all())
        verb = data.draw(st.sampled_from(["submit", "submit", "edit", "cancel", "retry", "remove"]))
        if verb == "submit" or not known:
            prompts.append(submit(alice, "text"))
            return
        prompt = data.draw(st.sampled_from(known))
        getattr(prompt, verb)(**({"text": f"edited {len(server.calls)}"} if verb == "edit" else {}))

    for _ in range(data.draw(st.integers(3, 12))):
        act()
        if data.draw(st.booleans()):
            server.breaks, server.is_away = data.draw(st.integers(0, 2)), data.draw(st.booleans())
            server.meanwhile = act if data.draw(st.booleans()) else lambda: None
            try:
                delivery.step()
            except CallFailed:
                delivery.is_behind = True
            server.meanwhile = lambda: None
    server.breaks, server.is_away = 0, False
    finish(delivery)
    submitted = [pk for kind, pk in server.applied if kind == "submit"]
    assert len(submitted) == len(set(submitted))
    here = {str(row.pk): (row.state, row.text) for row in Prompt.objects.filter(mirror__isnull=False)}
    assert here == {pk: (row["state"], row["text"]) for pk, row in server.prompts.items()}
    assert not Mutation.objects.filter(is_refused=False).exists()


# Pull


def test_what_is_poked_while_it_pulls_is_pulled_as_well(alice, delivery, server):
    prompt = submit(alice)
    finish(delivery)
    whole = server.pull

    def pull(body):
        told = whole(body)
        if server.prompts[str(prompt.pk)]["state"] == "queued":
            server.tell(change(prompt.pk, "done", 1, answer="Because."))
            delivery.is_behind = True  # as Courier.news() does, from another thread
        return told

    server.pull = pull
    delivery.is_behind = True
    finish(delivery)
    assert fresh(prompt).state == State.DONE


def test_it_takes_over_the_answer_with_its_figures(alice, delivery, server):
    prompt = submit(alice)
    finish(delivery)
    told(server, prompt.pk, state="done", attempts=2, answer="Because.", reasoning="Hm.", stats={"output_tokens": 2})
    delivery.is_behind = True
    finish(delivery)
    attempt = fresh(prompt).attempt()
    assert (attempt.number, attempt.outcome, attempt.stats) == (2, Outcome.DONE, {"output_tokens": 2})
    assert attempt.texts() == {Kind.REASONING: "Hm.", Kind.MESSAGE: "Because."}
    assert kinds_of(prompt)[-1] == "prompt.finished"


def test_telling_the_same_again_is_no_news(alice, delivery, server):
    pk = uuid.uuid4()
    page = [change(pk, "done", 1, answer="Because."), change(uuid.uuid4(), "sending", 1, answer="Bec")]
    Prompt.mirror_page(Remote.current(), page, [])
    before = Event.objects.count()
    Prompt.mirror_page(Remote.current(), page, [])
    assert Event.objects.count() == before
    Prompt.mirror_page(Remote.current(), [page[0] | {"priority": "high"}], [])
    assert Event.objects.count() == before + 1


def test_it_shows_an_answer_that_is_being_written(alice, delivery, server):
    pk = uuid.uuid4()
    told(server, pk, state="sending", attempts=1, reasoning="Hm", answer="Be")
    finish(delivery)
    attempt = Attempt.objects.get(prompt=pk)
    assert attempt.texts() == {Kind.REASONING: "Hm", Kind.MESSAGE: "Be"}
    piece = {"prompt": str(pk), "attempt": 1, "kind": "answer", "offset": 2, "text": "cause"}
    assert take_pieces([piece, piece]) == set()
    assert fresh(attempt).texts()[Kind.MESSAGE] == "Because"
    assert take_pieces([piece | {"offset": 9}]) == {str(pk)}
    assert take_pieces([piece | {"attempt": 2}]) == {str(pk)}


def test_it_shows_how_far_the_server_is_before_the_first_word(alice, delivery, server):
    pk = uuid.uuid4()
    told(server, pk, state="sending", attempts=1)
    finish(delivery)
    progress = {"type": "progress", "prompt": str(pk), "phase": "prompt", "fraction": 0.25}
    assert take_progress(progress)
    assert Attempt.objects.get(prompt=pk).progress == {"phase": "prompt", "fraction": 0.25}
    event = Event.objects.get(kind="prompt.progress", subject=str(pk))
    assert (event.data["phase"], event.data["fraction"], event.data["attempt"]) == ("prompt", 0.25, 1)
    for wrong in ({"phase": "<b>"}, {"fraction": 7}, {"fraction": "1"}, {"prompt": "x"}, {"prompt": str(uuid.uuid4())}):
        assert not take_progress(progress | wrong)
    take_pieces([{"prompt": str(pk), "attempt": 1, "kind": "answer", "offset": 0, "text": "Be"}])
    assert not take_progress(progress)


def test_the_socket_hands_on_how_far_the_server_is(delivery):
    frame = {"type": "progress", "prompt": str(uuid.uuid4()), "phase": "load", "fraction": None}

    async def frames():
        yield "sealed"

    with (
        patch.object(socket, "take_progress") as taken,
        patch.object(socket, "in_thread", lambda function: AsyncMock(side_effect=function)),
        patch.object(socket.ServerSocket, "_opened", return_value=frame),
        pytest.raises(socket.Lost),
    ):
        asyncio.run(socket.ServerSocket(Remote.current(), delivery.line, lambda: None)._receive(frames()))
    taken.assert_called_once_with(frame)


def test_it_begins_again_where_the_text_was_sorted_anew(alice, delivery, server):
    pk = uuid.uuid4()
    told(server, pk, state="sending", attempts=1, answer="thinking aloud")
    finish(delivery)
    Prompt.mirror_page(Remote.current(), [change(pk, "sending", 1, reasoning="thinking aloud", answer="So")], [])
    assert Attempt.objects.get(prompt=pk).texts() == {Kind.REASONING: "thinking aloud", Kind.MESSAGE: "So"}
    assert Event.objects.filter(kind="prompt.reclassified", subject=str(pk)).exists()


def test_it_fetches_the_rest_of_long_texts(alice, delivery, server):
    pk = uuid.uuid4()
    whole = {"answer": "a" * 35, "text": "t" * 12}
    server.tell(change(pk, "done", 1, answer="a" * 5, text="t" * 5, lengths={"answer": 35, "text": 12}, whole=whole))
    finish(delivery)
    assert Prompt.objects.get(pk=pk).text == whole["text"]
    assert Attempt.objects.get(prompt=pk).answer == whole["answer"]


def test_a_listing_forgets_what_the_server_no_longer_has_and_nothing_else(alice, delivery, server):
    kept, gone, unsent = [submit(alice, text) for text in ("kept", "gone", "unsent")]
    Mutation.objects.filter(prompt=unsent.pk).delete()  # so that it stays here while the others are delivered
    finish(delivery)
    outbox_of_unsent = Mutation.objects.create(prompt=unsent, kind="submit", is_refused=True)
    server.prompts.pop(str(gone.pk))
    server.log += ["tidied"] * 5
    server.first_event = len(server.log)  # the log is shorter than our absence
    for number in range(5):
        server.prompts[str(uuid.UUID(int=number))] = change(uuid.UUID(int=number))
    delivery.is_behind = True
    finish(delivery)
    assert not Prompt.objects.filter(pk=gone.pk).exists()
    assert {kept.pk, unsent.pk} <= set(Prompt.objects.values_list("pk", flat=True))
    assert Prompt.objects.count() == 7
    assert Mutation.objects.get() == outbox_of_unsent
    assert Remote.current().cursor.startswith("e.")


def test_it_does_not_ask_for_ever_where_the_server_only_lists(alice, delivery, server):
    submit(alice)
    server.first_event = 1000
    finish(delivery)
    assert sum(use == "pull" for use, _ in server.calls) == 2


def test_it_links_a_follow_up_to_what_is_told_after_it(alice, delivery, server):
    earlier, later = uuid.uuid4(), uuid.uuid4()
    Prompt.mirror_page(Remote.current(), [change(later, follows=str(earlier))], [])
    assert Prompt.objects.get(pk=later).follows_id is None
    Prompt.mirror_page(Remote.current(), [change(earlier, "done", 1)], [])
    assert Prompt.objects.get(pk=later).follows_id == earlier


def test_removed_there_is_removed_here(alice, delivery, server):
    prompt = submit(alice)
    finish(delivery)
    server.remove(str(prompt.pk))
    delivery.is_behind = True
    finish(delivery)
    assert not Prompt.objects.exists()
    assert kinds_of(prompt)[-1] == "prompt.removed"


def test_another_servers_history_stays_as_history(alice, delivery, server):
    prompt = submit(alice)
    finish(delivery)
    other = Delivery(paired(alice, "another", "other"))
    ServerInMemory(other)
    finish(other)
    assert Mirror.objects.get(prompt=prompt.pk).server != "another"


def test_it_tells_an_unknown_reason_in_the_servers_words(alice, delivery, server):
    pk = uuid.uuid4()
    told(server, pk, state="failed", attempts=1, reason="melted", explanation="The node melted.", detail="hot")
    told(server, uuid.uuid4(), state="dreaming")
    finish(delivery)
    prompt = Prompt.objects.get()
    assert (prompt.reason_explanation, prompt.detail) == ("", "The node melted.\nhot")


def test_it_hears_of_the_server_and_its_models(alice, delivery, server):
    delivery.ping()
    delivery.models()
    remote = Remote.current()
    assert remote.limits["mutations"] == 250
    assert remote.device_name == "laptop"
    assert RemoteModel.keys() == ["otter"]
    server.device_name = "Laptop upstairs"
    delivery.ping()
    assert Remote.current().device_name == "Laptop upstairs"
    delivery.leave()
    assert not Remote.current().is_paired
    assert Remote.current().problem_text == "This client has left the server."
