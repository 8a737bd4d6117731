"""What people and scripts see of downloads, and may do with them."""

import asyncio
import io
from datetime import timedelta

import pytest
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.utils import timezone
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from daemonpulse.consumers import in_thread
from daemonpulse.models import ApiToken
from fleet import attention
from fleet.daemons.errors import DaemonError, Reason
from fleet.daemons.types import Download as Told
from fleet.models import Node
from forge.downloads import downloader as downloads
from forge.downloads.forms import DownloadForm, parse_source
from forge.management.commands import download as command
from forge.models import Download
from tests.forge.downloading_node import GIB, DownloadingNode, job
from tests.sockets import Browser, browser, own_tail

pytestmark = pytest.mark.django_db
State = Download.State
LIST, START = "/models/downloads/", "/models/downloads/start/"
HUB = "https://huggingface.co"
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def rig(db):
    return Node.objects.create(name="rig", base_url="http://127.0.0.1:9", state="online")


@pytest.fixture
def alices(client, alice):
    client.force_login(alice)
    return client


def made(node, name="acme/otter", **fields) -> Download:
    return Download.objects.create(node=node, source=name, **fields)


def going(node, name="acme/otter", moved_seconds_ago=0, **fields) -> Download:
    now = timezone.now()
    told = {"state": State.DOWNLOADING, "job_id": "job_1", "total_bytes": 4 * GIB, "downloaded_bytes": GIB,
            "bytes_per_second": 50 * 2**20, "finishes_at": now + timedelta(seconds=100), "checked_at": now,
            "moved_at": now - timedelta(seconds=moved_seconds_ago), "started_at": now}  # fmt: skip
    return made(node, name, **told | fields)


# What is written


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("acme/otter-8b", ("acme/otter-8b", "")),
        (" acme/otter-8b@q4_k_m ", (f"{HUB}/acme/otter-8b", "q4_k_m")),
        (f"{HUB}/acme/Otter-8B-GGUF", (f"{HUB}/acme/Otter-8B-GGUF", "")),
        (f"{HUB}/acme/otter/?show_file_info=x#top", (f"{HUB}/acme/otter", "")),
        (f"{HUB}/acme/otter/tree/main", (f"{HUB}/acme/otter", "")),
        (f"{HUB}/acme/otter/blob/main/otter-Q5_K_M.gguf", (f"{HUB}/acme/otter", "Q5_K_M")),
        ("https://www.huggingface.co/acme/otter", (f"{HUB}/acme/otter", "")),
        ("https://hub.example/acme/otter", (f"{HUB}/acme/otter", "")),
        ("https://lmstudio.ai/models/acme/otter", ("acme/otter", "")),
    ],
)
def test_it_understands_what_people_write(monkeypatch, written, meant):
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
    assert parse_source(written) == meant


@pytest.mark.parametrize(
    ("written", "code"),
    [("otter", "invalid"), ("acme/../x", "invalid"), ("acme/otter@", "invalid"), ("acme/otter@a b", "invalid"),
     ("../..", "invalid"), (f"{HUB}/acme", "invalid"), (f"{HUB}/acme/..", "invalid"), ("https://[", "invalid"),
     ("http://huggingface.co/acme/otter", "host"), ("https://evil.example/acme/otter", "host"),
     ("https://huggingface.co.evil.example/a/b", "host"), ("file:///etc/passwd", "host"),
     ("https://alice:secret@huggingface.co/acme/otter", "credentials")],
)  # fmt: skip
def test_it_takes_nothing_else(written, code):
    with pytest.raises(ValidationError) as raised:
        parse_source(written)
    assert raised.value.code == code
    assert "secret" not in str(raised.value)


@hypothesis_settings(max_examples=60)
@given(st.text(max_size=60) | st.text(max_size=30).map(lambda text: f"{HUB}/{text}"))
def test_it_never_asks_a_node_for_anything_odd(written):
    try:
        source, quantization = parse_source(written)
    except ValidationError:
        return
    assert DownloadForm.base_fields["source"].max_length >= len(source)
    assert source.count("/") in {1, 4} and ".." not in source.split("/") and " " not in source + quantization


def test_a_quantization_makes_an_address_of_a_name(rig):
    form = DownloadForm({"node": "rig", "source": "acme/otter", "quantization": "Q8_0"})
    assert form.is_valid() and form.cleaned_data["source"] == f"{HUB}/acme/otter"
    twice = DownloadForm({"node": "rig", "source": "acme/otter@Q4_0", "quantization": "Q8_0"})
    assert "quantization" in twice.errors


# The page


def test_it_starts_a_download_and_shows_it(alices, rig):
    answer = alices.post(START, {"node": "rig", "source": "acme/otter@Q4_K_M", "size_bytes": 5 * GIB}, follow=True)
    row = Download.objects.get()
    assert (row.source, row.quantization, row.total_bytes) == (f"{HUB}/acme/otter", "Q4_K_M", 5 * GIB)
    assert row.user.username == "alice"
    html = answer.content.decode()
    assert "acme/otter for rig is asked for." in html and "free on the node’s disk is unknown" in html
    assert "Waits for its turn" in html and "5.0 GiB" in html


@pytest.mark.parametrize(
    ("data", "words"),
    [({"source": "acme/otter"}, "required"), ({"node": "rig"}, "required"),
     ({"node": "x", "source": "a/b"}, "LM Studio"),
     ({"node": "cloud", "source": "a/b"}, "cannot download"), ({"node": "rig", "source": HOSTILE}, "Write owner/name"),
     ({"node": "rig", "source": "a/b", "quantization": "a b"}, "one word"),
     ({"node": "rig", "source": "a/b", "size_bytes": 10**30}, "less than")],
)  # fmt: skip
def test_it_says_what_is_wrong_with_a_wish(alices, rig, data, words):
    Node.objects.create(name="cloud", base_url="http://127.0.0.1:8", kind="openai")
    answer = alices.post(START, data)
    assert answer.status_code == 422
    assert words in answer.content.decode() and HOSTILE not in answer.content.decode()
    assert not Download.objects.exists()


def test_it_shows_how_far_each_is(alices, rig):
    going(rig)
    html = alices.get(LIST).content.decode()
    for part in ("25 %", "1.0 GiB of 4.0 GiB", "50 MiB per second", "in 1 min", 'value="0.250"', "data-until",
                 "cancel it in LM Studio"):  # fmt: skip
        assert part in html, part
    assert "Retry" not in html


@pytest.mark.parametrize(
    ("row", "node", "words"),
    [({"moved_seconds_ago": 75}, {}, "No byte has come for 1 min"),
     ({}, {"state": "offline"}, "The node does not answer. Its download may go on there"),
     ({"state": State.PAUSED}, {}, "Paused in LM Studio"),
     ({"state": State.ASKED, "total_bytes": None, "downloaded_bytes": None}, {}, "The node is being told"),
     ({"total_bytes": None}, {}, "unknown size"), ({"caution": "It needs more."}, {}, "It needs more."),
     ({"problem": "It does not say."}, {}, "It does not say."),
     ({"state": State.WAITING}, {"state": "offline"}, "Waits until the node answers"),
     ({"state": State.WAITING}, {"is_enabled": False}, "the node is switched off"),
     ({"state": State.FAILED, "problem": "The disk is full."}, {}, "The disk is full.")],
)  # fmt: skip
def test_it_says_what_is_the_matter(alices, rig, row, node, words):
    Node.objects.update(**node)
    going(rig, **row)
    html = alices.get(LIST).content.decode()
    assert words in html
    assert "None" not in html


def test_it_takes_back_tries_again_and_forgets(alices, rig):
    row = made(rig)
    html = alices.get(LIST).content.decode()
    assert f"/models/downloads/{row.pk}/cancellation/" in html
    for verb, state in (("cancellation", State.CANCELLED), ("retry", State.WAITING), ("cancellation", State.CANCELLED)):
        alices.post(f"{LIST}{row.pk}/{verb}/")
        assert Download.objects.get().state == state
    alices.post(f"{LIST}{row.pk}/removal/")
    assert not Download.objects.exists()
    assert "No downloads yet" in alices.get(LIST).content.decode()


def test_it_says_what_cannot_be_taken_back(alices, rig):
    row = going(rig)
    for verb, words in (("cancellation", "Stop it in LM Studio"), ("retry", "under way already"), ("removal", "stays")):
        assert words in alices.post(f"{LIST}{row.pk}/{verb}/", follow=True).content.decode()
    assert Download.objects.get().state == State.DOWNLOADING


def test_bob_sees_downloads_and_changes_nothing(client, bob, rig):
    client.force_login(bob)
    row = going(rig, problem=HOSTILE)
    Node.objects.update(name=HOSTILE)
    html = client.get(LIST).content.decode()
    assert "25 %" in html and START not in html and "cancel it" not in html
    assert HOSTILE not in html
    for path in (START, *(f"{LIST}{row.pk}/{verb}/" for verb in ("cancellation", "retry", "removal"))):
        assert client.post(path, {"node": "rig", "source": "a/b"}).status_code == 403
    assert Download.objects.get().state == State.DOWNLOADING


def test_charlie_is_sent_to_sign_in(client, rig):
    assert client.get(LIST).status_code == client.post(START).status_code == 302


def test_a_long_list_costs_no_more_questions(alices, rig, django_assert_max_num_queries):
    for number in range(40):
        going(rig, f"acme/{number}")
        made(rig, f"acme/{number}", state=State.FAILED, finished_at=timezone.now())
    with django_assert_max_num_queries(12):
        html = alices.get(LIST).content.decode()
    assert html.count('class="card card-tall"') == 40 + 30


# For scripts


@pytest.fixture
def ask(client):
    def send(method: str, path: str, user, *scopes, **body):
        _, secret = ApiToken.issue(user, "script", list(scopes))
        headers = {"Authorization": f"Bearer {secret}"}
        return getattr(client, method)(f"/api/v1/{path}", body or None, "application/json", headers=headers)

    return send


def test_a_script_starts_follows_and_cancels(ask, alice, rig):
    answer = ask("post", "downloads", alice, "operate", node="rig", source="acme/otter@Q4_0")
    assert answer.status_code == 201
    told = answer.json()
    assert (told["state"], told["node"], told["source"], told["quantization"], told["downloaded_bytes"]) == (
        "waiting", "rig", f"{HUB}/acme/otter", "Q4_0", None)  # fmt: skip
    path = f"downloads/{told['id']}"
    assert ask("post", f"{path}/cancel", alice, "operate").json()["state"] == "cancelled"
    assert Download.objects.get().state == State.CANCELLED


def get(client, path, user, *scopes):
    _, secret = ApiToken.issue(user, "script", list(scopes))
    return client.get(f"/api/v1/{path}", headers={"Authorization": f"Bearer {secret}"})


def test_a_script_sees_the_list_and_one(client, bob, rig):
    row = going(rig)
    made(rig, "acme/heron", state=State.FAILED, problem="It said no.")
    told = get(client, "downloads?state=failed", bob, "read").json()["downloads"]
    assert [(one["source"], one["problem"]) for one in told] == [("acme/heron", "It said no.")]
    assert get(client, f"downloads/{row.pk}", bob, "read").json()["downloaded_bytes"] == GIB
    assert get(client, "downloads?state=lost", bob, "read").status_code == 422
    assert get(client, "downloads/999", bob, "read").status_code == 404


def test_a_script_may_only_what_its_token_and_its_user_may(ask, alice, bob, rig):
    wish = {"node": "rig", "source": "acme/otter"}
    assert ask("post", "downloads", alice, "read", "write", **wish).status_code == 403
    assert ask("post", "downloads", bob, "operate", **wish).status_code == 403
    row = made(rig)
    assert ask("post", f"downloads/{row.pk}/cancel", bob, "operate").status_code == 403
    assert Download.objects.get().state == State.WAITING


def test_a_script_is_told_the_field_that_is_wrong(ask, alice, rig):
    answer = ask("post", "downloads", alice, "operate", node="rig", source=["x"])
    assert answer.status_code == 422
    assert answer.json()["error"]["fields"][0]["field"] == "source"
    row = going(rig)
    assert ask("post", f"downloads/{row.pk}/cancel", alice, "operate").status_code == 409


# Live


def play(scene) -> None:
    attention._attention = None
    with own_tail():
        asyncio.run(scene())


@pytest.mark.django_db(transaction=True)
def test_the_list_is_live(alice, rig):
    row, other = going(rig), made(rig, "acme/heron")

    async def scene():
        async with browser("/ws/downloads/", alice) as page:
            assert 'id="downloads"' in await page.hears()
            assert await in_thread(lambda: Node.objects.get().watched_until)() > timezone.now()
            await in_thread(downloads.keep)(row, Told("job_1", "downloading", downloaded_bytes=3 * GIB))
            one = await page.hears()
            assert "75 %" in one and f'id="{row.dom_id}"' in one and "heron" not in one
            await in_thread(other.cancel)()
            assert "cancelled" in await page.hears_until('id="downloads"')
            await in_thread(lambda: Node.objects.get().lost(DaemonError(Reason.UNREACHABLE)))()
            assert "does not answer" in await page.hears()

    play(scene)


@pytest.mark.django_db(transaction=True)
def test_the_list_is_not_for_charlie(rig):
    async def scene():
        assert await Browser("/ws/downloads/").refused() == (4401, "")

    play(scene)


# In a terminal


def run(*arguments) -> str:
    out = io.StringIO()
    call_command("download", *arguments, stdout=out)
    return out.getvalue()


def test_it_asks_from_a_terminal(rig):
    assert "asked for" in run("acme/otter", "--quantization", "Q4_0")
    assert Download.objects.get().source == f"{HUB}/acme/otter"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("otter",), "Write owner/name"), (("a/b", "--node", "x"), "no such node"),
     (("a/b", "--quantization", "?"), "one word")],
)  # fmt: skip
def test_it_says_in_a_terminal_what_is_wrong(rig, arguments, words):
    with pytest.raises(CommandError, match=words):
        run(*arguments)
    assert not Download.objects.exists()


def test_it_asks_in_a_terminal_which_node(rig):
    Node.objects.create(name="attic", base_url="http://127.0.0.1:8")
    with pytest.raises(CommandError, match="These can download: attic, rig"):
        run("a/b")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("end", ["completed", "failed"])
def test_it_waits_in_a_terminal_without_a_worker(rig, monkeypatch, end):
    monkeypatch.setattr(command, "STEP_SECONDS", 0.05)
    monkeypatch.setattr("forge.downloads.downloader.UNWATCHED_SECONDS", 0.1)
    with DownloadingNode() as there:
        words = command.in_words

        def said(row):
            if row.is_at_the_node:  # it is not over before that was told
                there.status = job(end)
            return words(row)

        monkeypatch.setattr(command, "in_words", said)
        there.status = job()
        Node.objects.update(base_url=there.url, state="unknown")
        if end == "completed":
            told = run("acme/otter", "--wait")
            assert "downloading: how far is unknown of 4.0 GiB" in told and "rig has acme/otter." in told
        else:
            with pytest.raises(CommandError, match="does not say why"):
                run("acme/otter", "--wait")
