"""The key: where it lies, and that nothing starts with a wrong one or none."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from django.db import connection

from daemonpulse import keys
from daemonpulse.keys import KeyProblem
from daemonpulse.models import KeyCheck

ROOT = Path(__file__).resolve().parents[2]


def daemonpulse(folder, *arguments, key=None):
    """One command in a process of its own, with the data in `folder`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DAEMONPULSE_")}
    if key is not None:
        environment[keys.ENVIRONMENT_VARIABLE] = key
    return subprocess.run(
        [sys.executable, "-m", "daemonpulse", "--data-dir", str(folder), *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data folder as `up` makes it on its first start."""
    folder = tmp_path_factory.mktemp("prepared")
    done = daemonpulse(folder, "prepare", "--simulator-port", "1")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def installation(prepared, tmp_path):
    return Path(shutil.copytree(prepared, tmp_path / "data"))


def content(folder):
    """What lies in the folder, without files that a mere look at the database leaves."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in {".sqlite3", ".key"}}


# The file


def test_it_makes_a_key_that_only_its_owner_can_read(prepared):
    assert mode(prepared / "secret.key") == 0o600
    assert len((prepared / "secret.key").read_text().strip()) >= 43
    assert not (prepared / "secret.key.draft").exists()


def test_it_writes_a_key_in_one_step_whatever_lay_there(tmp_path, monkeypatch):
    keys.write(tmp_path, "first")
    (tmp_path / "secret.key").chmod(0o644)
    (tmp_path / "secret.key.draft").write_text("left by a crash")
    keys.write(tmp_path, "second")
    assert keys.read(tmp_path) == "second"
    assert mode(tmp_path / "secret.key") == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["secret.key"]


def test_it_keeps_the_old_key_when_writing_fails(tmp_path, monkeypatch):
    keys.write(tmp_path, "first")

    def full(descriptor):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        keys.write(tmp_path, "second")
    assert keys.read(tmp_path) == "first"


def test_it_makes_a_key_once(tmp_path, monkeypatch):
    monkeypatch.delenv(keys.ENVIRONMENT_VARIABLE, raising=False)
    first = keys.read_or_create(tmp_path, has_database=False)
    assert keys.read_or_create(tmp_path, has_database=False) == first
    assert keys.read_or_create(tmp_path, has_database=True) == first
    assert keys.generate() != keys.generate()


def test_it_prefers_the_key_of_the_environment_and_writes_none(tmp_path, monkeypatch):
    monkeypatch.setenv(keys.ENVIRONMENT_VARIABLE, " from outside\n")
    assert keys.read_or_create(tmp_path, has_database=True) == "from outside"
    assert list(tmp_path.iterdir()) == []
    keys.write(tmp_path, "in the file")
    assert keys.read(tmp_path) == "from outside"


def test_it_says_that_a_key_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.delenv(keys.ENVIRONMENT_VARIABLE, raising=False)
    (tmp_path / "secret.key").mkdir()
    with pytest.raises(KeyProblem, match="cannot be read"):
        keys.read(tmp_path)


def test_it_makes_no_new_key_for_an_old_database(tmp_path, monkeypatch):
    monkeypatch.delenv(keys.ENVIRONMENT_VARIABLE, raising=False)
    with pytest.raises(KeyProblem, match=r"its key is missing.*secret\.key"):
        keys.read_or_create(tmp_path, has_database=True)
    (tmp_path / "secret.key").write_text("\n")
    with pytest.raises(KeyProblem):
        keys.read_or_create(tmp_path, has_database=True)


def test_it_derives_a_secret_for_each_purpose():
    assert len({keys.derive("k", "django"), keys.derive("k", "rows"), keys.derive("other", "rows"), "k"}) == 4
    assert keys.derive("k", "rows") == keys.derive("k", "rows")


# The check


@pytest.mark.django_db
def test_it_knows_its_own_database():
    KeyCheck.verify()
    KeyCheck.verify()
    assert KeyCheck.objects.count() == 1


@pytest.mark.django_db
def test_it_knows_a_database_that_is_not_its_own():
    KeyCheck.verify()
    with connection.cursor() as cursor:
        cursor.execute("UPDATE daemonpulse_keycheck SET content = %s", [b"written with another key" * 5])
    with pytest.raises(KeyProblem, match="does not fit this database"):
        KeyCheck.verify()


# Commands


def test_it_works_with_the_right_key(installation):
    done = daemonpulse(installation, "sign-in-link")
    assert done.returncode == 0
    assert "/sign-in/" in done.stdout


@pytest.mark.parametrize("command", [("sign-in-link",), ("queue-status",), ("up", "--port", "8399")])
def test_it_refuses_to_work_with_a_wrong_key(installation, command):
    keys.write(installation, keys.generate())
    before = content(installation)
    done = daemonpulse(installation, *command)
    assert done.returncode == 2
    assert "The key does not fit this database" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert content(installation) == before


def test_it_refuses_to_work_without_a_key(installation):
    (installation / "secret.key").unlink()
    done = daemonpulse(installation, "sign-in-link")
    assert done.returncode == 2
    assert "its key is missing" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (installation / "secret.key").exists()


def test_it_takes_the_key_of_the_environment(installation):
    key = keys.path(installation).read_text()
    keys.path(installation).unlink()
    assert daemonpulse(installation, "sign-in-link", key=key).returncode == 0
    assert not keys.path(installation).exists()


def test_it_says_that_a_new_folder_is_not_prepared(tmp_path):
    done = daemonpulse(tmp_path / "new", "sign-in-link")
    assert done.returncode == 2
    assert f"daemonpulse up --data-dir {tmp_path}/new` prepares it" in done.stderr


def test_it_finishes_a_rotation_that_was_cut_off_after_its_commit(installation):
    """The database has the new key already, the file still the old one."""
    new = keys.path(installation).read_text()
    keys.write(installation, keys.generate())
    keys.path(installation).with_name("secret.key.next").write_text(new)
    done = daemonpulse(installation, "rotate-key", "--finish")
    assert (done.returncode, done.stderr) == (0, "")
    assert keys.path(installation).read_text() == new
