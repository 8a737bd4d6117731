"""From a daemon's events to pieces with a kind, and what is measured on the way."""

from types import SimpleNamespace

import pytest

from fleet.daemons.errors import DaemonError, Reason
from fleet.daemons.types import Finished, Message, Progress, Reasoning, Started, ToolCall
from pulse.inference import Inference
from pulse.thinking import Kind

THOUGHT, ANSWER = Kind.REASONING, Kind.MESSAGE


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """A clock that only CannedStream moves."""
    CannedStream.clock = [100.0]
    monkeypatch.setattr("pulse.inference.time", SimpleNamespace(monotonic=lambda: CannedStream.clock[0]))


class CannedStream:
    """Gives the lists of events it was made with; a number is seconds on the clock, an exception is raised."""

    def __init__(self, *batches):
        self.batches = batches
        self.is_closed = False

    def close(self):
        self.is_closed = True

    def __iter__(self):
        for batch in self.batches:
            if isinstance(batch, Exception):
                raise batch
            if isinstance(batch, float):
                self.clock[0] += batch
                continue
            yield batch


def raw(*texts):
    return [Message(text, is_raw=True) for text in texts]


def steps_of(*batches, **more):
    return list(Inference(CannedStream(*batches), **more))


def texts_of(steps):
    """kind → text as a reader ends up with it, after relabelling."""
    texts = {THOUGHT: "", ANSWER: ""}
    for step in steps:
        if step.reclassify:
            texts = {THOUGHT: texts[THOUGHT] + texts[ANSWER], ANSWER: ""}
        for kind, text in step.pieces:
            texts[kind] += text
    return texts


def test_it_joins_what_arrived_together():
    (step,) = steps_of(raw("Ot", "ters ", "swim."))
    assert step.pieces == [(ANSWER, "Otters swim.")]
    assert step.tokens == {ANSWER: 3}
    assert not step.reclassify


def test_it_keeps_apart_what_arrived_apart():
    assert [step.pieces for step in steps_of(raw("a"), raw("b"))] == [[(ANSWER, "a")], [(ANSWER, "b")]]


def test_it_splits_reasoning_from_answer_within_one_step():
    (step,) = steps_of(raw("<think>", "why", "</think>", "so"))
    assert step.pieces == [(THOUGHT, "why"), (ANSWER, "so")]
    assert step.tokens.total() == 4


def test_it_finds_tags_that_were_cut_anywhere():
    text = "<think>because</think>therefore"
    for cut in range(1, len(text)):
        steps = steps_of(raw(text[:cut]), raw(text[cut:]), [Finished()])
        assert texts_of(steps) == {THOUGHT: "because", ANSWER: "therefore"}


def test_it_gives_back_what_looked_like_a_tag():
    steps = steps_of(raw("a <thi"), [Finished()])
    assert texts_of(steps)[ANSWER] == "a <thi"
    assert steps[-1].finished is not None


def test_it_takes_reasoning_that_is_told_apart_as_it_is():
    steps = steps_of([Reasoning("I "), Reasoning("wonder")], raw("The tag </think> ends it."), [Finished()])
    assert texts_of(steps) == {THOUGHT: "I wonder", ANSWER: "The tag </think> ends it."}
    assert not any(step.reclassify for step in steps)


def test_it_leaves_text_alone_that_is_not_raw():
    assert texts_of(steps_of([Message("<think>not</think> a tag")]))[ANSWER] == "<think>not</think> a tag"


def test_it_relabels_earlier_text_when_only_the_end_of_thinking_shows():
    steps = steps_of(raw("Let me ", "see. "), raw("Yes", "</think>", "42"), [Finished()])
    assert [step.reclassify for step in steps] == [False, True, False]
    assert steps[1].pieces == [(THOUGHT, "Yes"), (ANSWER, "42")]
    assert texts_of(steps) == {THOUGHT: "Let me see. Yes", ANSWER: "42"}


def test_it_counts_relabelled_tokens_as_reasoning():
    steps = steps_of(raw("Let me ", "see. "), raw("Yes", "</think>", "4", "2"), [Finished()])
    assert steps[1].tokens[ANSWER] == 2
    assert steps[1].tokens[THOUGHT] == 2
    assert steps[-1].finished.stats["reasoning_pieces"] == 4


def test_it_counts_deltas_by_kind():
    steps = steps_of([Reasoning("a"), Reasoning("b"), Reasoning("c")], raw("x", "y"), [Finished()])
    assert [step.tokens for step in steps[:2]] == [{THOUGHT: 3}, {ANSWER: 2}]
    assert steps[-1].finished.stats["reasoning_pieces"] == 3


def test_it_takes_other_tags():
    steps = steps_of(raw("[THINK]hm[/THINK]<think>yes</think>"), [Finished()], tags=("[THINK]", "[/THINK]"))
    assert texts_of(steps) == {THOUGHT: "hm", ANSWER: "<think>yes</think>"}


def test_it_reports_progress_and_nothing_for_what_says_nothing():
    steps = steps_of([Started("x")], [Progress("load", 0.5)], [ToolCall("search")], raw(""), [Progress("prompt", None)])
    assert [step.progress for step in steps] == [Progress("load", 0.5), Progress("prompt", None)]
    assert all(not step.pieces for step in steps)


def test_it_measures_what_the_daemon_does_not_tell():
    steps = steps_of(0.1, [Reasoning("a")], 0.1, [Reasoning("b")], raw("c"), 0.1, raw("d"), [Finished()])
    stats = steps[-1].finished.stats
    assert stats["first_token_seconds"] == 0.1
    assert stats["reasoning_seconds"] == 0.1
    assert stats["tokens_per_second"] == 15.0
    assert "output_tokens" not in stats


def test_it_believes_the_daemon_where_it_tells():
    told = {"first_token_seconds": 9.5, "tokens_per_second": 77.0, "output_tokens": 2, "stop_reason": "stop"}
    stats = steps_of(0.06, raw("a"), 0.06, raw("b"), [Finished(told, "resp_1")])[-1].finished.stats
    assert told.items() <= stats.items()


def test_it_hands_on_the_id_of_the_chat():
    assert steps_of(raw("a"), [Finished({}, "resp_1")])[-1].finished.response_id == "resp_1"


def test_it_tells_no_speed_that_it_could_not_measure():
    stats = steps_of(raw("a", "b", "c"), [Finished()])[-1].finished.stats
    assert "tokens_per_second" not in stats
    assert "reasoning_seconds" not in stats
    assert steps_of([Finished()])[-1].finished.stats == {}


def test_it_lets_failures_through_after_what_came_before():
    inference = Inference(CannedStream(raw("half"), DaemonError(Reason.CUT)))
    steps = iter(inference)
    assert next(steps).pieces == [(ANSWER, "half")]
    with pytest.raises(DaemonError) as caught:
        next(steps)
    assert caught.value.reason is Reason.CUT


def test_it_closes_the_stream():
    stream = CannedStream(raw("a"))
    inference = Inference(stream)
    assert not inference.is_closed
    inference.close()
    assert stream.is_closed
    assert inference.is_closed


def test_it_keeps_no_figure_that_is_none():
    from pulse.inference import plain

    told = {"a": 1.5, "b": float("nan"), "c": float("inf"), "stop_reason": "length", "d": None, "e": "\x00"}

    assert plain(told) == {"a": 1.5, "stop_reason": "length"}
