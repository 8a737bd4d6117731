"""Host manifests: what stands in them, where they go, and what installing leaves behind."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from fleet.native import cli
from fleet.native.installation import InstallError, Target, install, launcher, uninstall
from fleet.native.manifest import Browser, checked_name, manifest, where
from fleet.native.site import LINK_NAME, Site

CHROME_ID, OTHER_ID = "abcdefghijklmnopabcdefghijklmnop", "p" * 32
ADDON_ID, UUID_ID = "daemonpulse@example.org", "{0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0}"
HOME = Path("/home/alice")
USER = "Library/Application Support"


@pytest.mark.parametrize(
    ("browser", "platform", "folder"),
    [
        ("chrome", "linux", "/home/alice/.config/google-chrome/NativeMessagingHosts"),
        ("chromium", "linux", "/home/alice/.config/chromium/NativeMessagingHosts"),
        ("edge", "linux", "/home/alice/.config/microsoft-edge/NativeMessagingHosts"),
        ("firefox", "linux", "/home/alice/.mozilla/native-messaging-hosts"),
        ("chrome", "darwin", f"/home/alice/{USER}/Google/Chrome/NativeMessagingHosts"),
        ("chromium", "darwin", f"/home/alice/{USER}/Chromium/NativeMessagingHosts"),
        ("edge", "darwin", f"/home/alice/{USER}/Microsoft Edge/NativeMessagingHosts"),
        ("firefox", "darwin", f"/home/alice/{USER}/Mozilla/NativeMessagingHosts"),
    ],
)
def test_it_knows_where_each_browser_looks(browser, platform, folder):
    assert where(Browser(browser), platform, HOME).folder == Path(folder)


@pytest.mark.parametrize(
    ("browser", "key"),
    [
        ("chrome", r"Software\Google\Chrome\NativeMessagingHosts"),
        ("chromium", r"Software\Chromium\NativeMessagingHosts"),
        ("edge", r"Software\Microsoft\Edge\NativeMessagingHosts"),
        ("firefox", r"Software\Mozilla\NativeMessagingHosts"),
    ],
)
def test_it_knows_the_registry_key_of_each_browser(browser, key):
    place = where(Browser(browser), "win32", HOME)
    assert (place.folder, place.registry_key) == (None, key)


@pytest.mark.parametrize("browser", ["chrome", "chromium", "edge"])
def test_it_lets_chrome_extensions_in_by_origin(browser):
    assert manifest(Browser(browser), [CHROME_ID, OTHER_ID], "/data/native-host.sh") == {
        "name": "com.daemonpulse.host",
        "description": "DaemonPulse: the LM Studio of this machine",
        "path": "/data/native-host.sh",
        "type": "stdio",
        "allowed_origins": [f"chrome-extension://{CHROME_ID}/", f"chrome-extension://{OTHER_ID}/"],
    }


def test_it_lets_firefox_addons_in_by_id():
    content = manifest(Browser.FIREFOX, [ADDON_ID, UUID_ID], "/data/native-host.sh", "com.tabagent.host")
    assert content["allowed_extensions"] == [ADDON_ID, UUID_ID]
    assert content["name"] == "com.tabagent.host"
    assert "allowed_origins" not in content


@pytest.mark.parametrize(
    ("browser", "extension_id"),
    [
        ("chrome", "abc"),
        ("chrome", "q" * 32),
        ("chrome", "*"),
        ("edge", CHROME_ID + "a"),
        ("chromium", CHROME_ID + "\n"),
        ("chrome", ADDON_ID),
        ("firefox", CHROME_ID),
        ("firefox", "*"),
        ("firefox", "{not-a-uuid}"),
        ("firefox", "a b@example.org"),
    ],
)
def test_it_refuses_what_is_no_extension_id(browser, extension_id):
    with pytest.raises(ValueError, match=r"looks like|32 letters"):
        manifest(Browser(browser), [extension_id], "/data/native-host.sh")


@pytest.mark.parametrize(
    "name", ["", "Com.host", "com..host", ".com", "com.", "com/host", "../x", "com host", "a" * 201]
)
def test_it_refuses_what_is_no_host_name(name):
    with pytest.raises(ValueError, match="cannot be a host's name"):
        checked_name(name)


@pytest.fixture
def target(tmp_path):
    return Target(Browser.CHROME, tmp_path / "data dir's", platform="linux", home=tmp_path / "home")


def test_it_installs_a_manifest_and_a_launcher_that_only_its_user_may_run(target):
    written = install(target, [CHROME_ID])
    assert written == [target.launcher_path, target.manifest_path]
    assert target.manifest_path == target.home / ".config/google-chrome/NativeMessagingHosts/com.daemonpulse.host.json"
    assert target.manifest_path.stat().st_mode & 0o777 == 0o644
    assert target.launcher_path.stat().st_mode & 0o777 == 0o700
    assert json.loads(target.manifest_path.read_text())["path"] == str(target.launcher_path)


def test_it_keeps_the_extensions_that_were_let_in_before(target):
    install(target, [CHROME_ID])
    install(target, [OTHER_ID, CHROME_ID])
    origins = json.loads(target.manifest_path.read_text())["allowed_origins"]
    assert origins == [f"chrome-extension://{CHROME_ID}/", f"chrome-extension://{OTHER_ID}/"]


def test_it_removes_the_launcher_with_the_last_manifest(target):
    firefox = Target(Browser.FIREFOX, target.data_dir, platform="linux", home=target.home)
    install(target, [CHROME_ID])
    install(firefox, [ADDON_ID])
    (target.data_dir / LINK_NAME).write_text("{}")
    assert uninstall(target) == [target.manifest_path]
    assert target.launcher_path.exists()
    assert uninstall(firefox) == [firefox.manifest_path, target.launcher_path, target.data_dir / LINK_NAME]
    assert list(target.data_dir.iterdir()) == []
    assert uninstall(firefox) == []


def test_it_leaves_another_programs_manifest_alone_unless_told(target):
    target.manifest_path.parent.mkdir(parents=True)
    theirs = json.dumps(manifest(Browser.CHROME, [OTHER_ID], "/opt/other/host"))
    target.manifest_path.write_text(theirs)
    for attempt in (lambda: install(target, [CHROME_ID]), lambda: uninstall(target)):
        with pytest.raises(InstallError, match="/opt/other/host"):
            attempt()
    assert target.manifest_path.read_text() == theirs
    install(target, [CHROME_ID], replace=True)
    assert OTHER_ID not in target.manifest_path.read_text()


def test_it_refuses_a_manifest_that_it_cannot_read(target):
    target.manifest_path.parent.mkdir(parents=True)
    target.manifest_path.write_text("[1]")
    with pytest.raises(InstallError, match="--replace"):
        install(target, [CHROME_ID])


@pytest.fixture
def registry(monkeypatch):
    """Windows's registry, as far as it is used, in a dictionary."""
    values: dict[str, str] = {}

    class Key(str):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    def open_key(_, key):
        if key not in values:
            raise FileNotFoundError(key)
        return Key(key)

    def delete(_, key):
        open_key(_, key)
        del values[key]

    fake = SimpleNamespace(
        HKEY_CURRENT_USER=1,
        REG_SZ=1,
        CreateKey=lambda _, key: Key(key),
        SetValueEx=lambda key, name, _, kind, value: values.update({str(key): value}),
        OpenKey=open_key,
        QueryValueEx=lambda key, name: (values[key], 1),
        DeleteKey=delete,
    )
    monkeypatch.setitem(sys.modules, "winreg", fake)
    return values


def test_it_names_the_manifest_in_the_registry_of_windows(tmp_path, registry):
    target = Target(Browser.EDGE, tmp_path / "100% data", platform="win32", home=tmp_path)
    install(target, [CHROME_ID])
    key = r"Software\Microsoft\Edge\NativeMessagingHosts\com.daemonpulse.host"
    assert registry == {key: str(target.manifest_path)}
    content = json.loads(Path(registry[key]).read_text())
    assert content["path"].endswith("native-host.bat")
    script = launcher(target)
    assert f'set "DAEMONPULSE_DATA_DIR={tmp_path}/100%% data"\r\n'.encode() in script
    assert script.startswith(b"@echo off\r\n")
    uninstall(target)
    assert registry == {}
    assert not target.manifest_path.exists()


def test_it_leaves_a_registry_key_that_names_another_manifest(tmp_path, registry):
    target = Target(Browser.CHROME, tmp_path, platform="win32", home=tmp_path)
    install(target, [CHROME_ID])
    registry[target.registry_key] = "C:\\elsewhere.json"
    uninstall(target)
    assert registry == {target.registry_key: "C:\\elsewhere.json"}


@pytest.mark.parametrize(("browser", "platform"), [("firefox", "linux"), ("chrome", "win32")])
def test_it_knows_no_profile_root_where_there_is_none(tmp_path, browser, platform):
    target = Target(Browser(browser), tmp_path, platform=platform, home=tmp_path, user_data_dir=tmp_path)
    with pytest.raises(InstallError, match="--user-data-dir"):
        install(target, [ADDON_ID if browser == "firefox" else CHROME_ID])


def run(home: Path, command: str, *arguments: str, text: str = "") -> subprocess.CompletedProcess:
    """One of the commands, in a process of its own, as a user with this home."""
    code = f"import sys; from fleet.native import cli; sys.exit(cli.{command}(sys.argv[1:]))"
    argv = [sys.executable, "-c", code, *arguments]
    environment = os.environ | {"HOME": str(home)}
    return subprocess.run(argv, input=text, capture_output=True, text=True, env=environment, cwd="/", timeout=20)


def test_its_commands_say_what_they_wrote_and_removed(tmp_path):
    home, data_dir = tmp_path / "home", tmp_path / "data"
    options = ("--browser", "firefox", "--data-dir", str(data_dir))
    link = ("--url", "http://127.0.0.1:8642/", "--token", "-")
    done = run(home, "install", *options, "--extension-id", ADDON_ID, *link, text="dp_secret\n")
    assert done.returncode == 0, done.stderr
    path = home / ".mozilla/native-messaging-hosts/com.daemonpulse.host.json"
    for written in (path, data_dir / "native-host.sh", data_dir / LINK_NAME):
        assert f"wrote {written}" in done.stdout
    assert "dp_secret" not in done.stdout + done.stderr
    assert (data_dir / LINK_NAME).stat().st_mode & 0o777 == 0o600
    assert Site.linked(data_dir) == Site("http://127.0.0.1:8642", "dp_secret")
    assert json.loads(path.read_text())["allowed_extensions"] == [ADDON_ID]
    done = run(home, "uninstall", *options)
    assert f"removed {path}" in done.stdout
    assert list(data_dir.iterdir()) == []
    assert "Nothing to remove" in run(home, "uninstall", *options).stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--extension-id", "nonsense"], "32 letters"),
        (["--extension-id", CHROME_ID, "--name", "Bad Name"], "cannot be a host's name"),
        (["--extension-id", CHROME_ID, "--url", "http://127.0.0.1:8642"], "belong together"),
        (["--extension-id", CHROME_ID, "--url", "http://10.0.0.5:8642", "--token", "dp_x"], "https"),
        (["--extension-id", CHROME_ID, "--url", "nowhere", "--token", "dp_x"], "not the address"),
        (["--extension-id", CHROME_ID, "--url", "http://127.0.0.1", "--token", "two words"], "not one"),
    ],
)
def test_it_refuses_an_install_with_a_sentence(tmp_path, capsys, arguments, words):
    options = [
        "--browser",
        "chromium",
        "--data-dir",
        str(tmp_path / "data"),
        "--user-data-dir",
        str(tmp_path / "profile"),
    ]
    assert cli.install([*options, *arguments]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "profile").exists()
    assert not (tmp_path / "data").exists()
