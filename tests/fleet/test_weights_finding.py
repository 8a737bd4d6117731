"""From a model's key to its file, and to what the file says: METADATA from end to end, on a fake LM Studio."""

import json
from pathlib import Path

import pytest

from fleet.lms.actions import CHANGING, Action, execute
from fleet.lms.errors import LmsError, Problem
from fleet.lms.home import Folder
from fleet.lms.manager import LMStudioManager
from fleet.weights.downloads import file_of, row_of
from fleet.weights.finding import find, models_folder
from tests.fleet.fake_lms_fixture import FakeLMStudio
from tests.fleet.sparse_gguf import sparse_model

KEY = "acme/otter-8b"


@pytest.fixture
def folder(tmp_path):
    """A models folder; `file(folder, path, size)` adds to it."""
    return tmp_path / "models"


def file(folder: Path, path: str, size: int = 1) -> Path:
    place = folder / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"x" * size)
    return place


def test_it_takes_the_file_that_lm_studio_names(folder):
    wanted = file(folder, "acme/otter/otter-Q4.gguf", 5)
    file(folder, "acme/otter/otter-Q8.gguf", 9)
    assert find(folder, ["acme/otter/otter-Q4.gguf"], None) == wanted
    assert find(folder, ["acme\\otter\\otter-Q4.gguf"], 9) == wanted
    assert find(folder, ["acme/gone.gguf", "acme/otter/otter-Q4.gguf"], None) == wanted


def test_it_takes_the_only_model_of_a_folder_or_that_of_the_right_size(folder):
    wanted = file(folder, "acme/otter/otter-Q4.gguf", 5)
    file(folder, "acme/otter/mmproj-otter-f16.gguf", 3)
    file(folder, "acme/otter/README.md", 5)
    assert find(folder, ["acme/otter"], None) == wanted
    other = file(folder, "acme/otter/otter-Q8.gguf", 9)
    assert find(folder, ["acme/otter"], None) is None
    assert find(folder, ["acme/otter"], 9) == other


def test_it_finds_a_model_by_its_size_alone(folder):
    file(folder, "acme/otter/otter-Q4.gguf", 5)
    wanted = file(folder, "acme/heron/heron-Q8.gguf", 9)
    assert find(folder, [KEY], 9) == wanted
    assert find(folder, [KEY], 8) is None
    assert find(folder, [KEY], None) is None
    file(folder, "acme/other/same-size.gguf", 9)
    assert find(folder, [KEY], 9) is None  # two of that size: it cannot be told


def test_the_size_may_count_the_projector(folder):
    wanted = file(folder, "acme/otter/otter-Q4.gguf", 5)
    file(folder, "acme/otter/mmproj-otter.gguf", 3)
    assert find(folder, [], 8) == wanted
    assert find(folder, [], 3) is None  # a projector is no model


def test_a_split_model_is_one_and_begins_with_its_first_part(folder):
    parts = [file(folder, f"acme/big/big-0000{n}-of-00003.gguf", n) for n in (1, 2, 3)]
    assert find(folder, ["acme/big"], None) == parts[0]
    assert find(folder, ["acme/big/big-00002-of-00003.gguf"], None) == parts[0]
    assert find(folder, [], 6) == parts[0]
    assert find(folder, [], 1) is None


@pytest.mark.parametrize(
    "path", ["../secret.gguf", "acme/../../secret.gguf", "..\\secret.gguf", "", ".", "/", "C:\\secret.gguf", "a\0.gguf"]
)
def test_it_never_leaves_the_folder(folder, path):
    file(folder.parent, "secret.gguf")
    folder.mkdir()
    assert find(folder, [path, str(folder.parent / "secret.gguf")], None) is None


def test_it_follows_links_that_people_made(folder, tmp_path):
    elsewhere = file(tmp_path / "big-disk", "otter.gguf", 5)
    (folder / "acme").mkdir(parents=True)
    (folder / "acme" / "otter").symlink_to(elsewhere.parent)
    assert find(folder, ["acme/otter/otter.gguf"], None) == folder / "acme/otter/otter.gguf"
    assert find(folder, [], 5) == folder / "acme/otter/otter.gguf"


def test_links_in_a_circle_end(folder):
    wanted = file(folder, "acme/otter/otter.gguf", 5)
    for number in range(3):
        (folder / "acme" / "otter" / f"again{number}").symlink_to(folder / "acme")
    assert find(folder, [], 5) == find(folder, ["acme/otter"], None) == wanted  # which is there many times now
    assert find(folder, [], 7) is None


def test_the_models_folder_is_where_the_settings_say(tmp_path):
    assert models_folder(tmp_path) == tmp_path / "models"
    for content, expected in [
        ({"downloadsFolder": "/big/models"}, Path("/big/models")), ({"downloadsFolder": ""}, tmp_path / "models"),
        ({"downloadsFolder": 7}, tmp_path / "models"), ([], tmp_path / "models"),
    ]:  # fmt: skip
        (tmp_path / "settings.json").write_text(json.dumps(content), encoding="utf-8-sig")
        assert models_folder(tmp_path) == expected
    (tmp_path / "settings.json").write_text("{")
    assert models_folder(tmp_path) == tmp_path / "models"


def row(**fields):
    return {"modelKey": KEY, "format": "gguf", "path": "acme/otter.gguf", "deviceIdentifier": None} | fields


def test_it_looks_up_models_of_this_machine_only():
    assert row_of([row(deviceIdentifier="d-2", path="there"), row()], KEY)["path"] == "acme/otter.gguf"
    assert row_of([row(deviceIdentifier="d-2")], KEY) == {}
    assert row_of([row(selectedVariant=f"{KEY}@q4_k_m")], f"{KEY}@q4_k_m")
    assert row_of([row(selectedVariant=f"{KEY}@q4_k_m")], f"{KEY}@q8_0") == {}
    assert row_of({"error": "?"}, KEY) == row_of([None, 7], KEY) == {}


def test_other_formats_tell_nothing(folder):
    with pytest.raises(LmsError, match="Only GGUF files tell how much memory a model takes, and acme/otter-8b is MLX"):
        file_of(folder, [row(format="safetensors")], KEY, 5)


@pytest.fixture
def studio(tmp_path):
    studio = FakeLMStudio(tmp_path, only_greets=True)
    yield studio
    studio.stop()


def manager_of(studio):
    return LMStudioManager(Folder.find(studio.home, environment={}))


def downloaded(studio, name: str) -> Path:
    place = manager_of(studio).folder.path / "models" / "acme" / "otter" / name
    place.parent.mkdir(parents=True, exist_ok=True)
    return sparse_model(place, layers=2)[0]


def test_an_agent_is_asked_by_key_and_tells_the_architecture(studio):
    downloaded(studio, "otter-Q4.gguf"), downloaded(studio, "otter-Q8.gguf")
    studio.configure(models=[{"modelKey": KEY, "path": "acme/otter/otter-Q4.gguf"}])
    manager = manager_of(studio)
    manager.daemon_up()
    told = execute(manager, Action.METADATA, {"model": KEY})
    assert told["format"] == "gguf"
    assert json.loads(json.dumps(told))["architecture"]["layers"] == 2
    assert Action.METADATA not in CHANGING
    studio.configure(models=[{"modelKey": KEY, "format": "safetensors"}])
    with pytest.raises(LmsError, match="is MLX"):
        execute(manager, Action.METADATA, {"model": KEY})


def test_a_daemon_that_sleeps_is_not_woken(studio):
    size = downloaded(studio, "otter-Q4.gguf").stat().st_size
    told = execute(manager_of(studio), Action.METADATA, {"model": KEY, "size_bytes": size})
    assert told["architecture"]["name"] == "llama"
    assert studio.state()["woken"] == 0


def test_it_works_without_the_command_line_and_says_what_is_missing(studio):
    path = downloaded(studio, "otter-Q4.gguf")
    studio.lms.unlink()
    manager = manager_of(studio)
    assert manager.metadata(KEY, path.stat().st_size)["architecture"]["layers"] == 2
    with pytest.raises(LmsError, match=f"The GGUF file of {KEY} was not found below .*models") as raised:
        manager.metadata(KEY)
    assert raised.value.problem is Problem.MODEL_NOT_FOUND
    path.write_bytes(b"GGUF" + b"\0" * 96)
    with pytest.raises(LmsError, match=r"otter-Q4\.gguf cannot be read") as raised:
        manager.metadata(KEY, 100)
    assert "Download the model again" in raised.value.advice
