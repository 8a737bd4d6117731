"""Models for scripts: what is told, who may do what, and what is said of a wrong wish."""

import json
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemonpulse.models import ApiToken
from daemonpulse.queue.models import Prompt
from fleet import operations
from fleet.models import Command, Node, Reading
from fleet.models.command import LOAD, UNLOAD
from forge.api_forms import LOAD_TYPES, WishForm, type_errors
from forge.models import Instance, LoadProfile, Model
from tests.fleet.test_pages import GIB, gpu, machine
from tests.forge.simulated_node import HERON, RAVEN, box, load, small  # noqa: F401

pytestmark = pytest.mark.django_db
OTTER = "acme/otter"


class Script:
    """A script with a token of some user."""

    def __init__(self, client, user, *scopes):
        self.client = client
        self.headers = {"Authorization": f"Bearer {ApiToken.issue(user, 'script', list(scopes))[1]}"}

    def get(self, path: str, **query):
        return self.client.get(f"/api/v1/{path}", query, headers=self.headers)

    def post(self, path: str, body: object = None):
        content = json.dumps(body or {})
        return self.client.post(f"/api/v1/{path}", content, content_type="application/json", headers=self.headers)


@pytest.fixture
def script(client, alice):
    return Script(client, alice, "read", "operate")


@pytest.fixture
def rig(db):
    """A node with a measured card, one model of 5 GiB on disk and one that is loaded; nothing listens there."""
    node = Node.objects.create(name="rig", base_url="http://127.0.0.1:9", state="online", checked_at=timezone.now())
    Model.objects.create(node=node, key=OTTER, name="Otter", type="llm", loaded=[], size_bytes=5 * GIB,
                         context_length=32_768, format="gguf")  # fmt: skip
    heron = Model.objects.create(node=node, key="acme/heron", name="Heron", type="llm", loaded=["acme/heron"])
    Instance.objects.create(model=heron, identifier="acme/heron", origin="queue", context_length=4096)
    Reading.of(node).keep(machine(gpu(memory_free_bytes=20 * GIB, memory_used_bytes=4 * GIB)))
    return node


def another(name: str, **fields) -> Node:
    node = Node.objects.create(name=name, base_url=f"http://127.0.0.1:1/{name}", state="offline", **fields)
    Model.objects.create(node=node, key=OTTER, name="Otter", type="llm", loaded=None)
    return node


def rules(response, status: int = 422) -> list[tuple[str, str]]:
    assert response.status_code == status, response.content
    return [(one["field"], one["rule"]) for one in response.json()["error"]["fields"]]


# What is told


def test_it_tells_every_model_with_its_nodes_and_copies(script, rig):
    another("attic")
    told = script.get("inventory").json()
    assert [(one["name"], one["is_online"]) for one in told["nodes"]] == [("attic", False), ("rig", True)]
    by_key = {one["key"]: one for one in told["models"]}
    attic, here = by_key[OTTER]["nodes"]
    assert (attic["node"], attic["copies"], attic["size_bytes"]) == ("attic", None, None)  # it does not tell
    assert (here["copies"], here["size_bytes"], here["max_context_length"]) == ([], 5 * GIB, 32_768)
    (copy,) = by_key["acme/heron"]["nodes"][0]["copies"]
    assert (copy["instance"], copy["loaded_by"], copy["context_length"]) == ("acme/heron", "queue", 4096)
    assert (copy["memory_bytes"], copy["idle_left_seconds"], copy["is_busy"]) == (None, None, False)


def test_it_narrows_the_models_as_the_page_does(script, rig):
    assert [one["key"] for one in script.get("inventory", state="loaded").json()["models"]] == ["acme/heron"]
    assert [one["key"] for one in script.get("inventory", q="OTT").json()["models"]] == [OTTER]
    assert rules(script.get("inventory", stat="loaded")) == [("stat", "unknown_field")]
    assert rules(script.get("inventory", node="nowhere")) == [("node", "invalid_choice")]


def test_it_asks_the_database_as_often_for_many_models_as_for_few(script, rig, django_assert_num_queries):
    script.get("inventory")  # notes the token's use
    with CaptureQueriesContext(connection) as few:
        script.get("inventory")
    for n in range(20):
        model = Model.objects.create(node=rig, key=f"acme/{n}", name=f"{n}", type="llm", loaded=[f"{n}"])
        Instance.objects.create(model=model, identifier=f"{n}")
    with django_assert_num_queries(len(few)):
        assert len(script.get("inventory").json()["models"]) == 22


def test_it_tells_how_much_idle_time_is_left_and_that_a_pinned_or_busy_one_has_none(script, rig, alice):
    now = timezone.now()
    Instance.objects.update(ttl_seconds=600, unload_at=now + timedelta(seconds=500), told_ttl_seconds=60, used_at=now)

    def left():
        (copy,) = script.get("inventory", state="loaded").json()["models"][0]["nodes"][0]["copies"]
        return copy["idle_left_seconds"]

    assert 55 < left() <= 60  # LM Studio's own time ends first
    Instance.objects.update(told_ttl_seconds=None)
    assert 490 < left() <= 500
    LoadProfile.choose(Model.objects.get(key="acme/heron"), is_pinned=True)
    assert left() is None
    LoadProfile.objects.update(is_pinned=False)
    prompt, _ = Prompt.submit(owner=alice, model="acme/heron", text="x")
    Prompt.claim(prompt.lane_id, rig.pk, "somebody")
    assert left() is None


def test_it_says_whether_a_load_would_fit(script, rig):
    told = script.get("fit", model=OTTER, context_length="4096", flash_attention="on").json()
    assert (told["node"], told["weights_bytes"], told["free_bytes"]) == ("rig", 5 * GIB, 20 * GIB)
    assert (told["verdict"], told["context_bytes"]) == ("unknown", None)  # its file was not read
    assert told["is_old"] is False and told["measured_at"]
    Reading.of(rig).keep(machine(gpu(memory_free_bytes=2 * GIB)))
    told = script.get("fit", model=OTTER).json()
    assert told["verdict"] == "too_large"
    assert told["missing_bytes"] > 3 * GIB
    assert told["blockers"] == [{"model": "acme/heron", "why": "unknown"}]  # what it holds is not known


def test_it_names_what_is_wrong_with_a_question(script, rig):
    assert rules(script.get("fit", model=OTTER, context_length="many")) == [("context_length", "invalid")]
    assert rules(script.get("fit", model=OTTER, flash_attention="perhaps")) == [("flash_attention", "type")]
    assert rules(script.get("fit", model=OTTER, contxt="1")) == [("contxt", "unknown_field")]
    assert rules(script.get("fit")) == [("model", "required")]


# Loads and ejections


def test_it_asks_for_a_load_with_everything_that_was_wished(script, rig, alice):
    wish = {"model": OTTER, "context_length": 4096, "parallel": 2, "offload_ratio": 0.5, "flash_attention": True,
            "offload_kv_cache_to_gpu": True, "eval_batch_size": 256, "identifier": "one", "ttl_seconds": 0}  # fmt: skip
    answer = script.post("loads", wish | {"anyway": True, "again": True, "node": None})
    assert answer.status_code == 202, answer.content
    told, command = answer.json(), Command.objects.get()
    assert (command.action, command.user, command.node) == (LOAD, alice, rig)
    assert command.parameters == wish | {"anyway": True}
    assert told["id"] == str(command.pk)
    assert (told["state"], told["progress"], told["instance"], told["output"]) == ("waiting", None, None, [])


def test_it_does_not_load_twice_unless_told_to(script, rig):
    assert rules(script.post("loads", {"model": "acme/heron"}), 409) == [("model", "loaded")]
    assert script.post("loads", {"model": OTTER}).status_code == 202
    answer = script.post("loads", {"model": OTTER})
    assert rules(answer, 409) == [("model", "loading")]
    assert "“again”" in answer.json()["error"]["message"]
    assert Command.objects.count() == 1
    assert script.post("loads", {"model": "acme/heron", "again": True}).status_code == 202


def test_it_wants_to_know_the_node_where_several_have_the_model(script, rig):
    another("attic")
    another("openai", kind="openai")
    answer = script.post("loads", {"model": OTTER})
    assert rules(answer) == [("node", "ambiguous")]
    assert "attic, rig" in answer.json()["error"]["message"]
    assert script.post("loads", {"model": OTTER, "node": "attic"}).json()["node"] == "attic"
    assert rules(script.post("loads", {"model": OTTER, "node": "openai"})) == [("node", "cannot_load")]
    assert rules(script.post("loads", {"model": OTTER, "node": "roof"})) == [("node", "unknown_node")]
    assert rules(script.post("loads", {"model": "acme/heron", "node": "attic"})) == [("node", "model_not_on_node")]


@pytest.mark.parametrize(
    "wish, field, rule",
    [
        ({"model": "otter"}, "model", "unknown_model"),
        ({"model": 7}, "model", "type"),
        ({"model": "\ud800"}, "model", "surrogate"),
        ({"context_length": 99_999}, "context_length", "max_value"),
        ({"context_length": "4096"}, "context_length", "type"),
        ({"parallel": True}, "parallel", "type"),
        ({"parallel": 0}, "parallel", "min_value"),
        ({"offload_ratio": 2}, "offload_ratio", "max_value"),
        ({"num_experts": 4}, "num_experts", "not_supported"),
        ({"flash_attention": "no"}, "flash_attention", "type"),
        ({"anyway": "no"}, "anyway", "type"),
        ({"ttl_seconds": -1}, "ttl_seconds", "min_value"),
        ({"identifier": "a b"}, "identifier", "invalid"),
        ({"identifier": "acme/heron"}, "identifier", "taken"),
        ({"context": 4096}, "context", "unknown_field"),
    ],
)
def test_it_names_the_field_and_the_rule(script, rig, wish, field, rule):
    assert rules(script.post("loads", {"model": OTTER} | wish)) == [(field, rule)]
    assert not Command.objects.exists()


def test_it_says_what_a_kind_of_model_cannot_be_told(script, rig):
    Model.objects.filter(key=OTTER).update(format="mlx")
    answer = script.post("loads", {"model": OTTER, "flash_attention": True})
    assert rules(answer) == [("flash_attention", "not_supported")]
    assert "GGUF" in answer.json()["error"]["message"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(sorted(LOAD_TYPES)), JSON, max_size=4))
def test_no_wish_is_too_odd_to_be_judged(rig, data):
    wish = {"model": OTTER} | data
    type_errors(wish, LOAD_TYPES)
    form = WishForm(wish)  # also what the check of types would have kept out
    if form.is_valid():
        json.dumps(form.parameters)


def test_it_asks_for_an_ejection_unless_the_copy_is_at_work(script, rig, alice):
    assert rules(script.post("ejections", {"instance": "acme/otter"})) == [("instance", "not_loaded")]
    prompt, _ = Prompt.submit(owner=alice, model="acme/heron", text="x")
    attempt = Prompt.claim(prompt.lane_id, rig.pk, "somebody")[0]
    answer = script.post("ejections", {"instance": "acme/heron"})
    assert rules(answer, 409) == [("instance", "stays")]
    assert "1 prompt runs on it" in answer.json()["error"]["message"]
    attempt.prompt.cancel()
    answer = script.post("ejections", {"instance": "acme/heron", "node": "rig"})
    assert answer.status_code == 202, answer.content
    assert (answer.json()["action"], answer.json()["instance"]) == ("eject", "acme/heron")
    command = Command.objects.get()
    assert (command.action, command.parameters["instance"], command.user) == (UNLOAD, "acme/heron", alice)


def test_it_takes_a_waiting_load_back(script, rig):
    path = f"loads/{script.post('loads', {'model': OTTER}).json()['id']}"
    assert script.post(f"{path}/cancel").json()["state"] == "failed"
    assert "called off" in script.get(path).json()["problem"]
    assert rules(script.post(f"{path}/cancel"), 409) == [("state", "ended")]


def test_it_shows_loads_only_not_what_else_a_node_was_told(script, rig):
    command = Command.ask(rig, "server_stop")
    assert script.get(f"loads/{command.pk}").status_code == 404
    assert script.post(f"loads/{command.pk}/cancel").status_code == 404
    assert Command.objects.get().state == "waiting"


def test_a_script_may_only_what_its_token_and_its_user_may(client, alice, bob, rig):
    pk = Command.ask(rig, LOAD, model=OTTER).pk
    changes = [("loads", {"model": OTTER}), ("ejections", {"instance": "acme/heron"}), (f"loads/{pk}/cancel", None)]
    for script in (Script(client, alice, "read", "write"), Script(client, bob, "operate")):
        for path, body in changes:
            assert script.post(path, body).status_code == 403, path
    assert "may not change nodes" in Script(client, bob, "operate").post("loads", {}).json()["error"]["message"]
    for path in ("inventory", f"fit?model={OTTER}", f"loads/{pk}"):
        assert Script(client, bob, "read").get(path).status_code == 200
        assert Script(client, alice, "operate").get(path).status_code == 403
        assert client.get(f"/api/v1/{path}").status_code == 401
    assert Command.objects.get().state == "waiting"


@pytest.mark.django_db(transaction=True)
def test_a_load_is_followed_to_its_end_and_ejected(script, box):  # noqa: F811
    told = script.post("loads", {"model": HERON, "context_length": 4096, "ttl_seconds": 600}).json()
    operations.run(Command.objects.get())
    told = script.get(f"loads/{told['id']}").json()
    assert (told["state"], told["instance"], told["progress"], told["problem"]) == ("done", HERON, 1.0, None)
    assert f"{HERON} is loaded." in told["output"]
    (copy,) = script.get("inventory", state="loaded").json()["models"][0]["nodes"][0]["copies"]
    assert copy["is_measured"] and copy["memory_bytes"] > 2_020_000_000
    assert (copy["loaded_by"], copy["ttl_seconds"]) == ("person", 600)
    load(box, RAVEN)
    told = script.get("fit", model="simulated/beaver-tools-8b", context_length="8192").json()
    assert (told["verdict_now"], told["evict"]) == ("too_large", [HERON])
    assert told["verdict"] == "fits"
    script.post("ejections", {"instance": HERON})
    operations.run(Command.objects.open().get())
    assert not Instance.objects.filter(identifier=HERON).exists()
