import codecs
import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pulse.thinking import Kind, ThinkSeparator

REASONING, MESSAGE, RECLASSIFY = Kind.REASONING, Kind.MESSAGE, Kind.RECLASSIFY


def separate(*pieces: str, **options) -> list:
    separator = ThinkSeparator(**options)
    return [pair for piece in pieces for pair in separator.feed(piece)] + separator.close()


def merged(pairs: list) -> list:
    """What a caller keeps: reclassified, and neighbours of one kind joined."""
    result = []
    for kind, text in pairs:
        if kind is RECLASSIFY:
            result = [(REASONING, "".join(old for _, old in result))] if result else []
        elif result and result[-1][0] is kind:
            result[-1] = (kind, result[-1][1] + text)
        else:
            result.append((kind, text))
    return result


def answer(*pieces: str, **options) -> list:
    return merged(separate(*pieces, **options))


def cut_bytes(text: str, places: list[int]) -> list[str]:
    """The text as an incremental decoder gives it when its UTF-8 is cut at these places."""
    raw = text.encode()
    edges = [0, *sorted(place % (len(raw) + 1) for place in places), len(raw)]
    decoder = codecs.getincrementaldecoder("utf-8")()
    return [decoder.decode(raw[a:b]) for a, b in itertools.pairwise(edges)]


def is_text_less_tags(text: str, tags: tuple[str, ...], result: str) -> bool:
    """Whether removing some whole tags from the text can give the result."""

    def past_tags(positions: set[int]) -> set[int]:
        more = {at + len(tag) for at in positions for tag in tags if text.startswith(tag, at)} - positions
        return past_tags(positions | more) if more else positions

    positions = past_tags({0})  # in the text, for the part of the result that is matched so far
    for char in result:
        positions = past_tags({at + 1 for at in positions if text[at : at + 1] == char})
    return len(text) in positions


TAGS = [
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|channel|>analysis", "<|end|>"),
    ("aab", "aaa"),
    ("((", "))"),
]

plain = st.text(alphabet="ab é€🦦.!\n", max_size=12)
lines_with_tags_as_text = st.sampled_from(
    [
        "<",
        "</th",
        "<thinking> x",
        "< think>",
        "`<think>`",
        "`` ` </think> ``",
        "```\n<think>\n```",
        "`a`` <think> `",
        "~~~~ </think>\n~~~\n<think>\n```\n~~~~ ",
        "  ```py\n</think>\n````",
        "a ~~~",
        "stray ` </think>",
        "    ```",
    ]
)
message = st.lists(st.one_of(plain, lines_with_tags_as_text), max_size=3).map("\n".join)
reasoning = st.recursive(
    st.one_of(plain, st.sampled_from(["```\nopen", "`", "~~~\n", "<th", "</thin", "<", "<thinking>"])),
    lambda inner: st.tuples(plain, inner, plain).map(lambda t: f"{t[0]}<think>{t[1]}</think>{t[2]}"),
    max_leaves=3,
)
parts = st.lists(st.tuples(message, reasoning), max_size=3)
places = st.lists(st.integers(min_value=0, max_value=300), max_size=12)


@settings(max_examples=500)
@given(parts, message, st.booleans(), places)
def test_it_separates_well_formed_answers_cut_at_any_byte(parts, last, ends_open, places):
    # Each message part ends its line, so that nothing of one part opens code in the next.
    pairs = [pair for text, thought in parts for pair in ((MESSAGE, text + "\n"), (REASONING, thought))]
    expected = merged([pair for pair in [*pairs, (MESSAGE, last + "\n")] if pair[1]])
    stream = "".join(
        f"<think>{text}</think>" if kind is REASONING else text for kind, text in [*pairs, (MESSAGE, last)]
    )
    stream += "\n"
    if ends_open:
        stream += "<think>never closed"
        expected = [*expected, (REASONING, "never closed")]
    assert answer(*cut_bytes(stream, places)) == expected
    assert answer(stream) == expected


soup_of = {
    tags: st.lists(
        st.sampled_from([*tags, *tags, tags[0][:-1], tags[1][:2], tags[0][1:], "`", "``", "```", "\n```", "~~~", "\n"])
        | st.sampled_from(
            ["\n", " ", "   ", "\t", "\r\n", "x", "é", "🦦", "\n~~~\n", "\n```py\n", "\\", "a", "(", "\u0301"]
        ),
        max_size=18,
    ).map("".join)
    for tags in TAGS
}


@settings(max_examples=500)
@given(st.data(), st.sampled_from(TAGS), st.sampled_from([None, True, False]), places)
def test_it_separates_anything_alike_however_it_is_cut(data, tags, starts_inside, places):
    text = data.draw(soup_of[tags])
    options = {"opening": tags[0], "closing": tags[1], "starts_inside": starts_inside}
    whole = answer(text, **options)
    assert answer(*cut_bytes(text, places), **options) == whole
    assert answer(*text, **options) == whole
    assert is_text_less_tags(text, tags, "".join(piece for _, piece in whole))


@settings(max_examples=500)
@given(st.sampled_from(TAGS).flatmap(lambda tags: st.tuples(st.just(tags), soup_of[tags])), places)
def test_it_holds_back_only_what_may_still_become_a_tag(tags_and_text, places):
    (opening, closing), text = tags_and_text
    separator = ThinkSeparator(opening, closing)
    starts = {tag[:length] for tag in (opening, closing) for length in range(len(tag))}
    seen = ""
    for piece in cut_bytes(text, places):
        seen += piece
        separator.feed(piece)
        assert separator._held in starts
        assert seen.endswith(separator._held)


def test_it_gives_text_without_tags_at_once():
    separator = ThinkSeparator()
    assert [separator.feed(piece) for piece in ("a ", "``", "`py\n", "x ~")] == [
        [(MESSAGE, "a ")],
        [(MESSAGE, "``")],
        [(MESSAGE, "`py\n")],
        [(MESSAGE, "x ~")],
    ]
    assert separator.close() == []


def test_it_holds_the_start_of_a_tag_and_gives_it_back():
    separator = ThinkSeparator()
    assert separator.feed("a <thi") == [(MESSAGE, "a ")]
    assert separator.feed("s") == [(MESSAGE, "<this")]
    assert separator.feed("<") == []
    assert separator.close() == [(MESSAGE, "<")]
    assert separator.close() == []


def test_it_does_not_hold_in_code_nor_for_a_closing_tag_that_could_not_act():
    separator = ThinkSeparator(starts_inside=False)
    assert merged(separator.feed("`<thi")) == [(MESSAGE, "`<thi")]
    assert merged(separator.feed("nk>`</thi")) == [(MESSAGE, "nk>`</thi")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("<think>a</think>b", [(REASONING, "a"), (MESSAGE, "b")]),
        ("<think>\na\n</think>\n\nb", [(REASONING, "\na\n"), (MESSAGE, "\n\nb")]),
        ("<think></think>b", [(MESSAGE, "b")]),
        ("x<think>a</think>y<think>b", [(MESSAGE, "x"), (REASONING, "a"), (MESSAGE, "y"), (REASONING, "b")]),
        ("<think>a<think>b</think>c</think>d", [(REASONING, "a<think>b</think>c"), (MESSAGE, "d")]),
        ("<think>```\nopen</think>b", [(REASONING, "```\nopen"), (MESSAGE, "b")]),
        ("<think>a`</think>b", [(REASONING, "a`"), (MESSAGE, "b")]),
        ("<think>a</think>b</think>c", [(REASONING, "a"), (MESSAGE, "b</think>c")]),
        ("<think>never", [(REASONING, "never")]),
    ],
)  # fmt: skip
def test_it_separates(text, expected):
    assert answer(text) == expected
    assert answer(*text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "`<think>`", "`` a ` <think> ``", "```\n<think>\n```", "   ```\n<think>\n```", "~~~\n```\n<think>",
        "```\na\n``\n<think>", "````\n```\n<think>", "```\n~~~\n<think>", "```\n``` x\n<think>",
        "```\n    ```\n<think>", "~~~ ` <think>",
        "``` <think>", "a\n```<think>\n<think>", "```\n```<think>", "stray ` <think>",
    ],
)  # fmt: skip
def test_it_takes_tags_in_code_of_the_message_as_text(text):
    assert answer(text) == answer(*text) == [(MESSAGE, text)]


@pytest.mark.parametrize(
    "text",
    [
        "`a`", "`a\n", "```\na\n```\n", "```\na\n   `````  \n", "~~~ `\na\n~~~\n", "a ~~~\n", "    ```\n",
        "~~", "```a```", "a ```\n",
        "``` a ` b\n", "```\r\na\r\n```\r\n", "`a`` b`", " \t~~~\n",
    ],
)  # fmt: skip
def test_it_sees_where_code_ends(text):
    assert answer(f"{text}<think>b") == answer(*f"{text}<think>b") == [(MESSAGE, text), (REASONING, "b")]


def test_it_judges_code_without_the_reasoning_in_between():
    text = "```\na\n```\n<think>`</think>```\n<think>"
    assert answer(text) == [(MESSAGE, "```\na\n```\n"), (REASONING, "`"), (MESSAGE, "```\n<think>")]


def test_it_tells_the_caller_when_only_a_closing_tag_comes():
    assert separate("so\n", "be it</th", "ink>Yes</think>") == [
        (MESSAGE, "so\n"),
        (MESSAGE, "be it"),
        (RECLASSIFY, ""),
        (MESSAGE, "Yes</think>"),
    ]
    assert answer("a ` b</think>") == [(MESSAGE, "a ` b</think>")]


def test_it_judges_code_anew_after_a_reclassification():
    assert answer("a\n    x</think>```\n<think>") == [(REASONING, "a\n    x"), (MESSAGE, "```\n<think>")]


def test_it_can_be_told_how_the_text_starts():
    assert separate("a</think>b", starts_inside=True) == [(REASONING, "a"), (MESSAGE, "b")]
    assert separate("a</think>b</think>c", starts_inside=True) == [(REASONING, "a"), (MESSAGE, "b</think>c")]
    assert separate("a</think>b", starts_inside=False) == [(MESSAGE, "a</think>b")]
    assert separate("a", starts_inside=True) == [(REASONING, "a")]


def test_it_takes_an_opening_tag_that_repeats_the_template():
    assert answer(*"\n<think>a</think>b", starts_inside=True) == [(REASONING, "\na"), (MESSAGE, "b")]
    assert answer("x<think>a</think>b", starts_inside=True) == [(REASONING, "x<think>a</think>b")]
    assert answer("<think><think>a</think>b", starts_inside=True) == [(REASONING, "<think>a</think>b")]
    assert answer("</think><think>a</think>b", starts_inside=True) == [(REASONING, "a"), (MESSAGE, "b")]


@pytest.mark.parametrize(("opening", "closing"), TAGS)
def test_it_takes_other_tags(opening, closing):
    pieces = answer(*f"{opening}(x{closing}y", opening=opening, closing=closing)
    assert pieces == [(REASONING, "(x"), (MESSAGE, "y")]


@pytest.mark.parametrize(
    ("opening", "closing"),
    [("", "x"), ("x", ""), ("<t>", "<t>"), ("<t>", "a<t>"), ("`a", "b"), ("a", "~"), ("a", "\nb")],
)
def test_it_refuses_tags_that_cannot_be_told_apart(opening, closing):
    with pytest.raises(ValueError, match=re.escape("A tag must not")):
        ThinkSeparator(opening, closing)


def test_it_keeps_no_text():
    separator = ThinkSeparator()
    for _ in range(20_000):
        separator.feed("word `x` <th\n```")
    kept = [*vars(separator).values(), *vars(separator._code).values()]
    assert max(len(value) for value in kept if isinstance(value, str)) <= len("</think>")
