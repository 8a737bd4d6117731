"""Nothing that people or models wrote stands readable in any table."""

import pytest
from django.db import connection
from django_q.models import OrmQ

from daemonpulse.models import ApiToken, SignInLink
from fleet.daemons.errors import DaemonError, Reason
from fleet.models import Node
from pulse.thinking import Kind

from .prompts import done, running, stream, submit

pytestmark = pytest.mark.django_db(transaction=True)
MARK = "xylophone-7319"


def all_rows() -> dict[str, str]:
    """table → everything in it, as the database has it."""
    with connection.cursor() as cursor:
        tables = connection.introspection.table_names(cursor)
        contents = {}
        for table in tables:
            cursor.execute(f'SELECT * FROM "{table}"')
            rows = cursor.fetchall()
            contents[table] = "\n".join(repr(bytes(v) if isinstance(v, memoryview) else v) for row in rows for v in row)
    return contents


def tables_with(mark: str) -> list[str]:
    return [table for table, content in all_rows().items() if mark in content]


def test_it_finds_a_marker_where_one_is_readable(alice):
    """The search itself works: a lane's name is no secret."""
    submit(alice, model=MARK)

    assert tables_with(MARK) == ["queue_lane"]


def test_it_leaves_no_text_readable_in_any_table(alice, node):
    fields = {"text": f"text {MARK}", "system_prompt": f"system {MARK}"}
    done(alice, node, answer=f"answer {MARK}", reasoning=f"reasoning {MARK}", **fields)
    failing, attempt = running(alice, node, **fields)
    failing.fail(attempt, DaemonError(Reason.BAD_REQUEST, f"detail {MARK}"), rest=[(Kind.MESSAGE, f"half {MARK}")])
    _, streaming = running(alice, node, **fields)
    stream(streaming, (Kind.REASONING, f"piece {MARK}"), (Kind.MESSAGE, f"piece {MARK}"))
    waiting = submit(alice, **fields)
    waiting.edit(text=f"edited {MARK}")
    waiting.repeat()
    Node.objects.create(name="attic", base_url="http://127.0.0.1:10", token=MARK)

    assert tables_with(MARK) == []


def test_it_leaves_no_token_or_link_readable(alice):
    secrets = [ApiToken.issue(alice, "script", ["read"])[1], SignInLink.issue(alice)]

    for secret in secrets:
        assert tables_with(secret) == []


def test_it_hands_no_text_to_the_task_queue(alice, node):
    prompt = submit(alice, f"text {MARK}")

    task = OrmQ.objects.get().task

    assert task["func"] == "daemonpulse.queue.tasks.work"
    assert (task["args"], task["kwargs"]) == ((), {})
    assert MARK not in str(task)
    assert str(prompt.pk) not in str(task)
