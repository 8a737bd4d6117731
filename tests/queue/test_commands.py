"""The commands for operators."""

import io
import json
import stat
import sys

import pytest
from django.core.management import CommandError, call_command

from daemonpulse.queue.models import Lane, Prompt

from .prompts import done, failed, fresh, submit

pytestmark = pytest.mark.django_db


def run(*arguments, **options) -> str:
    out = io.StringIO()
    call_command(*arguments, stdout=out, **options)
    return out.getvalue()


def test_it_enqueues_a_text_a_file_and_standard_input(alice, node, tmp_path, monkeypatch):
    (tmp_path / "prompt.txt").write_text("from a file")
    monkeypatch.setattr(sys, "stdin", io.StringIO("from standard input"))

    ids = [
        run("enqueue", "from the line", "--model", "otter", "--temperature", "0.5", "--priority", "high").strip(),
        run("enqueue", "--file", str(tmp_path / "prompt.txt"), "--model", "otter").strip(),
        run("enqueue", "--model", "otter").strip(),
    ]

    prompts = [Prompt.objects.get(pk=id) for id in ids]
    assert [prompt.text for prompt in prompts] == ["from the line", "from a file", "from standard input"]
    assert (prompts[0].settings, prompts[0].priority, prompts[0].owner) == ({"temperature": 0.5}, 10, alice)


@pytest.mark.parametrize(
    ("arguments", "wording"),
    [
        (("hello", "--model", "dodo"), "No node has the model “dodo”"),
        (("   ", "--model", "otter"), "only white space"),
        (("hello", "--model", "otter", "--user", "nobody"), "There is no user “nobody”"),
        (("--file", "/nowhere/at/all", "--model", "otter"), "cannot be read"),
        (("hello", "--model", "otter", "--top-p", "3"), "top_p"),
    ],
)
def test_it_says_what_is_wrong_with_a_prompt_and_queues_nothing(alice, node, arguments, wording):
    with pytest.raises(CommandError, match=wording):
        run("enqueue", *arguments)

    assert not Prompt.objects.exists()


def test_it_shows_the_lanes_as_a_table_and_as_json(alice, node):
    submit(alice)
    failed(alice, node)

    assert "otter" in run("queue_status")
    (lane,) = json.loads(run("queue_status", "--json"))["lanes"]
    assert (lane["model"], lane["waiting"], lane["failed"], lane["running"]) == ("otter", 1, 1, 0)


def test_it_says_so_when_there_are_no_lanes(db):
    assert "nothing was ever queued" in run("queue_status")


def test_it_pauses_and_resumes_a_lane_by_its_model(alice, node):
    submit(alice)

    run("pause_lane", "otter")
    assert Lane.objects.get().is_paused
    run("resume_lane", "otter")
    assert not Lane.objects.get().is_paused
    with pytest.raises(CommandError, match="Lanes: otter"):
        run("pause_lane", "dodo")


def test_it_retries_what_failed_and_only_that(alice, node):
    bad, good = failed(alice, node), done(alice, node)

    assert run("retry_failed", "--model", "heron") == "0 queued again.\n"
    assert run("retry_failed", "--reason", "no such reason") == "0 queued again.\n"
    assert run("retry_failed") == "1 queued again.\n"

    assert (fresh(bad).state, fresh(good).state) == ("queued", "done")


def test_it_exports_the_history_to_a_file_for_its_owner_alone(alice, bob, node, tmp_path):
    done(alice, node, answer="Because.")
    done(bob, node, answer="Not this one.")
    path = tmp_path / "history.jsonl"

    run("export_history", "--user", "alice", "--output", str(path))

    (row,) = [json.loads(line) for line in path.read_text().splitlines()]
    assert (row["answer"], row["owner"], row["state"]) == ("Because.", "alice", "done")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_it_tells_why_a_node_does_not_answer(node):
    with pytest.raises(CommandError, match="Nothing answers"):
        run("check_node", "box")
    with pytest.raises(CommandError, match="Known: box"):
        run("check_node", "attic")
