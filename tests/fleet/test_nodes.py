"""Nodes: their states, the page and form, who may change them, and finding the LM Studio of this machine."""

import json
from datetime import timedelta

import pytest
from django.db import connection

from daemonpulse.models import Event
from fleet import discovery
from fleet.daemons.errors import DaemonError, Reason
from fleet.models import Node, State
from tests.conftest import wait_for
from tests.fleet.simulator_fixture import SimulatorProcess
from tests.fleet.test_http import JSON_HEAD, CannedServer, sized

pytestmark = pytest.mark.django_db
NOBODY = "http://127.0.0.1:9"
ADD = "/nodes/add/"


@pytest.fixture(scope="module")
def simulator():
    process = SimulatorProcess().start()
    yield process
    process.stop()


@pytest.fixture
def new(db):
    return Node.objects.create(name="box", base_url=NOBODY)


def kinds():
    return list(Event.objects.order_by("id").values_list("kind", flat=True))


# States


def test_it_writes_one_event_when_a_node_appears_and_none_while_it_stays(new):
    assert [new.seen(0.01), new.seen(0.02), new.seen(0.03)] == [True, False, False]
    new.refresh_from_db()
    assert (new.state, new.reason, new.latency_seconds) == (State.ONLINE, "", 0.03)
    assert abs(new.last_seen_at - new.checked_at) < timedelta(seconds=1)
    assert kinds() == ["node.online"]


def test_it_writes_an_event_when_a_node_goes_and_when_its_reason_changes(new):
    new.seen(0.01)
    seen_at = new.last_seen_at
    unreachable, silent = DaemonError(Reason.UNREACHABLE), DaemonError(Reason.TIMEOUT)
    assert [new.lost(unreachable), new.lost(unreachable), new.lost(silent)] == [True, False, True]
    new.refresh_from_db()
    assert (new.state, new.reason, new.latency_seconds) == (State.OFFLINE, "timeout", None)
    assert new.last_seen_at == seen_at
    assert new.checked_at > seen_at
    assert new.seen(0.01)
    assert new.reason == ""
    assert kinds() == ["node.online", "node.offline", "node.offline", "node.online"]


def test_it_tells_a_refused_token_from_a_node_that_is_away(new):
    new.lost(DaemonError(Reason.UNAUTHORIZED))
    assert new.state == State.UNAUTHORIZED
    assert not new.is_online
    assert kinds() == ["node.unauthorized"]


def test_it_is_news_once_however_many_processes_look(new):
    other = Node.objects.get(pk=new.pk)
    assert [new.seen(0.01), other.seen(0.01)] == [True, False]


def test_it_is_switched_off_and_on(new):
    new.seen(0.01)
    new.disable()
    new.disable()
    assert not new.is_online
    assert list(Node.objects.online()) == []
    new.enable()
    assert list(Node.objects.online()) == [new]
    assert kinds() == ["node.online", "node.disabled", "node.enabled"]


def test_it_says_that_a_node_is_added_and_removed(client, alice):
    client.force_login(alice)
    client.post(ADD, {"name": "box", "base_url": NOBODY, "kind": "openai"})
    node = Node.objects.get()
    client.post(f"/nodes/{node.pk}/removal/")
    assert not Node.objects.exists()
    assert kinds() == ["node.added", "node.removed"]


# The form


def add(client, **fields):
    return client.post(ADD, {"name": "box", "base_url": NOBODY, "kind": "", "token": ""} | fields)


def errors_of(answer, field):
    return [error.code for error in answer.context["form"].errors.as_data().get(field, [])]


def test_it_finds_out_the_kind_of_a_new_node(client, alice, simulator):
    client.force_login(alice)
    assert add(client, base_url=simulator.url).status_code == 302
    assert Node.objects.get().kind == "lmstudio"
    with CannedServer(sized(JSON_HEAD, b'{"data": [{"id": "tiny"}]}')) as server:
        assert add(client, name="other", base_url=f"{server.url}/v1").status_code == 302
    assert Node.objects.get(name="other").kind == "openai"
    assert "other is added" in client.get("/nodes/").content.decode()


def test_it_asks_a_new_node_with_its_token(client, alice):
    client.force_login(alice)
    with CannedServer(sized(JSON_HEAD, b'{"lmstudio": true}')) as server:
        add(client, base_url=server.url, token="sk-abc")
        assert server.requests[0][1]["authorization"] == "Bearer sk-abc"


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("192.168.1.20:1234", "http://192.168.1.20:1234"),
        (" http://box:1234/ ", "http://box:1234"),
        ("http://box:1234/v1", "http://box:1234"),
        ("http://box:1234/v1/", "http://box:1234"),
        ("http://box:1234/api/v1", "http://box:1234"),
        ("HTTP://Box.LAN:1234", "http://box.lan:1234"),
        ("https://box/llm/v1", "https://box/llm"),
        ("[::1]:1234", "http://[::1]:1234"),
    ],
)
def test_it_writes_an_address_in_one_way(client, alice, written, kept):
    client.force_login(alice)
    add(client, base_url=written, kind="openai")
    assert Node.objects.get().base_url == kept


@pytest.mark.parametrize(
    "address",
    [
        "ftp://box:1234",
        "http://",
        "http://box:0",
        "http://box:99999",
        "http://box:port",
        "file:///etc/passwd",
        "http://alice:secret@box:1234",
        "http://alice@box:1234",
        "http://box:1234/?token=secret",
        "http://box:1234/#here",
        "http://[::1:1234",
        "javascript:alert(1)",
        "http://bo x:1234",
        "http://box:1234/a b",
        "http://box:1234/käse",
    ],
)
def test_it_refuses_an_address_that_is_none(client, alice, address):
    client.force_login(alice)
    answer = add(client, base_url=address, kind="openai")
    assert answer.status_code == 422
    assert errors_of(answer, "base_url") == ["invalid"]
    assert not Node.objects.exists()


def test_it_refuses_an_address_or_name_twice(client, alice, new):
    client.force_login(alice)
    answer = add(client, name="box 2", base_url=f"{NOBODY}/v1/", kind="openai")
    assert errors_of(answer, "base_url") == ["duplicate"]
    answer = add(client, base_url="http://127.0.0.1:10", kind="openai")
    assert answer.status_code == 422
    assert errors_of(answer, "name") == ["unique"]
    assert Node.objects.count() == 1


@pytest.mark.parametrize("token", ["sk abc", "sk\tabc", "ключ", "sk-ä"])
def test_it_refuses_a_token_that_no_header_can_carry(client, alice, token):
    client.force_login(alice)
    answer = add(client, token=token)
    assert answer.status_code == 422
    assert list(answer.context["form"].errors) == ["token"]


def test_it_says_that_nothing_answers_and_adds_it_when_a_kind_is_chosen(client, alice):
    client.force_login(alice)
    answer = add(client)
    page = answer.content.decode()
    assert answer.status_code == 422
    assert errors_of(answer, "base_url") == ["unreachable"]
    assert "Choose its kind to add it anyway" in page
    assert NOBODY in page
    assert not Node.objects.exists()
    assert add(client, kind="openai").status_code == 302
    assert (Node.objects.get().kind, Node.objects.get().state) == ("openai", State.UNKNOWN)


def test_it_says_that_what_answers_is_no_daemon(client, alice):
    client.force_login(alice)
    with CannedServer(sized(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n", b"<html></html>")) as server:
        assert errors_of(add(client, base_url=server.url), "base_url") == ["not_understood"]


# Who may


def test_it_lets_bob_look_and_change_nothing(client, bob, new):
    client.force_login(bob)
    page = client.get("/nodes/")
    assert page.status_code == 200
    assert "box" in page.content.decode()
    assert "/nodes/add/" not in page.content.decode()
    assert f"/nodes/{new.pk}/removal/" not in page.content.decode()
    assert add(client, name="mine", kind="openai", base_url="http://127.0.0.1:10").status_code == 403
    for verb in ("removal", "disable", "enable"):
        assert client.post(f"/nodes/{new.pk}/{verb}/").status_code == 403
    assert list(Node.objects.values_list("name", "is_enabled")) == [("box", True)]


def test_it_sends_charlie_to_sign_in(client, new):
    for answer in (client.get("/nodes/"), add(client, name="mine"), client.post(f"/nodes/{new.pk}/removal/")):
        assert answer.status_code == 302
        assert answer.headers["Location"].startswith("/sign-in/?next=/nodes/")
    assert Node.objects.count() == 1


def test_it_changes_nothing_by_a_link(client, alice, new):
    client.force_login(alice)
    verbs = ("removal", "disable", "enable", "look", "commands", "layout", "profile")
    for verb in verbs:
        assert client.get(f"/nodes/{new.pk}/{verb}/").status_code == 405
        assert client.post(f"/nodes/999/{verb}/").status_code == 404
    assert client.get(ADD, {"name": "x", "base_url": "http://127.0.0.1:10"}).status_code == 200
    assert list(Node.objects.values_list("name", "is_enabled", "look_wanted_at")) == [("box", True, None)]


# The token


def test_it_keeps_a_token_unreadable_and_to_itself(client, alice):
    client.force_login(alice)
    add(client, kind="openai", token="sk-very-secret")
    assert Node.objects.get().connect().token == "sk-very-secret"
    with connection.cursor() as cursor:
        cursor.execute("SELECT token FROM fleet_node")
        stored = bytes(cursor.fetchone()[0])
    assert b"very-secret" not in stored
    assert "very-secret" not in client.get("/nodes/").content.decode()
    assert "very-secret" not in client.get("/admin/fleet/node/1/change/", follow=True).content.decode()
    assert "very-secret" not in str(list(Event.objects.values_list("data", flat=True)))


def test_it_does_not_send_a_token_back_with_an_error(client, alice):
    client.force_login(alice)
    assert "very-secret" not in add(client, token="sk-very-secret").content.decode()


# The LM Studio of this machine


def write_config(home, folder, **config):
    internal = home / folder / ".internal"
    internal.mkdir(parents=True)
    (internal / "http-server-config.json").write_text(json.dumps(config))


def test_it_takes_the_usual_port_where_nothing_is_configured(tmp_path):
    assert discovery.configured_url(tmp_path) == "http://127.0.0.1:1234"


def test_it_finds_the_folder_by_its_pointer_then_the_older_place_then_the_usual_one(tmp_path):
    write_config(tmp_path, ".lmstudio", port=1111)
    assert discovery.configured_url(tmp_path) == "http://127.0.0.1:1111"
    write_config(tmp_path, ".cache/lm-studio", port=2222)
    assert discovery.configured_url(tmp_path) == "http://127.0.0.1:2222"
    write_config(tmp_path, "elsewhere", port=3333)
    (tmp_path / ".lmstudio-home-pointer").write_text(f"{tmp_path / 'elsewhere'}\n")
    assert discovery.configured_url(tmp_path) == "http://127.0.0.1:3333"


@pytest.mark.parametrize(
    ("interface", "host"),
    [("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "127.0.0.1"), ("", "127.0.0.1"), (None, "127.0.0.1"),
     ("192.168.1.5", "192.168.1.5"), ("::", "127.0.0.1"), ("::1", "[::1]")],
)  # fmt: skip
def test_it_reaches_every_interface_that_is_configured(tmp_path, interface, host):
    write_config(tmp_path, ".lmstudio", port=1234, networkInterface=interface)
    assert discovery.configured_url(tmp_path) == f"http://{host}:1234"


@pytest.mark.parametrize("text", ["{broken", "[]", '{"port": "many"}', '{"port": null}', "", "\xff"])
def test_it_bears_a_broken_configuration(tmp_path, text):
    internal = tmp_path / ".lmstudio" / ".internal"
    internal.mkdir(parents=True)
    (internal / "http-server-config.json").write_bytes(text.encode("latin1"))
    assert discovery.configured_url(tmp_path) == "http://127.0.0.1:1234"


def test_it_bears_a_broken_pointer(tmp_path):
    (tmp_path / ".lmstudio-home-pointer").write_bytes(b"\xff\xfe\x00")
    assert discovery.configured_url(tmp_path) == "http://127.0.0.1:1234"


def test_it_finds_the_server_that_greets(tmp_path, simulator):
    write_config(tmp_path, ".lmstudio", port=simulator.port, networkInterface="0.0.0.0")
    assert wait_for(lambda: discovery.find_here(tmp_path)) == simulator.url  # it has little patience


def test_it_finds_nothing_where_something_else_or_nobody_answers(tmp_path):
    write_config(tmp_path, ".lmstudio", port=9)
    assert discovery.find_here(tmp_path) is None
    with CannedServer(sized(JSON_HEAD, b'{"lmstudio": "no"}')) as server:
        other = tmp_path / "other"
        write_config(other, ".lmstudio", port=int(server.url.rpartition(":")[2]))
        assert discovery.find_here(other) is None


def test_it_does_not_wait_for_a_server_that_hangs(tmp_path):
    with CannedServer(5.0) as server:
        write_config(tmp_path, ".lmstudio", port=int(server.url.rpartition(":")[2]))
        assert discovery.find_here(tmp_path) is None
