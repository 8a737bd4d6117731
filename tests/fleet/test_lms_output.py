"""What `lms` writes, read: terminal codes, progress, JSON, estimates. It takes any text without a crash."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.lms import loading
from fleet.lms.answers import Answer, json_in, judged
from fleet.lms.errors import LmsError, Problem
from fleet.lms.output import Lines, plain

CODES = ["\x1b[36m", "\x1b[0m", "\x1b[2K", "\x1b[1G", "\x1b]8;;x\x07", "\x1b", "\r", "\n", "\r\n"]
TERMINAL = st.lists(st.sampled_from([*CODES, "Loading 5%", " ⠋", "é"]) | st.text(max_size=5), max_size=12).map("".join)


def answer(stdout="", stderr="", exit_code=0, is_cut=False):
    return Answer("lms x", stdout, stderr, exit_code, is_cut)


def lines_of(*pieces, times=None):
    clock = iter(times) if times else None
    lines = Lines((lambda: next(clock)) if clock else (lambda: 0.0))
    return [line for piece in pieces for line in lines.feed(piece)] + lines.close()


def test_it_takes_colours_and_links_out_and_leaves_blank_lines_out():
    text = "\x1b[31mError:\x1b[0m no\r\n\n\x1b]8;;https://a\x07link\x1b]8;;\x07\n"
    assert lines_of(text) == ["Error: no", "link"]
    assert plain(text) == "Error: no\n\nlink\n"


def test_it_shows_progress_twice_a_second_and_not_each_turn_of_a_spinner():
    frames = [f"\r\x1b[2KLoading otter {percent}% ⠋" for percent in range(0, 100, 10)]
    shown = lines_of(*frames, "\rLoading otter 90% ⠙", "\n", times=[n / 10 for n in range(100)])
    assert shown[0] == "Loading otter 0%"
    assert 2 <= len(shown) < 8
    assert "⠋" not in "".join(shown[:-1])
    assert lines_of("⠋ busy\r⠙ busy\r⠹ busy\r") == ["busy"]


def test_a_last_frame_does_not_follow_what_ended_it_but_is_shown_when_it_is_all():
    assert lines_of("\r0%\r50%\r100%") == ["0%"]
    assert lines_of("\r0%\r50%\r100%\nDone.\n") == ["0%", "100%", "Done."]
    assert lines_of("waiting") == ["waiting"]


def test_a_line_without_end_is_cut_off():
    assert [len(line) for line in lines_of("x" * 100_000, "y" * 100_000, "\n")] == [4000]


@given(TERMINAL, st.lists(st.integers(0, 60), max_size=5))
@settings(max_examples=60)
def test_where_the_text_was_cut_makes_no_difference(text, cuts):
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(edges)]
    assert lines_of(*pieces) == lines_of(text)
    assert "\x1b" not in "".join(lines_of(text)) + plain(text)


@pytest.mark.parametrize(
    ("stdout", "found"),
    [('{"a": 1}\n', {"a": 1}), ("Waking up...\n[1, 2]\n", [1, 2]), ("[info] hello\n[]", []), ("\n  \n{}", {})],
)
def test_it_finds_the_json(stdout, found):
    assert json_in(answer(stdout)) == found


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("stdout", ["", "nothing", "[1, 2", '{"a": 1} and more', "[" * 100_000])
def test_it_says_that_an_answer_is_not_json(stdout):
    with pytest.raises(LmsError) as caught:
        json_in(answer(stdout))
    assert caught.value.problem is Problem.NOT_UNDERSTOOD
    assert len(caught.value.detail) <= 4000


def test_an_answer_that_was_cut_is_not_taken_for_whole():
    with pytest.raises(LmsError, match="too long"):
        json_in(answer("[]", is_cut=True))


@given(st.text(max_size=60), st.text(max_size=60), st.integers(-9, 9))
@settings(max_examples=60)
def test_any_answer_is_read_or_refused_by_an_error_with_a_sentence(stdout, stderr, exit_code):
    for read in (json_in, judged, lambda given: loading.estimate_in(given, "a/b")):
        try:
            read(answer(stdout, stderr, exit_code))
        except LmsError as error:
            assert str(error) and error.advice


@pytest.mark.parametrize(("stream", "exit_code"), [("stdout", 0), ("stderr", 0), ("stderr", 1)])
def test_a_refused_passkey_is_seen_wherever_it_stands_and_whatever_the_exit_code(stream, exit_code):
    text = "Error: Invalid passkey for lms CLI client. Please make sure"
    with pytest.raises(LmsError) as caught:
        judged(answer(**{stream: text}, exit_code=exit_code))
    assert caught.value.problem is Problem.PASSKEY_MISMATCH


FITS = "Estimate: This model may be loaded based on your resource guardrails settings."
TOO_BIG = "Estimate: This model will fail to load based on your resource guardrails settings."


@pytest.mark.parametrize(
    ("gpu", "total", "gpu_bytes", "total_bytes"),
    [("4.10 GiB", "5.77 GiB", 4402341478, 6195490324), ("512.50 MiB", "1.00 TiB", 537395200, 2**40),
     ("4.10 GB", "5.77 GB", 4_100_000_000, 5_770_000_000), ("0 Bytes", "1,234.50 KiB", 0, 1264128)],
)  # fmt: skip
def test_it_reads_an_estimate_in_both_kinds_of_units(gpu, total, gpu_bytes, total_bytes):
    text = (
        f"Model: a/b\nContext Length: 8,192\nEstimated GPU Memory:   {gpu}\nEstimated Total Memory: {total}\n\n{FITS}"
    )
    found = loading.estimate_in(answer(stderr=text), "a/b")
    assert found == {
        "gpu_bytes": gpu_bytes,
        "total_bytes": total_bytes,
        "fits": True,
        "confidence": "high",
        "text": text,
    }


def test_it_reads_a_load_that_will_fail_and_a_low_confidence():
    text = f"Model: a/b\nEstimated GPU Memory:   1.00 GiB\nConfidence: LOW\n\n{TOO_BIG}"
    found = loading.estimate_in(answer(stderr=text), "a/b")
    assert (found["fits"], found["confidence"], found["total_bytes"]) == (False, "low", None)


def test_what_an_estimate_does_not_tell_is_unknown():
    found = loading.estimate_in(
        answer(stderr="Estimated GPU Memory: 1.00 parsecs\nEstimated Total Memory: 1.00 GiB"), "a"
    )
    assert (found["gpu_bytes"], found["total_bytes"], found["fits"]) == (None, 2**30, None)
    with pytest.raises(LmsError):
        loading.estimate_in(answer(stderr="something new"), "a")


def test_an_estimate_of_another_model_is_refused():
    text = f"Model: a/bigger\nEstimated Total Memory: 1.00 GiB\n{FITS}"
    with pytest.raises(LmsError, match="estimated a/bigger instead") as caught:
        loading.estimate_in(answer(stderr=text), "a/b")
    assert caught.value.problem is Problem.WRONG_MODEL
    assert loading.estimate_in(answer(stderr=text), "a/bigger@q4_k_m")["fits"] is True


@pytest.mark.parametrize(
    ("options", "argv"),
    [({}, []), ({"gpu_ratio": 0}, ["--gpu", "off"]), ({"gpu_ratio": 1.0}, ["--gpu", "max"]),
     ({"gpu_ratio": 0.25}, ["--gpu", "0.25"]), ({"gpu_ratio": 1e-9}, ["--gpu", "0.0001"]),
     ({"context_length": 8192, "ttl_seconds": 60}, ["--context-length", "8192", "--ttl", "60"]),
     ({"parallel": 2, "identifier": "mine"}, ["--parallel", "2", "--identifier", "mine"])],
)  # fmt: skip
def test_a_load_always_says_yes_and_only_what_was_asked(options, argv):
    assert loading.arguments("a/b", **options) == ["load", "a/b", "-y", *argv]


@pytest.mark.parametrize(
    "options",
    [{"gpu_ratio": 1.5}, {"gpu_ratio": -0.1}, {"gpu_ratio": float("nan")}, {"gpu_ratio": True}, {"gpu_ratio": "auto"},
     {"context_length": 0}, {"context_length": 2**31}, {"parallel": True}, {"ttl_seconds": 1.5},
     {"identifier": "-v"}, {"identifier": ""}, {"model": "--version"}, {"model": "a\nb"}, {"model": "x" * 501}],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_refused_with_a_sentence(options):
    with pytest.raises(ValueError, match=r"must be|begins with"):
        loading.arguments(**{"model": "a/b", **options})


def test_json_that_carries_the_words_of_no_model_is_not_mistaken(tmp_path):
    rows = [{"identifier": "Model not found"}]
    assert json_in(answer(json.dumps(rows))) == rows


def test_what_was_loaded_is_compared_by_key_and_by_variant():
    row = {"modelKey": "a/b", "selectedVariant": "a/b@q4_k_m", "indexedModelIdentifier": "a/b"}
    assert loading.is_same_model("a/b", row)
    assert loading.is_same_model("a/b@q4_k_m", row)
    assert not loading.is_same_model("a/b@q8_0", row)
    assert not loading.is_same_model("a", {})
