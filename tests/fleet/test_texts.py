"""Text from elsewhere: what is taken out of it, and that nothing of it can do harm."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.lms.errors import LmsError, Problem
from fleet.texts import clean, cleaned_json

ANYTHING = st.text(st.characters(exclude_categories=()) | st.sampled_from("\x1b[]m\x07\x00\ud800\u202e;3"), max_size=60)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("llmster", "llmster"),
        ("größer – 大きい 🦦", "größer – 大きい 🦦"),
        ("a\ud800b", "a\ufffdb"),
        ("a\x00b", "ab"),
        ("\x1b[31mred\x1b[0m \x1b]8;;http://x\x07link\x1b]8;;\x1b\\", "red link"),
        ("one\r\ntwo\tthree\u2028four", "one two three four"),
        ("otter\u202egpj", "ottergpj"),
    ],
)
def test_it_keeps_what_can_be_read(text, shown):
    assert clean(text, 100) == shown


def test_it_cuts_off_what_is_too_long():
    assert clean("x" * 10, 3) == "xxx"
    assert clean("\x1b[31mred\x1b[0m", 3) == "red"


@settings(max_examples=200)
@given(ANYTHING)
def test_it_makes_one_harmless_line_of_anything(text):
    line = clean(text, 50)
    line.encode()
    assert len(line) <= 50
    assert all(letter == " " or not letter.isspace() or letter.isprintable() or ord(letter) > 0x9F for letter in line)
    assert not {"\x00", "\x1b", "\n", "\r", "\u202e"} & {*line}
    assert clean(line, 50) == line


def test_it_cleans_all_the_texts_of_json():
    told = {"a\x00": ["\ud800", {"b": "two\n\tlines\x1b[1m"}], "n": [float("inf"), float("nan"), 1.5, None, True]}
    assert cleaned_json(told) == {"a": ["\ufffd", {"b": "two\n\tlines"}], "n": [None, None, 1.5, None, True]}


def test_a_sentence_that_quotes_lm_studio_can_be_shown():
    assert str(LmsError(Problem.FAILED, "it loaded \ud800\x1b[2J instead")) == "it loaded \ufffd instead"
