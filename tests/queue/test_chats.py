"""What a daemon is asked for a follow-up."""

import pytest

from daemonpulse.queue.chats import chat_request
from fleet.daemons.types import Turn

from .prompts import done, submit

pytestmark = pytest.mark.django_db


def test_it_asks_for_a_prompt_as_it_was_submitted(alice):
    prompt = submit(alice, "Why?", system_prompt="Be brief.", settings={"top_k": 3})

    request = chat_request(prompt)

    assert (request.model, request.text, request.system_prompt, request.settings) == (
        "otter", "Why?", "Be brief.", {"top_k": 3},
    )  # fmt: skip
    assert (request.previous_response_id, request.history) == ("", ())


def test_it_carries_both_forms_of_the_chat_it_continues(alice, node):
    first = done(alice, node, text="First?", answer="One.")
    second = done(alice, node, text="Second?", answer="Two.", follows=first)
    second.attempts.update(response_id="resp_2")

    request = chat_request(submit(alice, "Third?", follows=second))

    assert request.history == (Turn("First?", "One."), Turn("Second?", "Two."))
    assert request.previous_response_id == "resp_2"


def test_it_carries_no_more_turns_than_allowed(alice, node, settings):
    settings.MAX_CHAT_TURNS = 2
    chain = None
    for number in range(4):
        chain = done(alice, node, text=str(number), answer="a", follows=chain)

    request = chat_request(submit(alice, "now", follows=chain))

    assert [turn.text for turn in request.history] == ["2", "3"]
