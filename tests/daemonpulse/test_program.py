"""Texts name commands as this person can type them."""

import sys
from pathlib import Path

import pytest

from daemonpulse import cli, paths, program
from daemonpulse.help import GROUPS, text

CHECKOUT = Path(program.__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    for name in (program.VARIABLE, paths.ENVIRONMENT_VARIABLE, paths.ROLE_VARIABLE):
        monkeypatch.setenv(name, "")  # what a command sets itself is then taken back
        monkeypatch.delenv(name)


def called(monkeypatch, argv0, on_path=None):
    monkeypatch.setattr(sys, "argv", [str(argv0)])
    monkeypatch.setattr(program.shutil, "which", lambda name: on_path and str(on_path))


def test_it_is_called_as_it_was_typed(monkeypatch):
    called(monkeypatch, ".venv/bin/daemonpulse")
    assert program.line("sign-in-link") == ".venv/bin/daemonpulse sign-in-link"


def test_it_is_called_by_its_name_where_the_shell_finds_it(monkeypatch, tmp_path):
    (script := tmp_path / "daemonpulse").touch()
    called(monkeypatch, script, on_path=script)
    assert program.line("up", "--tls") == "daemonpulse up --tls"


def test_another_program_of_the_name_is_not_ours(monkeypatch, tmp_path):
    (tmp_path / "a").mkdir()
    for script in (ours := tmp_path / "daemonpulse", other := tmp_path / "a" / "daemonpulse"):
        script.touch()
    called(monkeypatch, ours, on_path=other)
    assert program.name() == str(ours)


def test_it_is_found_beside_python_else_named_as_a_module(monkeypatch, tmp_path):
    called(monkeypatch, CHECKOUT / "manage.py")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "my python" / "python"))
    assert program.name() == f"'{tmp_path}/my python/python' -m daemonpulse"
    (tmp_path / "my python").mkdir()
    (tmp_path / "my python" / "daemonpulse").touch()
    assert program.name() == f"'{tmp_path}/my python/daemonpulse'"


def test_it_names_the_data_folder_where_the_command_would_take_another_one(monkeypatch, tmp_path):
    called(monkeypatch, ".venv/bin/daemonpulse")
    monkeypatch.setenv(paths.ENVIRONMENT_VARIABLE, str(tmp_path / "my data"))
    assert program.line("up", "--tls") == f".venv/bin/daemonpulse up --tls --data-dir '{tmp_path}/my data'"
    monkeypatch.setenv(paths.ENVIRONMENT_VARIABLE, str(tmp_path / "daemonpulse-client"))
    assert program.line("join") == ".venv/bin/daemonpulse join"
    assert "--data-dir" in program.line("sign-in-link")


def test_what_it_starts_elsewhere_knows_it_too(monkeypatch):
    monkeypatch.chdir(CHECKOUT)
    called(monkeypatch, ".venv/bin/daemonpulse")
    assert program.hand_on() == {program.VARIABLE: str(CHECKOUT / ".venv/bin/daemonpulse")}
    monkeypatch.setenv(program.VARIABLE, "daemonpulse")
    assert program.hand_on() == {program.VARIABLE: "daemonpulse"}


def test_pages_tell_strangers_no_folder_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv(program.VARIABLE, str(CHECKOUT / ".venv/bin/daemonpulse"))
    assert program.line_on_pages("sign-in-link") == ".venv/bin/daemonpulse sign-in-link"
    monkeypatch.setenv(paths.ENVIRONMENT_VARIABLE, str(tmp_path / "secret place"))
    monkeypatch.setenv(program.VARIABLE, str(tmp_path / "daemonpulse"))
    assert program.line_on_pages("sign-in-link") == "daemonpulse sign-in-link --data-dir …"


# Help


def commands() -> set[str]:
    from django.apps import apps
    from django.core.management import find_commands

    ours = [config.path for config in apps.get_app_configs() if Path(config.path).is_relative_to(CHECKOUT)]
    ours = [path for path in ours if ".venv" not in Path(path).parts]
    found = {name for path in ours for name in find_commands(str(Path(path) / "management"))}
    return {name.replace("_", "-") for name in found} | set(cli.LIGHT)


def test_help_lists_our_own_commands_and_no_others():
    listed = [name for group in GROUPS.values() for name in group]
    assert sorted(listed) == sorted(commands() - {"prepare", "web", "courier"})  # those are started by up and client
    assert all(line in text() for line in ("client", "sign-in-link", "help COMMAND", "help --all"))
    assert max(map(len, text().splitlines())) <= 100


@pytest.mark.parametrize("arguments", [[], ["help"], ["--help"], ["-h"]])
def test_every_way_to_ask_for_help_gives_it(capsys, arguments):
    assert cli.main(arguments) == 0
    told = capsys.readouterr().out
    assert "\n  pair-device " in told
    assert "migrate" not in told


def test_help_for_one_command_is_that_commands(capsys):
    with pytest.raises(SystemExit):
        cli.main(["help", "client"])
    assert "usage: daemonpulse client" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["help", "sign-in-link"])  # also before there is a database
    assert "signs a user in once" in capsys.readouterr().out
