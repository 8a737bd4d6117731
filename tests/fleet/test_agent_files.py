"""What an agent keeps and prints: its key, its certificate, its two logs, its units, its command line."""

import json
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.agent import journal, keys, tls, units
from fleet.agent.cli import main
from fleet.agent.journal import Entry, Journal, RotatingFile
from fleet.agent.keys import AgentKey
from tests.fleet.simulator_fixture import ROOT

PIN = "ab" * 32


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return tmp_path / "daemonpulse-agent"


@pytest.mark.parametrize("fingerprint", ["", PIN])
def test_it_reads_the_key_that_it_writes(fingerprint):
    key = AgentKey.make().with_fingerprint(fingerprint)
    assert key.to_text().startswith("dpa1.")
    assert AgentKey.parse(f"  {key.to_text()[:30]}\n{key.to_text()[30:]} ") == key  # as a terminal wraps it


def test_it_shows_no_secret_of_a_key():
    key = AgentKey.make()
    shown = f"{key} {key!r} {key}"
    assert key.token not in shown
    assert str(key.signing_key) not in shown


@settings(max_examples=100)
@given(st.text(max_size=120) | st.text("dpa1._-AZ=", max_size=150).map("dpa1.{}".format))
def test_it_says_what_a_key_looks_like(text):
    with pytest.raises(ValueError, match="agent key"):
        AgentKey.parse(text)


def test_it_makes_a_key_once_for_this_user_alone(tmp_path):
    first = keys.read_or_make(tmp_path / "new")
    assert keys.read_or_make(tmp_path / "new") == first
    assert (tmp_path / "new" / "agent.key").stat().st_mode & 0o777 == 0o600
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["agent.key"]


def test_it_does_not_replace_a_key_file_that_it_cannot_read(tmp_path):
    (tmp_path / "agent.key").write_text("something else")
    with pytest.raises(ValueError, match="holds no agent's key"):
        keys.read_or_make(tmp_path)
    assert (tmp_path / "agent.key").read_text() == "something else"


def test_it_makes_a_certificate_once(tmp_path):
    made = tls.own(tmp_path, "192.0.2.7")
    assert tls.own(tmp_path) == made
    assert made.key.stat().st_mode & 0o777 == 0o600
    assert tls.options(made).getContext() is not None


def test_it_says_when_certificate_and_key_are_no_pair(tmp_path):
    one, other = tls.own(tmp_path / "one"), tls.own(tmp_path / "other")
    (tmp_path / "locked.key").write_bytes(_with_password(one.key))
    locked = tls.Certificate(one.certificate, tmp_path / "locked.key")
    for bad in (locked, tls.Certificate(one.certificate, other.key), tls.Certificate(one.key, one.certificate)):
        with pytest.raises(ValueError, match="no certificate and its key"):
            tls.options(bad)


def _with_password(key):
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    sealed = serialization.BestAvailableEncryption(b"word")
    return loaded.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, sealed)


def test_it_writes_a_line_for_people_and_a_sealed_record(tmp_path):
    key = AgentKey.make()
    log = Journal(tmp_path, key)
    log.keep("begun", "10.0.0.5", envelope={"parameters": {"model": "secret-otter"}})
    log.tell(Entry("run-7", "load", "10.0.0.5", "done", 1.5))
    (line,) = journal.read_summary(tmp_path)
    assert line.split("  ")[1:] == ["run-7", "load", "1.50s", "10.0.0.5", "done"]
    assert b"otter" not in b"".join(file.read_bytes() for file in tmp_path.iterdir())
    (record,) = journal.read_payloads(tmp_path, key)
    assert record["envelope"]["parameters"] == {"model": "secret-otter"}
    assert list(journal.read_payloads(tmp_path, AgentKey.make())) == [{"unreadable": True}]
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}


def test_it_lets_nobody_write_lines_of_their_own(tmp_path):
    Journal(tmp_path, AgentKey.make()).tell(Entry("x\n2026 forged", ["load"], "p", "refused: a\nb \x1b[31m", 0))
    (line,) = journal.read_summary(tmp_path)
    assert line.split("  ")[1:3] == ["-", "-"]
    assert "forged" not in line


def test_it_bounds_a_record_and_rotates(tmp_path):
    key = AgentKey.make()
    log = Journal(tmp_path, key, max_bytes=600_000)
    for number in range(8):
        log.keep("refused", "p", number=number, envelope="x" * 1_000_000)
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["payloads.log", "payloads.log.1", "payloads.log.2", "payloads.log.3"]
    assert all(file.stat().st_size <= 600_000 for file in tmp_path.iterdir())
    kept = [json.loads(record["cut_off"] + '"}')["number"] for record in journal.read_payloads(tmp_path, key)]
    assert kept == [4, 5, 6, 7]


def test_it_keeps_the_order_of_lines_over_rotated_files(tmp_path):
    file = RotatingFile(tmp_path / "summary.log", 30)
    for number in range(12):
        file.write(f"line {number:04}")
    assert list(journal.read_summary(tmp_path)) == [
        f"line {number:04}" for number in range(12 - len(file.all()) * 3, 12)
    ]


def test_it_prints_units_as_lmstudio_documents_them():
    unit = units.llmster_unit(user="ada", home="/home/ada", lms="/home/ada/.lmstudio/bin/lms", model="acme/otter-8b")
    lines = unit.splitlines()
    for line in (
        "Type=oneshot", "RemainAfterExit=yes", "User=ada", "Environment=HOME=/home/ada",
        "ExecStartPre=/home/ada/.lmstudio/bin/lms daemon up",
        "ExecStartPre=/home/ada/.lmstudio/bin/lms load acme/otter-8b --yes",
        "ExecStart=/home/ada/.lmstudio/bin/lms server start --port 1234 --bind 127.0.0.1",
        "ExecStop=/home/ada/.lmstudio/bin/lms daemon down", "WantedBy=multi-user.target",
    ):  # fmt: skip
        assert line in lines


def test_it_quotes_what_systemd_would_read_otherwise():
    unit = units.agent_unit(user="ada", home="/home/a b", command=["/opt/my python", "50%", "$HOME", 'a"b\\'])
    assert 'ExecStart="/opt/my python" 50%% $$HOME "a\\"b\\\\"' in unit
    assert 'Environment="HOME=/home/a b"' in unit
    assert "KillMode=process" in unit  # the daemon that the agent started outlives it


@pytest.mark.parametrize(
    "bad", [{"user": "a b"}, {"home": "/x\nExecStart=/bin/sh"}, {"model": "--help"}, {"lms": "a\n"}]
)
def test_it_refuses_what_cannot_stand_in_a_unit(bad):
    with pytest.raises(ValueError, match=r"no user|cannot stand|no model"):
        units.llmster_unit(**{"user": "ada", "home": "/home/ada", "lms": "/lms", **bad})


def test_it_prints_both_units_and_writes_nothing(folder, capsys):
    arguments = ["install", "--user", "ada", "--home", "/home/ada", "--host", "192.0.2.7", "--tls", "--port", "9000"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "/etc/systemd/system/daemonpulse-agent.service" in printed
    assert f"ExecStart={sys.executable} -m fleet.agent serve --host 192.0.2.7 --port 9000 --tls" in printed
    assert "ExecStartPre=/home/ada/.lmstudio/bin/lms daemon up" in printed
    assert not folder.exists()


def test_a_unit_starts_the_server_where_it_was_or_where_it_is_told_to(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = tmp_path / ".lmstudio" / ".internal" / "http-server-config.json"
    config.parent.mkdir(parents=True)
    config.write_text('{"port": 4321, "networkInterface": "0.0.0.0"}')
    assert main(["install"]) == main(["install", "--lmstudio-bind", "192.0.2.7"]) == 0
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("ExecStart=")]
    assert printed[1].endswith("server start --port 4321 --bind 0.0.0.0")
    assert "--lmstudio-bind" not in printed[0]
    assert printed[2].endswith("--lmstudio-bind 192.0.2.7")
    assert printed[3].endswith("server start --port 4321 --bind 192.0.2.7")


def test_it_prints_the_same_key_each_time(folder, capsys):
    main(["key"])
    main(["key", "--tls"])
    first, second = map(AgentKey.parse, capsys.readouterr().out.split())
    assert (first.token, first.signing_key) == (second.token, second.signing_key)
    assert second.fingerprint == tls.own(folder).fingerprint


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["--host", "0.0.0.0"], "Add --tls, or --insecure-lan"),
        (["--cert", "x.pem"], "both --cert and --key"),
        (["--cert", "/nowhere/x.pem", "--key", "/nowhere/y.pem"], "cannot be read"),
        (["--port", "70000"], "no port"),
        (["install", "--host", "192.0.2.7"], "Add --tls"),
        (["--lmstudio-bind", "everywhere"], "no address. Give one such as 0.0.0.0"),
        (["install", "--user", "a b"], "no user's name"),
        (["log", "--full"], "no agent's key"),
    ],
)
def test_it_says_what_to_do_instead_of_starting(folder, capsys, arguments, advice):
    assert main(arguments) == 2
    assert advice in capsys.readouterr().err


def test_it_prints_both_logs(folder, capsys):
    log = Journal(folder, keys.read_or_make(folder))
    log.keep("begun", "p", id="run-7")
    log.tell(Entry("run-7", "status", "p", "done", 0))
    assert main(["log"]) == main(["log", "--full"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "run-7  status" in printed[0]
    assert json.loads(printed[1])["stage"] == "begun"


def test_it_needs_no_django():
    code = "import sys, daemonpulse.lan, fleet.agent.client, fleet.agent.server, fleet.agent.serving, fleet.agent.cli"
    check = f"{code}; sys.exit(any(name.startswith('django') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=False).returncode == 0
