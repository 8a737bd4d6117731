"""From pieces to stored chunks: in order, once, and never into an attempt that was ended by others."""

from collections import Counter
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemonpulse.models import Event
from daemonpulse.queue.models import Chunk
from daemonpulse.queue.models.attempt import reclassify
from daemonpulse.queue.output import Output, flush
from pulse.thinking import Kind

from .prompts import fresh, running

R, M = Kind.REASONING, Kind.MESSAGE


def chunks_of(output: Output) -> list[tuple]:
    return [(chunk.seq, chunk.kind, chunk.offset, chunk.text, chunk.tokens) for chunk in output.take()]


def test_it_counts_the_tokens_of_each_kind_up_to_each_chunk():
    output = Output(None)
    output.add([(R, "Hm"), (M, "Blue")], Counter({R: 2, M: 1}))
    output.take()
    output.add([(M, " light")], Counter({M: 3}))

    assert chunks_of(output) == [(3, M, 4, " light", 4)]


def test_it_joins_neighbours_of_one_kind():
    output = Output(None)
    output.add([(R, "Hm"), (R, ", sky")], Counter({R: 2}))
    output.add([(M, "Blue")], Counter({M: 1}))

    assert chunks_of(output) == [(1, R, 0, "Hm, sky", 2), (2, M, 0, "Blue", 1)]
    assert chunks_of(output) == []


def test_it_goes_on_counting_where_it_was():
    output = Output(None)
    output.add([(R, "Hm"), (M, "Blue")], Counter())
    output.take()
    output.add([(M, " light"), (R, "!"), (M, ".")], Counter())

    assert chunks_of(output) == [(3, M, 4, " light", 0), (4, R, 2, "!", 0), (5, M, 10, ".", 0)]


def test_it_hands_out_the_rest_once():
    output = Output(None)
    output.add([(M, "Blue")], Counter({M: 1}))

    assert output.rest() == [(M, "Blue")]
    assert output.rest() == []
    assert output.take() == []


def test_it_sorts_anew_what_is_not_stored_yet():
    output = Output(None)
    output.add([(M, "I think ")], Counter({M: 2}))
    output.take()
    output.add([(M, "so")], Counter({M: 1}))
    output.reclassified()
    output.add([(M, "Blue")], Counter({M: 1}))

    assert chunks_of(output) == [(2, R, 8, "so", 3), (3, M, 0, "Blue", 1)]


@given(st.lists(st.lists(st.tuples(st.sampled_from([R, M]), st.text(max_size=4)), max_size=4), max_size=6))
def test_it_conserves_the_text_whenever_it_is_taken(batches):
    output, taken = Output(None), []
    for pieces in batches:
        output.add(pieces, Counter())
        taken += output.take()

    for kind in (R, M):
        of_kind = [chunk for chunk in taken if chunk.kind == kind]
        assert "".join(chunk.text for chunk in of_kind) == "".join(
            text for of, text in chain.from_iterable(batches) if of == kind
        )
        lengths = [len(chunk.text) for chunk in of_kind]
        assert [chunk.offset for chunk in of_kind] == [sum(lengths[:at]) for at in range(len(of_kind))]
    assert [chunk.seq for chunk in taken] == list(range(1, len(taken) + 1))


@pytest.mark.django_db
def test_it_stores_the_text_of_all_streams_with_an_event_each(alice, node):
    outputs = [Output(running(alice, node)[1]) for _ in range(3)]
    for number, output in enumerate(outputs[:2]):
        output.add([(M, f"answer {number}")], Counter({M: 1}))
    cursor = Event.objects.last_id()

    flush(outputs)

    assert [chunk.text for chunk in Chunk.objects.order_by("pk")] == ["answer 0", "answer 1"]
    events = list(Event.objects.after(cursor))
    assert [(event.kind, event.subject) for event in events] == [
        ("prompt.output", str(output.attempt.prompt_id)) for output in outputs[:2]
    ]
    assert [event.data for event in events] == [
        {"chunks": [chunk.pk], "attempt": 1} for chunk in Chunk.objects.order_by("pk")
    ]
    assert [fresh(output.attempt).chunk_count for output in outputs] == [1, 1, 0]


@pytest.mark.django_db
def test_it_notes_when_the_first_token_came(alice, node):
    output = Output(running(alice, node)[1])
    assert fresh(output.attempt).first_token_at is None

    output.add([(M, "Blue")], Counter())
    flush([output])
    first = fresh(output.attempt).first_token_at
    output.add([(M, " light")], Counter())
    flush([output])
    assert output.attempt.started_at < first == fresh(output.attempt).first_token_at


@pytest.mark.django_db
def test_it_writes_nothing_when_nothing_is_new(alice, node, django_assert_num_queries):
    output = Output(running(alice, node)[1])

    with django_assert_num_queries(0):
        flush([output])


@pytest.mark.django_db
def test_it_stores_nothing_for_an_attempt_that_was_ended_by_others(alice, node):
    (cancelled, stale), (_, alive) = running(alice, node), running(alice, node)
    outputs = [Output(stale), Output(alive)]
    cancelled.cancel()
    for output in outputs:
        output.add([(M, "late")], Counter())

    flush(outputs)

    assert [output.is_stale for output in outputs] == [True, False]
    assert [chunk.attempt for chunk in Chunk.objects.all()] == [alive]
    assert fresh(stale).answer == ""


@pytest.mark.django_db
def test_it_relabels_what_was_stored_as_answer(alice, node):
    output = Output(running(alice, node)[1])
    for text in ("I think", " so"):
        output.add([(M, text)], Counter())
        flush([output])
    reclassify(output.attempt, output.reclassified())

    assert [(chunk.kind, chunk.offset) for chunk in output.attempt.chunks.order_by("seq")] == [(R, 0), (R, 7)]
    assert Event.objects.last().kind == "prompt.reclassified"


@pytest.mark.django_db
def test_it_keeps_the_answer_an_answer_when_it_is_stored_before_the_relabelling(alice, node):
    """The stream's thread tells of it and goes on; the answer behind may be flushed before the runner hears."""
    prompt, attempt = running(alice, node)
    output = Output(attempt)
    output.add([(M, "I think so")], Counter())
    flush([output])

    told = output.reclassified()
    output.add([(M, "Blue")], Counter())
    flush([output])
    reclassify(attempt, told)
    prompt.finish(attempt, output.rest())

    assert (fresh(attempt).reasoning, fresh(attempt).answer) == ("I think so", "Blue")
