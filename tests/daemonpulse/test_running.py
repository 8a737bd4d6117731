"""What runs notes its addresses, and every command that prints one tells that one."""

import contextlib
import io
import json
import socket
import subprocess
import sys

import pytest
from django.core.management import CommandError, call_command

from daemonpulse import certs, client, paths, running, supervisor
from daemonpulse.queue.management.commands.join import in_words
from daemonpulse.running import Running

SERVER = Running("http://127.0.0.1:8901", ("https://192.0.2.7:8902", "https://box.local:8902"), has_tls=True)
PLAIN = Running("http://127.0.0.1:8901")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DAEMONPULSE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("DAEMONPULSE_PROGRAM", "daemonpulse")
    return tmp_path


def said(*arguments) -> tuple[str, str]:
    out, doubt = io.StringIO(), io.StringIO()
    call_command(*arguments, stdout=out, stderr=doubt)
    return out.getvalue(), doubt.getvalue()


def supervised(folder, *argv, role=supervisor) -> supervisor.Supervisor:
    """One that starts nothing and is told to stop at once; `found` is what commands were told meanwhile."""

    class Idle(supervisor.Supervisor if role is supervisor else client.ClientSupervisor):
        def prepare(self):
            paths.make_client(folder) if role is client else None
            return {}

        def plan(self, prepared):
            self.is_told = True
            return []

        def stop_all(self):
            self.found = running.here()

    return Idle(role.parse(list(argv)))


def free() -> str:
    return str(supervisor.free_port())


def test_it_knows_where_it_runs_while_it_runs_and_no_longer(folder):
    with running.noted(SERVER, folder):
        assert running.here() == SERVER
    assert running.here() == Running("http://127.0.0.1:8642", is_running=False)
    assert not list(folder.glob("running.json*"))


def test_it_does_not_believe_a_process_that_was_killed(folder):
    code = (
        "import os, signal, pathlib, sys; from daemonpulse import running\n"
        "with running.noted(running.Running('http://127.0.0.1:1'), pathlib.Path(sys.argv[1])):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=False, cwd=supervisor.Path.cwd())

    assert (folder / running.FILE_NAME).exists()
    assert not running.here().is_running


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', '{"pid": 1, "url": "x", "others": null, "has_tls": 1}'])
def test_it_is_not_led_astray_by_a_broken_note(folder, text):
    (folder / running.FILE_NAME).write_text(text)
    assert running.here() == Running("http://127.0.0.1:8642", is_running=False)


def test_a_clients_port_is_another_one_where_nothing_runs(folder):
    paths.make_client(folder)

    assert running.here().url == "http://127.0.0.1:8653"
    assert "daemonpulse client" in running.here().doubt
    assert client.parse([]).port == running.CLIENT_PORT


def test_up_and_client_note_their_ports_and_take_the_note_back(folder, monkeypatch):
    monkeypatch.setattr(supervisor, "names_for_others", lambda: ["192.0.2.7", "box.local"])
    port, tls_port = free(), free()
    both = supervised(folder, "--port", port, "--tls", "--tls-port", tls_port)
    assert both.run() == 0
    others = (f"https://192.0.2.7:{tls_port}", f"https://box.local:{tls_port}")
    assert both.found == Running(f"http://127.0.0.1:{port}", others, has_tls=True)

    laptop = supervised(folder, "--port", port, role=client)
    assert laptop.run() == 0
    assert laptop.found == Running(f"http://127.0.0.1:{port}")
    assert not (folder / running.FILE_NAME).exists()


def test_it_notes_how_others_get_there_without_tls(folder, monkeypatch):
    monkeypatch.setattr(supervisor, "names_for_others", lambda: ["192.0.2.7"])
    open_to_all = supervised(folder, "--host", "0.0.0.0", "--insecure-lan", "--port", port := free())
    assert open_to_all.run() == 0
    assert open_to_all.found.others == (f"http://192.0.2.7:{port}",)


@pytest.mark.django_db
def test_the_sign_in_link_leads_to_what_runs(folder, alice):
    with running.noted(SERVER, folder):
        link, doubt = said("sign_in_link")
    assert link.startswith("http://127.0.0.1:8901/sign-in/")
    assert "https://192.0.2.7:8902" in doubt  # for another device

    link, doubt = said("sign_in_link")
    assert link.startswith("http://127.0.0.1:8642/sign-in/")
    assert f"Nothing runs on {folder} now" in doubt


@pytest.mark.django_db
def test_a_clients_sign_in_link_leads_to_the_client(folder, alice):
    paths.make_client(folder)
    assert said("sign_in_link")[0].startswith("http://127.0.0.1:8653/sign-in/")


@pytest.mark.django_db
def test_the_command_pairs_with_the_address_that_others_reach(folder, alice):
    certs.ensure()
    with running.noted(SERVER, folder):
        told, doubt = said("pair_device")
    assert "https://192.0.2.7:8902/m/#pair=" in told
    assert "--server https://192.0.2.7:8902 --pair" in told
    assert f"--fingerprint {certs.fingerprint()}" in told
    assert "Only this computer" not in told
    assert doubt == ""


@pytest.mark.django_db
def test_the_command_says_how_a_phone_would_get_there(folder, alice):
    with running.noted(PLAIN, folder):
        told, _ = said("pair_device")
    assert "Only this computer reaches http://127.0.0.1:8901" in told
    assert "daemonpulse up --tls" in told

    told, doubt = said("pair_device")
    assert "http://127.0.0.1:8642/m/" in told
    assert "Nothing runs on" in doubt


@pytest.mark.parametrize(
    ("running_now", "wording"),
    [
        (SERVER, "On each device, open https://192.0.2.7:8902/ca/"),
        (PLAIN, "DaemonPulse runs without TLS. Stop it, and start it with `daemonpulse up --tls"),
        (None, "Next: `daemonpulse up --tls"),
    ],
)
def test_certs_says_what_comes_next(folder, running_now, wording):
    if running_now is None:
        told, _ = said("certs")
    else:
        with running.noted(running_now, folder):
            told, _ = said("certs")
    assert wording in " ".join(told.split())
    assert ("Next: " in told) is (running_now is None)


@pytest.mark.django_db
def test_nothing_pairs_with_a_client(settings):
    settings.IS_CLIENT = True
    with pytest.raises(CommandError, match="devices pair with its server"):
        said("pair_device")


# Starting


def test_it_suggests_a_port_that_is_free():
    with contextlib.ExitStack() as held, pytest.raises(supervisor.CannotStart) as problem:
        port = held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
        with contextlib.suppress(OSError):  # somebody else holds it
            held.enter_context(socket.create_server(("127.0.0.1", port + 1)))
        supervisor.check_port("127.0.0.1", port, others={port + 2})
    suggested = int(str(problem.value).rstrip(".").split()[-1])
    assert suggested > port + 2
    assert is_free(suggested)


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_it_does_not_say_twice_what_was_wrong(capsys):
    """The process that prepares has the status 2 when it has said so itself."""
    code = "import sys; sys.exit(int(sys.argv[1]))"
    for status, is_told in (2, True), (1, False), (-9, False):
        with pytest.raises(supervisor.CannotStart) as problem:
            supervisor.prepared_by([sys.executable, "-c", code, str(status)])
        assert (str(problem.value) == "") is is_told

        class Fails(supervisor.Supervisor):
            def run(self, problem=problem):
                raise problem.value

        assert supervisor.started(Fails(None)) == 2
        assert (capsys.readouterr().err == "") is is_told
    assert supervisor.prepared_by([sys.executable, "-c", f"print(); print({json.dumps({'a': 1})!r})"]) == {"a": 1}


@pytest.mark.django_db
def test_joining_tells_a_person_in_words_and_the_client_in_json(settings):
    settings.IS_CLIENT = True
    assert json.loads(said("join")[0])["server"] is None

    terminal = io.StringIO()
    terminal.isatty = lambda: True
    call_command("join", stdout=terminal)
    assert "This client has no server yet" in terminal.getvalue()
    server = {"name": "box", "url": "http://192.0.2.7:8642"}
    assert in_words(server) == "Its server is box at http://192.0.2.7:8642."


@pytest.mark.django_db
def test_joining_says_itself_why_it_failed(settings):
    settings.IS_CLIENT = True
    for arguments in (["--pair", "K7QM-2XPA"], ["--pair", "K7QM-2XPA", "--server", "http://127.0.0.1:1"]):
        with pytest.raises(CommandError) as problem:
            said("join", *arguments)
        assert problem.value.returncode == supervisor.ALREADY_SAID
