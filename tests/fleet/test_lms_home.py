"""Where LM Studio is, on each platform; nothing is ever written."""

import json
import subprocess
import sys

import pytest

from fleet.lms.home import Folder
from tests.fleet.simulator_fixture import ROOT


def find(home, platform="linux", **environment):
    return Folder.find(home, platform, {"PATH": "", **environment})


def add_lms(folder, name="lms"):
    command = folder / "bin" / name
    command.parent.mkdir(parents=True)
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    return command


def files(home):
    return sorted(path.name for path in home.rglob("*"))


def test_it_follows_the_pointer_then_the_older_place_then_the_usual_one(tmp_path):
    assert find(tmp_path).path == tmp_path / ".lmstudio"
    (tmp_path / ".cache" / "lm-studio").mkdir(parents=True)
    assert find(tmp_path).path == tmp_path / ".cache" / "lm-studio"
    pointer = tmp_path / ".lmstudio-home-pointer"
    pointer.write_text(" /elsewhere/studio \n")
    assert str(find(tmp_path).path) == "/elsewhere/studio"
    pointer.write_text("  \n")
    assert find(tmp_path).path == tmp_path / ".cache" / "lm-studio"


def test_it_writes_nothing_while_it_looks(tmp_path):
    folder = find(tmp_path)
    assert not folder.is_installed
    assert (folder.base_url, folder.lms) == ("http://127.0.0.1:1234", None)
    assert files(tmp_path) == []


def test_it_takes_the_real_home_behind_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert find(tmp_path / "link").path == tmp_path / "real" / ".lmstudio"


@pytest.mark.parametrize(("platform", "name"), [("linux", "lms"), ("darwin", "lms"), ("win32", "lms.exe")])
def test_it_is_bootstrapped_when_the_platforms_command_is_there(tmp_path, platform, name):
    other = "lms" if name == "lms.exe" else "lms.exe"
    add_lms(tmp_path / ".lmstudio", other)
    folder = find(tmp_path, platform)
    assert folder.is_installed
    assert not folder.is_bootstrapped
    (tmp_path / ".lmstudio" / "bin" / other).rename(tmp_path / ".lmstudio" / "bin" / name)
    assert folder.is_bootstrapped
    assert folder.lms == tmp_path / ".lmstudio" / "bin" / name


def test_a_command_that_cannot_be_run_is_none(tmp_path):
    add_lms(tmp_path / ".lmstudio").chmod(0o644)
    assert not find(tmp_path).is_bootstrapped


def test_it_takes_the_command_on_the_path_when_the_folder_has_none(tmp_path):
    elsewhere = add_lms(tmp_path / "opt")
    folder = find(tmp_path / "home", PATH=str(elsewhere.parent))
    assert (folder.lms, folder.is_installed) == (elsewhere, True)
    own = add_lms(tmp_path / "home" / ".lmstudio")
    assert folder.lms == own


@pytest.mark.parametrize(
    ("platform", "place"),
    [("win32", "AppData/Local/Programs/LM Studio"), ("darwin", "Applications/LM Studio.app")],
)
def test_the_desktop_application_alone_is_installed_but_not_bootstrapped(tmp_path, platform, place):
    environment = {"LOCALAPPDATA": str(tmp_path / "AppData" / "Local")}
    assert not find(tmp_path, platform, **environment).is_installed
    (tmp_path / place).mkdir(parents=True)
    folder = find(tmp_path, platform, **environment)
    assert folder.is_installed
    assert not folder.is_bootstrapped
    assert not find(tmp_path, "linux", **environment).is_installed


@pytest.mark.parametrize(
    ("config", "url"),
    [({"port": 4321, "networkInterface": "0.0.0.0"}, "http://127.0.0.1:4321"),
     ({"port": 4321, "networkInterface": "::"}, "http://127.0.0.1:4321"),
     ({"port": 4321, "networkInterface": "fd00::1"}, "http://[fd00::1]:4321"),
     ({"port": 4321}, "http://127.0.0.1:4321"),
     ({"port": 70000}, "http://127.0.0.1:1234"), ({"port": 0}, "http://127.0.0.1:1234"),
     ([], "http://127.0.0.1:1234")],
)  # fmt: skip
def test_it_reads_where_the_server_was_last(tmp_path, config, url):
    internal = tmp_path / ".lmstudio" / ".internal"
    internal.mkdir(parents=True)
    (internal / "http-server-config.json").write_text(json.dumps(config))
    # The control interface's port is never the server's (contract §1.1).
    (internal / "http-server.json").write_text('{"port": 41343}')
    assert find(tmp_path).base_url == url


def test_the_whole_package_does_without_django():
    names = "actions chat cli manager preferences"
    code = f"import sys; [__import__('fleet.lms.' + name) for name in {names.split()}]; print('django' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert run.stdout == "False\n", run.stderr
