"""The switch for serving without a window: merged into LM Studio's own files, with a copy of what was there."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.lms import preferences
from fleet.lms.errors import LmsError, Problem
from fleet.lms.home import Folder
from fleet.lms.manager import LMStudioManager

SETTINGS = {"downloadsFolder": "/models", "developer": {"jitModelTTL": {"enabled": True}}, "größe": 1.5, "last": None}


def files(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def read(path):
    return json.loads(path.read_text())


@pytest.fixture
def manager(tmp_path):
    (tmp_path / ".lmstudio").mkdir()
    return LMStudioManager(Folder.find(tmp_path, environment={}))


def test_it_sets_the_switch_of_both_generations_and_keeps_the_rest(manager, tmp_path):
    folder = tmp_path / ".lmstudio"
    old = json.dumps(SETTINGS)
    (folder / "settings.json").write_text(old)
    (folder / "settings.json").chmod(0o600)
    (folder / "preferences.json").write_text('{"developer": {"other": 1}}')
    assert manager.headless() is None
    result = manager.set_headless(True)
    assert read(folder / "settings.json") == SETTINGS | {"enableLocalService": True}
    assert read(folder / "preferences.json") == {"developer": {"other": 1, "enableLocalLLMService": True}}
    assert manager.headless() is True
    assert "restart" in result["note"]
    assert (folder / "settings.json").stat().st_mode & 0o777 == 0o600
    backup = next(folder.glob("settings.json.*.bak"))
    assert backup.read_text() == old
    assert str(backup) in result["backups"]
    assert len(files(folder)) == 4  # nothing half-written is left


def test_it_makes_the_files_where_there_are_none(manager, tmp_path):
    manager.set_headless(True)
    assert files(tmp_path / ".lmstudio").keys() == {"settings.json", "preferences.json"}
    assert manager.headless() is True


def test_what_is_set_already_is_not_written_again(manager, tmp_path):
    manager.set_headless(True)
    before = files(tmp_path / ".lmstudio")
    assert manager.set_headless(True)["changed"] == []
    assert files(tmp_path / ".lmstudio") == before


def test_it_can_be_switched_off_and_every_copy_is_kept(manager, tmp_path):
    for is_on in (True, False, True, False):
        manager.set_headless(is_on)
    assert manager.headless() is False
    assert len(list((tmp_path / ".lmstudio").glob("settings.json.*.bak"))) == 3


@pytest.mark.parametrize("broken", ["settings.json", "preferences.json"])
@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("text", ["{broken", "[]", "", "null", "\xff\xfe", "[" * 100_000])
def test_a_file_that_cannot_be_read_stops_it_before_anything_is_written(manager, tmp_path, broken, text):
    folder = tmp_path / ".lmstudio"
    for name in ("settings.json", "preferences.json"):
        (folder / name).write_bytes(text.encode("latin1") if name == broken else b"{}")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(LmsError, match=r"nothing was written") as caught:
        manager.set_headless(True)
    assert caught.value.problem is Problem.BAD_FILE
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert manager.headless() is None


def test_a_place_that_is_taken_by_something_else_stops_it_too(manager, tmp_path):
    (tmp_path / ".lmstudio" / "preferences.json").write_text('{"developer": "yes"}')
    with pytest.raises(LmsError, match='"developer"'):
        manager.set_headless(True)
    assert files(tmp_path / ".lmstudio").keys() == {"preferences.json"}


def test_a_linked_file_stays_a_link(manager, tmp_path):
    (tmp_path / "elsewhere.json").write_text("{}")
    link = tmp_path / ".lmstudio" / "settings.json"
    link.symlink_to(tmp_path / "elsewhere.json")
    manager.set_headless(True)
    assert link.is_symlink()
    assert read(tmp_path / "elsewhere.json") == {"enableLocalService": True}


def test_a_write_that_fails_leaves_the_old_file(manager, tmp_path, monkeypatch):
    path = tmp_path / ".lmstudio" / "settings.json"
    path.write_text('{"a": 1}')

    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(preferences.os, "fsync", full)
    with pytest.raises(LmsError, match="No space left on device"):
        manager.set_headless(True)
    assert path.read_text() == '{"a": 1}'
    assert not [name for name in files(path.parent) if name.startswith(".")]


def test_nothing_is_made_where_lm_studio_is_not_installed(tmp_path):
    with pytest.raises(LmsError) as caught:
        LMStudioManager(Folder.find(tmp_path, environment={})).set_headless(True)
    assert caught.value.problem is Problem.NOT_INSTALLED
    assert list(tmp_path.iterdir()) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(content=st.dictionaries(st.text(max_size=8) | st.just("developer"), JSON, max_size=4))
@settings(max_examples=40)
def test_whatever_else_stands_in_the_file_stays(content, tmp_path_factory):
    folder = tmp_path_factory.mktemp("studio")
    (folder / "settings.json").write_text(json.dumps(content))
    preferences.set_headless(folder, True)
    assert read(folder / "settings.json") == content | {"enableLocalService": True}
    assert preferences.headless(folder) is True
