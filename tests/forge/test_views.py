"""What can be done to models from their pages: who may, what is refused, and what comes of it."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import Permission
from django.utils import timezone

from fleet.allocation.profile import Profile, Strategy
from fleet.models import AllocationProfile, Command, Node
from forge import use
from forge.models import Instance, LoadProfile, Model, NodePolicy, Origin
from tests.forge.test_pages import SHAPE, add, copy_of, otter, rig  # noqa: F401 (fixtures)

pytestmark = pytest.mark.django_db
GIB = 2**30
HTMX = {"HX-Request": "true"}


@pytest.fixture
def keeper(client, bob):
    """Bob, who looks after the nodes."""
    bob.user_permissions.add(Permission.objects.get(codename="change_node", content_type__app_label="fleet"))
    client.force_login(bob)
    return client


def asked() -> list[tuple]:
    return [(command.action, command.parameters) for command in Command.objects.order_by("asked_at")]


# Who may


POSTS = ("loads/", "profile/", "pin/", "unpin/", "stay/", "copies/{copy}/ejection/", "loads/{load}/cancellation/",
         "../nodes/{node}/budget/", "../nodes/{node}/warning/dismissal/")  # fmt: skip


@pytest.mark.parametrize("path", POSTS)
def test_it_lets_only_those_who_may_change_nodes(client, bob, otter, path):  # noqa: F811
    NodePolicy.note_auto_evict(otter.node, "a", "b")
    load = Command.ask(otter.node, "load_model", model=otter.key)
    names = {"copy": copy_of(otter).pk, "load": load.pk, "node": otter.node_id}
    whole = f"/models/{path[3:]}" if path.startswith("../") else f"/models/{otter.pk}/{path}"
    whole = whole.format(**names)
    assert client.post(whole)["Location"].startswith("/sign-in/")
    client.force_login(bob)
    assert client.post(whole).status_code == 403
    assert Command.objects.count() == 1
    assert not LoadProfile.objects.exists()
    assert client.get(whole).status_code in {403, 405}


def test_it_shows_others_everything_and_no_buttons(client, bob, otter):  # noqa: F811
    copy_of(otter)
    client.force_login(bob)
    for path in ("/models/", f"/models/{otter.pk}/", f"/models/{otter.pk}/fit/", f"/nodes/{otter.node_id}/"):
        html = client.get(path).content.decode()
        main = html.partition("<main")[2] or html
        assert "acme/otter-8b" in main or "Does it fit?" in main
        for word in ("Eject", 'id="load-button"', "Pin</button>", "Load anyway", "budget-save"):
            assert word not in main, (path, word)


# Loads


def test_it_has_a_model_loaded_as_wished(keeper, bob, otter):  # noqa: F811
    fields = {"context_length": "4096", "parallel": "2", "offload_ratio": "0.5", "ttl_minutes": "0.5",
              "flash_attention": "on", "offload_kv_cache_to_gpu": "off", "eval_batch_size": "256",
              "identifier": "otter-main"}  # fmt: skip
    assert keeper.post(f"/models/{otter.pk}/loads/", fields)["Location"] == f"/models/{otter.pk}/"
    wished = {"model": otter.key, "context_length": 4096, "parallel": 2, "flash_attention": True,
              "offload_kv_cache_to_gpu": False, "eval_batch_size": 256, "offload_ratio": 0.5,
              "identifier": "otter-main", "ttl_seconds": 30}  # fmt: skip
    assert asked() == [("load_model", wished | {"is_whole": True})]
    assert Command.objects.get().user == bob


def test_it_asks_before_it_makes_a_second_copy(alice_client, otter):  # noqa: F811
    Model.objects.filter(pk=otter.pk).update(loaded=["otter"])
    answer = alice_client.post(f"/models/{otter.pk}/loads/", {"context_length": "4096"}, follow=True)
    assert asked() == []
    assert "It is loaded already" in answer.text
    alice_client.post(f"/models/{otter.pk}/loads/", {"context_length": "4096", "again": "1"})
    assert len(asked()) == 1


def test_it_wishes_nothing_that_was_left_empty_and_asks_once(keeper, otter):  # noqa: F811
    keeper.post(f"/models/{otter.pk}/loads/", {"ttl_minutes": "0", "anyway": "1"})
    keeper.post(f"/models/{otter.pk}/loads/", {})
    assert asked() == [("load_model", {"model": otter.key, "is_whole": True, "ttl_seconds": 0, "anyway": True})]


def test_it_answers_htmx_with_the_form_as_it_was_and_what_is_live(keeper, otter):  # noqa: F811
    html = keeper.post(f"/models/{otter.pk}/loads/", {"context_length": "1234"}, headers=HTMX).content.decode()
    assert 'value="1234"' in html
    assert "Waits for its turn" in html
    assert 'id="model-live"' in html and 'hx-swap-oob="true"' in html
    assert "<html" not in html


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"context_length": "131073"}, "less than or equal to 131072"),
        ({"context_length": "0"}, "greater than or equal to 1"),
        ({"context_length": "many"}, "Enter a whole number"),
        ({"parallel": "1024"}, "less than or equal to 1023"),
        ({"offload_ratio": "1.5"}, "less than or equal to 1"),
        ({"offload_ratio": "nan"}, "Enter a number"),
        ({"ttl_minutes": "-1"}, "greater than or equal to 0"),
        ({"flash_attention": "maybe"}, "Select a valid choice"),
        ({"identifier": "two words"}, "Only letters, digits and the signs"),
        ({"identifier": "taken"}, "has this name already"),
    ],
)
def test_it_refuses_what_cannot_be_with_the_rule(keeper, otter, fields, rule):  # noqa: F811
    copy_of(otter, "taken")
    answer = keeper.post(f"/models/{otter.pk}/loads/", fields, headers=HTMX)
    assert answer.status_code == 422
    assert rule in answer.content.decode()
    assert list(answer.context["form"].errors) == list(fields)
    assert asked() == []


@pytest.mark.parametrize("path", ["loads/", "profile/", "fit/", "estimate/"])
def test_it_refuses_it_at_every_door(keeper, otter, path):  # noqa: F811
    ask = keeper.get if path in {"fit/", "estimate/"} else keeper.post
    answer = ask(f"/models/{otter.pk}/{path}", {"context_length": "0"})
    assert answer.status_code == 422
    assert "greater than or equal to 1" in answer.content.decode() or path == "estimate/"
    assert not LoadProfile.objects.exists()


def test_it_only_shows_the_fit_when_asked_to_check(keeper, otter):  # noqa: F811
    html = keeper.post(f"/models/{otter.pk}/loads/", {"context_length": "2048", "check": "1"}).content.decode()
    assert 'value="2048"' in html
    assert "2,048 tokens" in html or "256 MiB" in html
    assert asked() == []


def test_it_switches_off_what_cannot_reach_the_daemon(keeper, rig, otter):  # noqa: F811
    def disabled(model):
        return {field.name for field in keeper.get(f"/models/{model.pk}/").context["form"] if field.field.disabled}

    assert disabled(otter) == set()
    reed = add(rig, "acme/reed", type="embedding", metadata=SHAPE | {"experts": 8})
    assert disabled(reed) == {"parallel", "flash_attention", "offload_kv_cache_to_gpu", "num_experts",
                              "eval_batch_size"}  # fmt: skip
    mlx = add(rig, "acme/mlx", format="mlx")
    assert disabled(mlx) == {"flash_attention", "offload_kv_cache_to_gpu", "eval_batch_size"}
    assert "this one is for MLX" in keeper.get(f"/models/{mlx.pk}/").content.decode()
    keeper.post(f"/models/{reed.pk}/loads/", {"parallel": "2", "context_length": "512"})
    assert asked() == [("load_model", {"model": "acme/reed", "is_whole": True, "context_length": 512})]


def test_it_asks_for_experts_only_where_there_are_some(keeper, rig, otter):  # noqa: F811
    moe = add(rig, "acme/moe", metadata=SHAPE | {"experts": 8, "experts_used": 2})
    assert "num_experts" not in keeper.get(f"/models/{otter.pk}/").context["form"].fields
    keeper.post(f"/models/{moe.pk}/loads/", {"num_experts": "9"})
    keeper.post(f"/models/{moe.pk}/loads/", {"num_experts": "4"})
    assert asked() == [("load_model", {"model": "acme/moe", "is_whole": True, "num_experts": 4})]


def test_it_asks_before_it_makes_a_second_copy(keeper, otter):  # noqa: F811
    assert "Load another copy?" not in keeper.get(f"/models/{otter.pk}/").content.decode()
    copy_of(otter)
    assert 'data-confirm="Load another copy?"' in keeper.get(f"/models/{otter.pk}/").content.decode()


def test_it_loads_nothing_that_is_gone_or_on_another_kind_of_server(keeper, otter):  # noqa: F811
    Node.objects.update(kind="openai")
    assert keeper.post(f"/models/{otter.pk}/loads/").status_code == 404
    Node.objects.update(kind="lmstudio")
    Model.objects.update(gone_at=timezone.now())
    assert keeper.post(f"/models/{otter.pk}/loads/").status_code == 404


def test_it_calls_a_load_off(keeper, otter):  # noqa: F811
    load = Command.ask(otter.node, "load_model", model=otter.key)
    load.claim()
    keeper.post(f"/models/{otter.pk}/loads/{load.pk}/cancellation/")
    assert load.is_cancel_wanted
    assert "It is being called off." in keeper.get(f"/models/{otter.pk}/").content.decode()
    other = Command.ask(otter.node, "server_stop")
    assert keeper.post(f"/models/{otter.pk}/loads/{other.pk}/cancellation/").status_code == 404


# The profile


def test_it_saves_how_a_model_is_loaded(keeper, otter):  # noqa: F811
    Model.objects.update(size_json={"weights": 1})
    AllocationProfile.choose(otter.node, "", Profile(Strategy.EVEN, (0, 1)))
    fields = {"context_length": "16384", "flash_attention": "on", "ttl_minutes": "10", "offload_ratio": "0.75"}
    keeper.post(f"/models/{otter.pk}/profile/", fields)
    profile = LoadProfile.of(otter)
    assert profile.options == {"context_length": 16384, "flash_attention": True}
    assert profile.ttl_seconds == 600
    layout = AllocationProfile.chosen(otter.node, otter.key)
    assert (layout.strategy, layout.gpu_order, layout.offload_ratio) == ("even", (0, 1), 0.75)
    assert Model.objects.get().size_json is None
    assert asked() == []
    html = keeper.get(f"/models/{otter.pk}/").content.decode()
    assert 'value="16384"' in html and "As saved: on" in html
    keeper.post(f"/models/{otter.pk}/profile/", {"context_length": "", "offload_ratio": "0.75"})
    assert LoadProfile.of(otter).options == {}


def test_it_refuses_a_part_that_contradicts_the_layout(keeper, otter):  # noqa: F811
    AllocationProfile.choose(otter.node, "", Profile(Strategy.EVEN))
    answer = keeper.post(f"/models/{otter.pk}/profile/", {"offload_ratio": "0"})
    assert answer.status_code == 422
    assert "nothing to spread" in answer.content.decode()


# Copies


def test_it_ejects_a_copy_that_is_idle(keeper, otter):  # noqa: F811
    copy = copy_of(otter, "otter-main")
    path = f"/models/{otter.pk}/copies/{copy.pk}/ejection/"
    assert keeper.post(path)["Location"] == f"/models/{otter.pk}/"
    assert asked() == [("unload_model", {"instance": "otter-main", "model": otter.key})]
    html = keeper.post(path, {"where": "node"}, follow=True).content.decode()
    assert "otter-main stays loaded. It is being unloaded." in html
    assert len(asked()) == 1
    assert keeper.post(f"/models/{otter.pk + 1}/copies/{copy.pk}/ejection/").status_code == 404


def test_it_leaves_a_copy_alone_that_works(keeper, otter, monkeypatch):  # noqa: F811
    copy = copy_of(otter)
    monkeypatch.setattr(use, "of", lambda nodes: {(otter.node_id, otter.key): use.Use(running=1)})
    html = keeper.post(f"/models/{otter.pk}/copies/{copy.pk}/ejection/", headers=HTMX).content.decode()
    assert "stays loaded. 1 prompt runs on it." in html
    assert asked() == []


def test_it_pins_and_unpins_what_is_loaded_and_what_will_be(keeper, otter):  # noqa: F811
    ours = copy_of(otter, ttl_seconds=60, unload_at=timezone.now() + timedelta(minutes=1))
    theirs = copy_of(otter, "theirs", origin=Origin.ELSEWHERE)
    keeper.post(f"/models/{otter.pk}/pin/")
    assert LoadProfile.of(otter).is_pinned
    assert list(Instance.objects.values_list("unload_at", flat=True)) == [None, None]
    assert "Unpin" in keeper.get(f"/models/{otter.pk}/").content.decode()
    keeper.post(f"/models/{otter.pk}/unpin/")
    ours.refresh_from_db()
    theirs.refresh_from_db()
    assert (ours.ttl_seconds, theirs.ttl_seconds) == (3600, None)


def test_it_keeps_how_long_a_model_may_be_idle(keeper, otter):  # noqa: F811
    copies = [copy_of(otter), copy_of(otter, "theirs", origin=Origin.ELSEWHERE)]
    keeper.post(f"/models/{otter.pk}/stay/", {"ttl_minutes": "0.1"})
    for copy in copies:
        copy.refresh_from_db()
        assert copy.unload_at == copy.used_at + timedelta(seconds=6)
    keeper.post(f"/models/{otter.pk}/stay/", {"ttl_minutes": "0"})
    assert list(Instance.objects.values_list("unload_at", flat=True)) == [None, None]
    answer = keeper.post(f"/models/{otter.pk}/stay/", {"ttl_minutes": "soon"})
    assert answer.status_code == 422
    assert "Enter a number" in answer.content.decode()


# The node's budget


def test_it_keeps_what_a_nodes_models_may_hold(keeper, otter):  # noqa: F811
    path = f"/models/nodes/{otter.node_id}/budget/"
    assert keeper.post(path, {"gib": "20.5"})["Location"] == f"/nodes/{otter.node_id}/"
    assert NodePolicy.budget(otter.node) == 20.5 * GIB
    assert "at most 20.5 GiB" in keeper.get(f"/nodes/{otter.node_id}/").content.decode()
    answer = keeper.post(path, {"gib": "0"})
    assert answer.status_code == 422
    assert "greater than or equal to 0.1" in answer.content.decode()
    assert NodePolicy.budget(otter.node) == 20.5 * GIB
    keeper.post(path, {"gib": ""})
    assert NodePolicy.budget(otter.node) is None


# Django's own admin


@pytest.mark.parametrize("name", ["model", "instance", "loadprofile", "nodepolicy", "measurement", "download"])
def test_it_shows_operators_the_rows(client, alice, otter, name):  # noqa: F811
    copy_of(otter)
    LoadProfile.choose(otter, parallel=2)
    NodePolicy.set_budget(otter.node, GIB)
    client.force_login(alice)
    assert client.get(f"/admin/forge/{name}/").status_code == 200
    adds = client.get(f"/admin/forge/{name}/add/").status_code
    assert adds == (200 if name == "nodepolicy" else 403)


def test_it_changes_a_profile_there_through_the_same_verb(client, alice, otter):  # noqa: F811
    LoadProfile.choose(otter, parallel=2)
    Model.objects.update(size_json={"weights": 1})
    client.force_login(alice)
    flags = {"flash_attention": "unknown", "offload_kv_cache_to_gpu": "unknown"}
    answer = client.post(f"/admin/forge/loadprofile/{otter.pk}/change/", {"parallel": "3"} | flags)
    assert answer.status_code == 302
    assert LoadProfile.of(otter).parallel == 3
    assert Model.objects.get().size_json is None
