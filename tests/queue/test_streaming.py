"""One prompt's events: whoever comes back, wherever they left, has the text without gap or double."""

import asyncio
import contextlib
import json
import threading

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from daemonpulse import tail
from daemonpulse.models import Event
from daemonpulse.queue.live import Position, output_message
from daemonpulse.queue.models import Prompt
from daemonpulse.queue.models.attempt import note_progress, reclassify
from daemonpulse.queue.states import Outcome
from daemonpulse.queue.streaming import caught_up, forwarded, last_seen, prompt_stream
from pulse.thinking import Kind
from tests.conftest import wait_for
from tests.sockets import own_tail

from .prompts import CUT, HOPELESS, cancelled, claim, done, failed, fresh, running, stream, submit

pytestmark = pytest.mark.django_db
ON_A_DATABASE = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}
R, M = Kind.REASONING, Kind.MESSAGE


class Client:
    """Does what docs/api.md tells a client to do."""

    def __init__(self):
        self.texts = {R: "", M: ""}
        self.id = ""
        self.names: list[str] = []
        self.last: dict = {}

    def take(self, events: list[bytes]) -> "Client":
        for event in events:
            fields = dict(line.split(": ", 1) for line in event.decode().strip().split("\n"))
            self.id, name, self.last = fields["id"], fields["event"], json.loads(fields["data"])
            self.names.append(name)
            if name == "restart":
                self.texts = {R: "", M: ""}
            elif name.endswith(".delta"):
                self.texts[Kind(name.removesuffix(".delta"))] += self.last["text"]
            self.check()
        return self

    def check(self):
        """The id of every event tells how much the client has once it took that event."""
        _, reasoning, answer = (int(part) for part in self.id.split("."))
        assert (reasoning, answer) == (len(self.texts[R]), len(self.texts[M]))

    def come_back(self, prompt: Prompt) -> "Client":
        return self.take(caught_up(prompt.pk, last_seen(self.id) or Position())[0])


def message_of(event: Event) -> dict:
    """What the tail hands on."""
    made = output_message([event])[event.id] if event.kind == "prompt.output" else {}
    return {"kind": event.kind, "subject": event.subject, "data": event.data} | made


# Ids


@pytest.mark.parametrize("header", ["x", "1", "1.2", "1.2.3.4", "1.2.x", "1..3", "-1.2.3", "1.-2.0", "1.0.-3", "."])
def test_it_refuses_an_id_that_is_none_of_its_own(header):
    with pytest.raises(ValueError):
        last_seen(header)


def test_it_reads_its_own_ids():
    assert last_seen("") is None
    position = last_seen("3.20.400")
    assert (position.attempt, position.lengths[R], position.lengths[M]) == (3, 20, 400)


# Position


def piece(offset: int, text: str, kind=M, attempt=1) -> dict:
    return {"attempt": attempt, "kind": kind, "offset": offset, "text": text}


def test_it_tells_next_known_and_missing_pieces_apart():
    position = Position(1, 0, 3)

    assert position.accepts(piece(0, "abc")) is False
    assert position.accepts(piece(4, "e")) is None
    assert position.accepts(piece(3, "de")) is True
    assert position.accepts(piece(5, "f")) is True
    assert position.accepts(piece(0, "hm", R)) is True
    assert position.accepts(piece(6, "g", attempt=2)) is None
    assert (position.lengths[R], position.lengths[M]) == (2, 6)


def test_it_looks_ahead_without_moving():
    position = Position(1, 0, 3)

    assert position.knows_or_continues([piece(0, "abc"), piece(3, "de"), piece(5, "f")])
    assert not position.knows_or_continues([piece(3, "de"), piece(6, "g")])
    assert position.lengths[M] == 3


# What a message from the log means


def test_it_forwards_the_next_pieces_with_an_id_for_each():
    events = forwarded({"kind": "prompt.output", "pieces": [piece(0, "hm", R), piece(0, "Blue")]}, Position(1))

    assert events == [
        b'id: 1.2.0\nevent: reasoning.delta\ndata: {"text": "hm"}\n\n',
        b'id: 1.2.4\nevent: message.delta\ndata: {"text": "Blue"}\n\n',
    ]


def test_it_forwards_nothing_twice():
    position = Position(1, 0, 4)

    assert forwarded({"kind": "prompt.output", "pieces": [piece(0, "Blue")]}, position) == []
    assert position.lengths[M] == 4


@pytest.mark.parametrize(
    "message",
    [
        {"kind": "prompt.output", "pieces": []},  # folded meanwhile
        {"kind": "prompt.output", "pieces": [piece(5, "gap")]},
        {"kind": "prompt.output", "pieces": [piece(0, "other", attempt=2)]},
        {"kind": "prompt.reclassified", "data": {}},
        {"kind": "prompt.finished", "data": {"attempt": 1}},
        {"kind": "prompt.failed", "data": {"attempt": 1}},
        {"kind": "prompt.cancelled", "data": {"attempt": 1}},
        {"kind": "prompt.queued", "data": {"attempt": 1}},
        {"kind": "prompt.claimed", "subject": "x", "data": {"attempt": 2}},  # the client holds text of the first
    ],
)
def test_it_asks_the_database_when_a_message_does_not_tell_enough(message):
    assert forwarded(message, Position(1, 0, 4)) is None


def test_it_forwards_progress_and_the_first_claim():
    progress = {"kind": "prompt.progress", "data": {"phase": "load", "fraction": 0.5}}
    claimed = {"kind": "prompt.claimed", "subject": "x", "data": {"attempt": 1}}
    position = Position()

    assert b'event: state\ndata: {"id": "x", "state": "sending", "attempt": 1}' in forwarded(claimed, position)[0]
    assert forwarded(progress, position) == [
        b'id: 1.0.0\nevent: progress\ndata: {"phase": "load", "fraction": 0.5}\n\n'
    ]


# Coming back


WORDS = st.text(st.sampled_from("ab é\n🦦<&"), min_size=1, max_size=6)
PIECES = st.lists(st.tuples(st.sampled_from([R, M]), WORDS), min_size=1, max_size=6)


@given(pieces=PIECES, data=st.data())
@hypothesis_settings(max_examples=25, **ON_A_DATABASE)
def test_it_goes_on_at_any_character_while_it_streams_and_after(alice, node, pieces, data):
    prompt, attempt = running(alice, node)
    # With reasoning first, as models do: see the test of text that was sorted anew for the other case.
    pieces = sorted(pieces, key=lambda pair: pair[0] == M)
    stream(attempt, *pieces)
    whole = {kind: "".join(text for of, text in pieces if of == kind) for kind in (R, M)}
    for is_folded in (False, True):
        if is_folded:
            prompt.finish(attempt, [(M, "!")])
            whole[M] += "!"
        has_answer = data.draw(st.booleans())
        reasoning = len(whole[R]) if has_answer else data.draw(st.integers(0, len(whole[R])))
        answer = data.draw(st.integers(0, len(whole[M]))) if has_answer else 0
        client = Client()
        client.texts = {R: whole[R][:reasoning], M: whole[M][:answer]}
        client.id = f"1.{reasoning}.{answer}"

        client.come_back(prompt)

        assert client.texts == whole
        assert "restart" not in client.names
        assert client.names[-1] == "done" if is_folded else client.names[0] == "state"


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.lists(st.tuples(st.sampled_from([R, M]), WORDS), min_size=1, max_size=3)),
        st.tuples(st.just("deliver"), st.integers(1, 3)),
        st.tuples(st.sampled_from(["reconnect", "sort anew", "new attempt"]), st.none()),
    ),
    max_size=12,
)


@given(steps=STEPS)
@hypothesis_settings(max_examples=40, **ON_A_DATABASE)
def test_it_leaves_no_gap_and_no_double_whatever_happens(alice, node, steps):
    """Messages come late, connections break at any event, text is sorted anew, attempts fail and begin again."""
    attempt = claim(submit(alice), node)
    prompt, client, position = attempt.prompt, Client(), Position()
    cursor, was_sorted = Event.objects.last_id(), False
    for step, what in [*steps, ("end", None), ("deliver", 1000)]:
        if step == "write":
            stream(attempt, *what)
        elif step == "sort anew" and not was_sorted and not any(c.kind == R for c in attempt.chunks.all()):
            reclassify(attempt, attempt.chunk_count)
            was_sorted = True
        elif step == "new attempt":
            prompt.release(attempt, Outcome.RELEASED)
            attempt, was_sorted = claim(prompt, node), False
            prompt = attempt.prompt
        elif step == "end":
            prompt.finish(attempt, [(M, "!")])
        elif step == "reconnect":  # the socket's messages are lost, the database is asked
            cursor = Event.objects.last_id()
            events, position, _ = caught_up(prompt.pk, last_seen(client.id) or Position())
            client.take(events)
        elif step == "deliver":
            for event in Event.objects.after(cursor).filter(subject=str(prompt.pk))[:what]:
                cursor = event.id
                events = forwarded(message_of(event), position)
                if events is None:
                    events, position, _ = caught_up(prompt.pk, position)
                client.take(events)

    stored = fresh(attempt)
    assert client.texts == {R: stored.reasoning, M: stored.answer}
    assert client.names[-1] == "done"


def test_it_starts_over_when_the_text_was_sorted_anew(alice, node):
    prompt, attempt = running(alice, node)
    stream(attempt, (M, "I think"))
    client = Client().come_back(prompt)
    assert client.texts == {R: "", M: "I think"}

    reclassify(attempt, attempt.chunk_count)
    stream(attempt, (M, "An answer that is longer than the thought."))
    client.come_back(prompt)

    assert "restart" in client.names
    assert client.texts == {R: "I think", M: "An answer that is longer than the thought."}


def test_it_starts_over_with_a_new_attempt(alice, node):
    prompt, attempt = running(alice, node)
    stream(attempt, (M, "Bl"))
    client = Client().come_back(prompt)
    prompt.release(attempt, Outcome.RELEASED)
    second = claim(prompt, node)
    stream(second, (M, "Blue light"))

    client.come_back(prompt)

    assert client.names[-3:] == ["restart", "state", "message.delta"]
    assert (client.texts[M], client.id) == ("Blue light", "2.0.10")


@pytest.mark.parametrize(
    ("make", "name"),
    [(done, "done"), (failed, "failed"), (lambda owner, node: cancelled(owner), "cancelled")],
)
def test_it_tells_the_end_of_what_ended_long_ago(alice, node, make, name):
    prompt = make(alice, node)

    events, _, has_ended = caught_up(prompt.pk, Position())

    client = Client().take(events)
    assert has_ended
    assert client.names[-1] == name
    assert client.last["state"] == name
    assert "stats" in client.last


def test_it_tells_why_it_failed(alice, node):
    client = Client().come_back(failed(alice, node))

    assert (client.last["reason"], client.last["explanation"]) == ("bad_request", HOPELESS.reason.explanation)


def test_it_tells_a_waiting_prompts_place_and_its_next_try(alice, node):
    prompt, attempt = running(alice, node)
    prompt.fail(attempt, CUT)

    client = Client().come_back(prompt)

    assert client.names == ["state"]
    assert (client.last["state"], client.last["place"], client.last["reason"]) == ("queued", 1, "cut")


# The stream itself


def collect(prompt: Prompt, seen: Position | None = None, is_new: bool = False) -> list[bytes]:
    async def read() -> list[bytes]:
        async with asyncio.timeout(60):
            blocks = [block async for block in prompt_stream(prompt, seen, is_new)]
            return [event + b"\n\n" for block in blocks for event in block.split(b"\n\n") if event]

    with own_tail():
        return asyncio.run(read())


@pytest.mark.django_db(transaction=True)
def test_it_streams_a_prompt_from_its_submission_to_its_end(alice, node, closing_connections):
    prompt = submit(alice)

    def work():
        wait_for(lambda: tail._tail is not None and tail._tail.ready.is_set())
        attempt = claim(prompt, node)
        note_progress(attempt, {"phase": "load", "fraction": 0.5})
        for text in ("Blue ", "light ", "scatters"):
            stream(attempt, (M, text))
        attempt.prompt.finish(attempt, [(M, ".")])

    worker = threading.Thread(target=closing_connections(work))
    worker.start()
    client = Client().take(collect(prompt, is_new=True))
    worker.join()

    assert client.texts[M] == "Blue light scatters."
    assert client.names[0] == "state"
    assert client.names[-1] == "done"


@pytest.mark.django_db(transaction=True)
def test_it_streams_what_ended_already_and_ends(alice, node):
    prompt = done(alice, node, answer="Because.")

    client = Client().take(collect(prompt))

    assert (client.texts[M], client.names[-1]) == ("Because.", "done")


@pytest.mark.django_db(transaction=True)
def test_it_keeps_the_connection_alive_while_nothing_happens(alice, node, monkeypatch, closing_connections):
    monkeypatch.setattr("daemonpulse.queue.streaming.KEEP_ALIVE_SECONDS", 0.05)
    prompt = submit(alice)
    looks, has_looked_again = [], threading.Event()

    def caught_up_counted(*args):
        looks.append(args)
        if len(looks) > 1:  # so it has said that it waits
            has_looked_again.set()
        return caught_up(*args)

    monkeypatch.setattr("daemonpulse.queue.streaming.caught_up", caught_up_counted)

    def cancel():
        assert has_looked_again.wait(20)
        prompt.cancel()

    canceller = threading.Thread(target=closing_connections(cancel))
    canceller.start()
    events = collect(prompt)
    canceller.join()

    assert b": waiting\n\n" in events
    assert b"event: cancelled" in events[-1]


@pytest.mark.parametrize("steps", range(8))
def test_it_ends_when_its_client_goes_however_close_to_a_message(monkeypatch, steps):
    messages, prompt = asyncio.Queue(), Prompt()
    prompt.submitted_as = 2  # after what was handed out: nothing is asked of the database

    class Quiet:
        cursor = 1

        @contextlib.asynccontextmanager
        async def channel(self, group):
            yield messages.get

    monkeypatch.setattr("daemonpulse.queue.streaming.tail", Quiet)

    async def is_over() -> bool:
        async def read() -> None:
            async for _ in prompt_stream(prompt, None, is_new=True):
                pass

        reading = asyncio.create_task(read())
        await asyncio.sleep(0.03)  # it waits for a message now
        assert not reading.done()
        messages.put_nowait({"kind": "prompt.progress", "data": {"phase": "load", "fraction": 0.5}})
        for _ in range(steps):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading], timeout=0.3)
        is_over = reading.done()
        reading.cancel()
        return is_over

    assert asyncio.run(is_over())
