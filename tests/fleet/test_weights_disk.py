"""The free bytes of the disk that the models lie on, as a reading of the machine tells them."""

import shutil
import threading
from types import SimpleNamespace

from fleet.telemetry import reader, system
from fleet.telemetry.nvml import Nvml
from fleet.telemetry.reader import MachineReader
from fleet.telemetry.readings import Machine
from tests.fleet.fake_nvml import Card, FakeNvml


def read(folder):
    return MachineReader(folder=folder, nvml=Nvml(FakeNvml(Card()))).read()


def test_it_tells_the_free_bytes_where_the_models_lie(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(system.shutil, "disk_usage", lambda place: asked.append(place) or SimpleNamespace(free=7))
    (tmp_path / "settings.json").write_text('{"downloadsFolder": "/big/models"}')
    machine = read(tmp_path)
    assert (machine.disk_free_bytes, [str(place) for place in asked]) == (7, ["/big/models"])
    assert Machine.from_json(machine.as_json()).disk_free_bytes == 7


def test_a_folder_that_is_not_there_yet_will_be_on_its_parents_disk(tmp_path):
    free, total = system.disk_free_bytes(tmp_path / "not" / "yet"), shutil.disk_usage(tmp_path).total
    assert 0 < free <= total


def test_it_does_not_know_without_a_folder_or_when_the_disk_says_no(tmp_path, monkeypatch):
    assert read(None).disk_free_bytes is None

    def refuse(_):
        raise PermissionError

    monkeypatch.setattr(system.shutil, "disk_usage", refuse)
    assert read(tmp_path).disk_free_bytes is None


def test_a_disk_that_hangs_keeps_nobody_waiting(tmp_path, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(reader, "disk_free_bytes", lambda _: release.wait(10))
    monkeypatch.setattr(reader, "DISK_SECONDS", 0.05)
    assert read(tmp_path).disk_free_bytes is None
    release.set()
