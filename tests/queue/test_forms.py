"""All input of the queue: each rule by its field and its code, and nothing half-done."""

import json

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from daemonpulse.queue.forms import (
    BatchForm,
    EditForm,
    HistoryForm,
    PromptForm,
    ReorderForm,
    SubmissionForm,
    type_errors,
)
from daemonpulse.queue.models import Lane, Prompt
from fleet.models import Node
from forge.models import Model

from .prompts import done, submit

pytestmark = pytest.mark.django_db
GOOD = {"model": "otter", "text": "Why?"}
FIVE_MEGABYTES = "x" * 5 * 1024 * 1024


def rules(form) -> dict[str, list[str]]:
    """field → codes of its errors."""
    return {name: [error.code for error in errors] for name, errors in form.errors.as_data().items()}


def prompt_form(owner, **changes) -> PromptForm:
    return PromptForm({**GOOD, **changes}, owner=owner)


# One prompt


def test_it_drafts_a_prompt_with_the_defaults(alice, node):
    form = prompt_form(alice)

    assert form.is_valid(), form.errors
    assert form.draft() == {
        "model": "otter",
        "text": "Why?",
        "system_prompt": "",
        "priority": 0,
        "node_pin": None,
        "settings": {},
        "follows": None,
    }


def test_it_drafts_a_prompt_with_everything(alice, node):
    numbers = {"temperature": 0, "top_p": 0.5, "top_k": 0, "min_p": 0.1, "repeat_penalty": 1.1, "max_output_tokens": 9}
    form = prompt_form(alice, system_prompt="Be brief.", priority="high", node=node.pk, reasoning="off", **numbers)

    assert form.is_valid(), form.errors
    draft = form.draft()
    assert draft["settings"] == numbers | {"reasoning": "off"}  # zero is a value, not "none"
    assert (draft["system_prompt"], draft["priority"], draft["node_pin"]) == ("Be brief.", 10, node)


def test_it_keeps_the_text_as_it_was_written(alice, node):
    form = prompt_form(alice, text="  two\n\n  lines \n")

    assert form.is_valid()
    assert form.draft()["text"] == "  two\n\n  lines \n"


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("model", "", "required"),
        ("model", "no-such-model", "unknown_model"),
        ("model", "x" * 301, "max_length"),
        ("text", "", "required"),
        ("text", " \n\t\u00a0 ", "required"),
        ("text", FIVE_MEGABYTES, "max_length"),
        ("text", "a\0b", "null_characters_not_allowed"),
        ("text", "a\ud800b", "surrogate"),
        ("system_prompt", "a\udfffb", "surrogate"),
        ("system_prompt", FIVE_MEGABYTES, "max_length"),
        ("priority", "urgent", "invalid_choice"),
        ("node", "99", "invalid_choice"),
        ("node", "box", "invalid_choice"),
        ("temperature", "2.1", "max_value"),
        ("temperature", "-0.1", "min_value"),
        ("temperature", "hot", "invalid"),
        ("temperature", "nan", "invalid"),
        ("temperature", "inf", "invalid"),
        ("top_p", "1.01", "max_value"),
        ("top_p", "-1", "min_value"),
        ("top_k", "-1", "min_value"),
        ("top_k", "1.5", "invalid"),
        ("top_k", "100001", "max_value"),
        ("min_p", "2", "max_value"),
        ("repeat_penalty", "11", "max_value"),
        ("max_output_tokens", "0", "min_value"),
        ("max_output_tokens", "10000001", "max_value"),
        ("reasoning", "deep", "invalid_choice"),
        ("follows", "not-an-id", "invalid"),
        ("follows", "00000000-0000-4000-8000-000000000000", "invalid_choice"),
    ],
)
def test_it_names_the_field_and_the_rule(alice, node, field, value, rule):
    form = prompt_form(alice, **{field: value})

    assert not form.is_valid()
    assert rules(form) == {field: [rule]}


def test_it_tells_which_models_there_are(alice, node):
    form = prompt_form(alice, model="kraken")

    assert form.errors["model"] == ["No node has the model “kraken”. Known: heron, otter."]


def test_it_tells_to_add_a_node_where_there_are_no_models(alice):
    assert "add a node first" in prompt_form(alice).errors["model"][0]


def test_it_knows_only_chat_models_that_an_enabled_node_has(alice, node):
    Model.objects.create(node=node, key="reed", name="Reed", type="embedding")
    away = Node.objects.create(name="attic", base_url="http://127.0.0.1:10", is_enabled=False)
    Model.objects.create(node=away, key="ibis", name="Ibis", type="llm")

    for model in ("reed", "ibis"):
        assert rules(prompt_form(alice, model=model)) == {"model": ["unknown_model"]}


def test_it_takes_a_model_whose_node_is_offline(alice, node):
    Node.objects.update(state="offline")

    assert prompt_form(alice).is_valid()


def test_it_pins_to_a_node_only_if_that_has_the_model(alice, node):
    attic = Node.objects.create(name="attic", base_url="http://127.0.0.1:10")

    assert rules(prompt_form(alice, node=attic.pk)) == {"node": ["model_not_on_node"]}


# Follow-ups


def test_it_pins_a_follow_up_to_the_node_that_has_its_chat(alice, node):
    earlier = done(alice, node)

    form = prompt_form(alice, follows=str(earlier.pk))

    assert form.is_valid(), form.errors
    assert (form.draft()["follows"], form.draft()["node_pin"]) == (earlier, node)


def test_it_keeps_a_follow_up_with_its_model(alice, node):
    form = prompt_form(alice, follows=str(done(alice, node).pk), model="heron")

    assert rules(form) == {"model": ["other_model"]}


def test_it_follows_up_only_what_is_done(alice, node):
    assert rules(prompt_form(alice, follows=str(submit(alice).pk))) == {"follows": ["not_done"]}


def test_it_follows_up_only_ones_own_prompts(alice, bob, node):
    theirs = done(bob, node)

    form = prompt_form(alice, follows=str(theirs.pk))

    assert rules(form) == {"follows": ["invalid_choice"]}


def test_it_fills_the_edit_form_with_what_the_prompt_is(alice, node):
    draft = {"text": "x", "system_prompt": "y", "settings": {"top_k": 3}, "priority": -10, "node_pin": node}
    prompt = submit(alice, model="heron", **draft)

    form = EditForm(EditForm.initial_of(prompt), owner=alice)

    assert form.is_valid(), form.errors
    assert form.draft() == draft | {"model": "heron", "follows": None}


# Types in JSON


@pytest.mark.parametrize(
    ("data", "field", "rule"),
    [
        ([], "", "type"),
        ("text", "", "type"),
        (None, "", "type"),
        ({"text": 5}, "text", "type"),
        ({"text": ["a"]}, "text", "type"),
        ({"model": {}}, "model", "type"),
        ({"temperature": "0.5"}, "temperature", "type"),
        ({"temperature": True}, "temperature", "type"),
        ({"top_k": 1.0}, "top_k", "type"),
        ({"top_k": True}, "top_k", "type"),
        ({"node": "1"}, "node", "type"),
        ({"stream": 1}, "stream", "type"),
        ({"stream": "yes"}, "stream", "type"),
        ({"id": 7}, "id", "type"),
        ({"prompt": "Why?"}, "prompt", "unknown_field"),
        ({"owner": 1}, "owner", "unknown_field"),
    ],
)
def test_it_tells_wrong_types_and_unknown_fields(data, field, rule):
    assert [(name, error.code) for name, errors in type_errors(data).items() for error in errors] == [(field, rule)]


def test_it_takes_right_types_and_null_for_left_out():
    assert type_errors({**GOOD, "temperature": 1, "top_p": 0.5, "top_k": 3, "stream": False, "node": None}) == {}


def test_it_tells_all_wrong_types_at_once():
    assert set(type_errors({"text": 1, "model": 2, "what": 3})) == {"text", "model", "what"}


def test_it_wants_a_uuid_as_id(alice, node):
    assert rules(SubmissionForm({**GOOD, "id": "42"}, owner=alice)) == {"id": ["invalid"]}
    assert SubmissionForm({**GOOD, "id": "00000000-0000-4000-8000-000000000000"}, owner=alice).is_valid()


# Many at once


def jsonl(*rows) -> bytes:
    return "\n".join(row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows).encode()


def batch(owner, content: bytes | None = None, **data) -> BatchForm:
    files = {"file": SimpleUploadedFile("prompts.jsonl", content)} if content is not None else None
    return BatchForm({"model": "otter", **data}, files, owner=owner)


def texts(form: BatchForm) -> list[str]:
    assert form.is_valid(), form.errors
    return [draft["text"] for draft in form.cleaned_data["drafts"]]


TEN = [{"text": f"prompt {number}"} for number in range(1, 11)]


def test_it_reads_a_file_of_json_lines(alice, node):
    rows = [{"text": "one"}, {"text": "two", "model": "heron", "priority": "high", "temperature": 0.2}]

    form = batch(alice, jsonl(*rows))

    assert texts(form) == ["one", "two"]
    first, second = form.cleaned_data["drafts"]
    assert (first["model"], first["priority"]) == ("otter", 0)
    assert (second["model"], second["priority"], second["settings"]) == ("heron", 10, {"temperature": 0.2})


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"text": "prompt 7"', "not valid JSON"),
        ("prompt 7", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[1, 2]", "Send a JSON object"),
        ('{"text": 7}', "text: Must be a string"),
        ('{"prompt": "7"}', "There is no field “prompt”"),
        ('{"text": ""}', "text: This field is required"),
        ('{"text": "  "}', "text: Write a prompt"),
        ('{"text": "x", "model": "kraken"}', "No node has the model “kraken”"),
        ('{"text": "x", "temperature": 9}', "temperature:"),
        ('{"text": "x", "temperature": NaN}', "temperature:"),
        ('{"text": "x\\ud800"}', "text:"),
    ],
)
def test_it_says_line_seven_when_line_seven_is_broken(alice, node, line, words):
    form = batch(alice, jsonl(*TEN[:6], line, *TEN[7:]))

    assert not form.is_valid()
    (message,) = form.errors["file"]
    assert message.startswith("Line 7: ")
    assert words in message
    assert message.endswith("Nothing was queued.")
    assert rules(form) == {"file": ["line"]}
    assert "drafts" not in form.cleaned_data


def test_it_skips_blank_lines_but_counts_them(alice, node):
    assert texts(batch(alice, jsonl("", *TEN[:2], "  ", TEN[2], ""))) == ["prompt 1", "prompt 2", "prompt 3"]
    broken = batch(alice, jsonl("", "", TEN[0], "{"))
    assert broken.errors["file"][0].startswith("Line 4: ")


def test_it_takes_a_byte_order_mark_and_windows_line_ends(alice, node):
    content = b"\xef\xbb\xbf" + jsonl(*TEN[:3]).replace(b"\n", b"\r\n")

    assert texts(batch(alice, content)) == ["prompt 1", "prompt 2", "prompt 3"]


@pytest.mark.parametrize("inside", ["\u2028", "\u2029", "\u0085", "\x7f"])
def test_it_ends_a_line_only_at_a_line_feed(alice, node, inside):
    text = f"one{inside}two"

    assert texts(batch(alice, jsonl({"text": text}, TEN[0]))) == [text, "prompt 1"]


def test_it_refuses_a_file_that_is_not_utf8(alice, node):
    form = batch(alice, '{"text": "Grüße"}'.encode("latin-1"))

    assert form.errors["file"] == ["The file is not UTF-8 text."]


def test_it_refuses_an_empty_file_and_nothing_at_all(alice, node):
    assert rules(batch(alice, b"")) == {"file": ["empty"]}
    assert rules(batch(alice, b"\n\n")) == {"__all__": ["required"]}
    assert rules(batch(alice)) == {"__all__": ["required"]}


def test_it_takes_a_thousand_at_once_and_no_more(alice, node):
    assert len(texts(batch(alice, jsonl(*[{"text": "x"}] * 1000)))) == 1000

    form = batch(alice, jsonl(*[{"text": "x"}] * 1001))

    assert rules(form) == {"__all__": ["too_many"]}
    assert "these are 1001" in form.errors["__all__"][0]


def test_it_reads_pasted_prompts_one_a_line(alice, node):
    assert texts(batch(alice, texts="one\r\n\r\n  two\r\nthree")) == ["one", "  two", "three"]


def test_it_reads_pasted_prompts_between_rulers(alice, node):
    pasted = "first\r\nof two lines\r\n---\r\n\r\nsecond\r\n\r\nparagraph\r\n---\r\n\r\n---\r\nthird"

    assert texts(batch(alice, texts=pasted, split="blocks")) == [
        "first\nof two lines",
        "second\n\nparagraph",
        "third",
    ]


def test_it_says_the_line_of_a_pasted_prompt_that_is_wrong(alice, node):
    pasted = "first\n---\nsecond\nmore\n---\n" + "x\0"

    form = batch(alice, texts="one\ntwo", model="kraken")
    assert form.errors["texts"][0].startswith("Line 1: model: No node has the model")
    assert not batch(alice, texts=pasted, split="blocks").is_valid()


def test_it_needs_a_model_for_every_prompt_of_a_batch(alice, node):
    form = batch(alice, jsonl({"text": "a", "model": "heron"}, {"text": "b"}), model="")

    assert form.errors["file"] == ["Line 2: choose a model above, or name one on the line. Nothing was queued."]


def test_it_looks_up_the_models_once_for_a_whole_batch(alice, node, django_assert_max_num_queries):
    with django_assert_max_num_queries(3):
        texts(batch(alice, jsonl(*TEN)))


# Filters and moves


def test_it_ignores_filters_that_make_no_sense(alice):
    Lane.for_model("otter")
    form = HistoryForm({"state": "melted", "model": "kraken", "q": "otters"})

    form.is_valid()

    assert form.cleaned_data == {"q": "otters"}


@pytest.mark.parametrize(("where", "is_valid"), [("first", True), ("down", True), ("sideways", False), ("", False)])
def test_it_knows_four_ways_to_move(where, is_valid):
    assert ReorderForm({"where": where}).is_valid() is is_valid


def test_it_queues_nothing_by_itself(alice, node):
    batch(alice, jsonl(*TEN)).is_valid()
    prompt_form(alice).is_valid()

    assert not Prompt.objects.exists()
