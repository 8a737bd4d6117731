"""The texts of the scripted models: exact lengths, nothing lost, nothing random."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.simulator.answers import Ask, tokenize, write_script
from fleet.simulator.catalogue import MODELS
from fleet.simulator.models import Model

LLMS = [script for script in MODELS if script.kind == "llm"]


def script_of(script, prompt, **ask):
    return write_script(Model(script, slots=1), Ask(prompt, 1, **ask))


@given(st.text())
def test_tokens_join_to_the_text(text):
    assert "".join(tokenize(text)) == text


@given(st.sampled_from(LLMS), st.text(), st.integers(1, 400))
def test_no_answer_is_longer_than_its_limit(model, prompt, limit):
    whole = script_of(model, prompt, reasoning="on")
    cut = script_of(model, prompt, reasoning="on", max_tokens=limit)
    assert cut.total_tokens == min(limit, whole.total_tokens)
    assert cut.is_truncated == (limit < whole.total_tokens)
    assert "".join(part.text() for part in whole.parts).startswith("".join(part.text() for part in cut.parts))


@pytest.mark.parametrize("script", LLMS, ids=lambda script: script.key)
def test_every_model_says_that_it_is_simulated(script):
    [message] = [part for part in script_of(script, "hello").parts if part.kind == "message"]
    assert "simulated answer" in message.text()
    assert script.key in message.text()


def test_some_answers_have_code_and_some_have_none():
    texts = [script_of(LLMS[0], f"question {n}").parts[-1].text() for n in range(20)]
    assert 0 < sum("```" in text for text in texts) < 20
    assert "```" in script_of(LLMS[0], "show me code").parts[-1].text()
