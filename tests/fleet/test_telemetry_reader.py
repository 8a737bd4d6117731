import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import psutil
import pynvml
import pytest

from fleet.telemetry import reader, system
from fleet.telemetry.nvml import DRIVER_NOTES, Nvml
from fleet.telemetry.patience import Patient
from fleet.telemetry.reader import MachineReader, SurveyedMachine
from fleet.telemetry.system import System
from tests.conftest import wait_for
from tests.fleet.fake_nvml import GIB, Card, FakeNvml
from tests.fleet.test_telemetry_readings import device, survey

NO_DRIVER = {"Init": pynvml.NVML_ERROR_LIBRARY_NOT_FOUND}


def machine_reader(*cards, survey=None, errors=None, **kwargs):
    return MachineReader(survey, nvml=Nvml(FakeNvml(*cards, errors=errors)), **kwargs)


def test_it_reads_the_machine():
    machine = machine_reader(Card()).read()
    assert abs(machine.at - time.time()) < 5
    assert (machine.driver_version, machine.cuda_version, machine.gpu_note) == ("580.95.05", "13.1", "")
    assert machine.gpus[0].memory_used_bytes == 30 * GIB
    assert machine.hostname and machine.system and machine.cpu_name
    assert machine.cpu_count == psutil.cpu_count()
    assert machine.ram_total_bytes == psutil.virtual_memory().total
    assert 0 < machine.ram_used_bytes < machine.ram_total_bytes


def test_it_does_not_ask_for_the_survey_where_nvml_knows_gpus():
    asked = []
    machine_reader(Card(), survey=lambda: asked.append(1)).read()
    assert asked == []


def test_it_takes_capacities_from_the_survey_where_nvml_knows_none():
    radeon = survey([device("AMD Radeon RX 7900 XTX", platform="ROCm")])
    machine = machine_reader(survey=lambda: radeon, errors=NO_DRIVER).read()
    assert [(gpu.name, gpu.source, gpu.memory_used_bytes) for gpu in machine.gpus] == [
        ("AMD Radeon RX 7900 XTX", "survey", None)
    ]
    assert machine.gpu_note == reader.FROM_SURVEY


def test_it_says_what_is_wrong_with_the_driver_where_the_survey_knows_an_nvidia_gpu():
    machine = machine_reader(survey=lambda: survey([device("NVIDIA T4")]), errors=NO_DRIVER).read()
    assert machine.gpu_note == f"{reader.FROM_SURVEY} {DRIVER_NOTES['LIBRARY_NOT_FOUND']}"


def test_it_says_why_there_are_no_gpus():
    assert machine_reader(errors=NO_DRIVER).read().gpu_note == DRIVER_NOTES["LIBRARY_NOT_FOUND"]
    machine = machine_reader(survey=lambda: survey([]), errors=NO_DRIVER).read()
    assert machine.gpus == () and machine.gpu_note.startswith(reader.NONE_IN_SURVEY)


def test_it_survives_a_survey_that_fails():
    def fail():
        raise OSError("no lms here")

    machine = machine_reader(survey=fail, errors=NO_DRIVER).read()
    assert machine.gpus == () and machine.gpu_note.startswith(reader.SURVEY_FAILED)


def test_it_asks_for_the_survey_as_soon_as_there_is_somebody_to_ask():
    found = []
    machines = machine_reader(survey=lambda: found[0] if found else None, errors=NO_DRIVER)
    for _ in range(2):
        machine = machines.read()
        assert (machine.gpus, machine.gpu_note) == ((), DRIVER_NOTES["LIBRARY_NOT_FOUND"])
    found.append(survey([device("AMD Radeon RX 7900 XTX", platform="ROCm")]))
    assert machines.read().gpu_note == reader.FROM_SURVEY


@pytest.mark.parametrize(("outcome", "rest"), [("good", 600), ("bad", 60)])
def test_it_takes_a_survey_at_most_every_ten_minutes_and_soon_again_after_a_failure(outcome, rest):
    now, asked = [0.0], []

    def take():
        asked.append(now[0])
        if outcome == "bad":
            raise OSError
        return survey([device()])

    surveyed = SurveyedMachine(take, clock=lambda: now[0])
    for now[0] in (0.0, 1.0, rest - 1.0, rest + 1.0):
        surveyed.read()
    wait_until(lambda: len(asked) == 2)  # renewed in the background
    assert asked == [0.0, rest + 1.0]


def test_it_keeps_the_last_good_survey():
    now, answers = [0.0], [survey([device()]), OSError()]

    def take():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    surveyed = SurveyedMachine(take, clock=lambda: now[0])
    surveyed.read()
    now[0] = 601.0
    surveyed.read()
    wait_until(lambda: not answers)
    gpus, ram, note = surveyed.read()
    assert ([gpu.name for gpu in gpus], ram, note) == (["Example RTX"], 64 * GIB, reader.FROM_SURVEY)


def test_it_does_not_lose_a_survey_that_comes_late(monkeypatch):
    monkeypatch.setattr(reader, "SURVEY_SECONDS", 0.05)
    comes, asked = threading.Event(), []

    def take():
        asked.append(1)
        comes.wait(60)
        return survey([device()])

    surveyed = SurveyedMachine(take)
    assert surveyed.read() == ((), None, reader.SURVEY_SLOW)
    comes.set()
    wait_until(lambda: surveyed.read()[0])
    assert asked == [1]


class HangingLibrary(FakeNvml):
    """Hangs in the driver from when `hangs` is cleared, until it is set."""

    def __init__(self, *cards):
        super().__init__(*cards)
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.asked = 0

    def nvmlDeviceGetCount(self):
        self.asked += 1
        self.goes_on.wait(120)
        return super().nvmlDeviceGetCount()


@pytest.fixture
def hanging():
    library = HangingLibrary(Card())
    yield library
    library.goes_on.set()


def test_it_does_not_wait_for_a_driver_that_hangs(hanging):
    machines = MachineReader(nvml=Nvml(hanging), nvml_seconds=2)
    assert machines.read().gpus[0].utilization_percent == 55
    hanging.goes_on.clear()
    first, started = machines.read(), time.monotonic()
    later = [machines.read() for _ in range(20)]
    assert time.monotonic() - started < 20  # only the first waited: for all of them it would be 40 s
    assert hanging.asked == 2
    for machine in (first, *later):
        (gpu,) = machine.gpus
        assert machine.gpu_note == gpu.problem == reader.HANGING
        assert (gpu.name, gpu.uuid, gpu.memory_total_bytes) == ("NVIDIA H100 80GB HBM3", "GPU-1", 80 * GIB)
        assert (gpu.memory_used_bytes, gpu.utilization_percent, gpu.temperature_celsius) == (None, None, None)
    hanging.goes_on.set()
    wait_until(lambda: machines.read().gpu_note == "")
    assert machines.read().gpus[0].utilization_percent == 55


def test_it_says_that_the_driver_hangs_from_the_start(hanging):
    hanging.goes_on.clear()
    machine = MachineReader(nvml=Nvml(hanging), nvml_seconds=0.05).read()
    assert (machine.gpus, machine.gpu_note) == ((), reader.HANGING)
    assert machine.ram_total_bytes


def test_it_lets_the_program_end_while_a_call_hangs():
    code = (
        "import time; from fleet.telemetry.patience import Patient\n"
        "try: Patient(lambda: time.sleep(60), 0.05, 'x').ask()\n"
        "except TimeoutError: print('late')"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
    assert ended.stdout == "late\n"


def test_it_makes_one_call_for_all_who_ask_at_once():
    calls, goes_on = [], threading.Event()

    def call():
        calls.append(1)
        goes_on.wait(60)
        return len(calls)

    patient, answers, asked = Patient(call, 60, "x"), [], []
    begin = patient.begin
    patient.begin = lambda: [begin(), asked.append(1)][0]
    threads = [threading.Thread(target=lambda: answers.append(patient.ask())) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(asked) == 8)
    goes_on.set()
    for thread in threads:
        thread.join()
    assert answers == [1] * 8
    assert patient.ask() == 2


def test_it_hands_on_what_a_call_raises():
    with pytest.raises(ZeroDivisionError):
        Patient(lambda: 1 / 0, 5, "x").ask()


def test_it_reads_quickly_from_many_threads():
    machines = machine_reader(*(Card(uuid=f"GPU-{number}") for number in range(8)))
    machines.read()
    wrong = []

    def read(seconds):
        for _ in range(5):
            started = time.perf_counter()
            if len(machines.read().gpus) != 8:
                wrong.append(1)
            seconds.append(time.perf_counter() - started)

    def median():
        seconds = []
        threads = [threading.Thread(target=read, args=(seconds,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sorted(seconds)[len(seconds) // 2]

    assert any(median() < 0.05 for _ in range(3))  # a busy machine may spoil two
    assert wrong == []


def times(user, idle, **more):
    names = ("user", "idle", "iowait", "guest", "guest_nice")
    values = {"user": user, "idle": idle, "iowait": 0.0, "guest": 0.0, "guest_nice": 0.0} | more
    return FakeTimes(values[name] for name in names)


class FakeTimes(tuple):
    user, idle, iowait, guest, guest_nice = (property(lambda self, at=at: self[at]) for at in range(5))


@pytest.fixture
def processors(monkeypatch):
    """A System whose clock and counters the test sets."""
    state = SimpleNamespace(now=100.0, times=times(10.0, 10.0))
    monkeypatch.setattr(psutil, "cpu_times", lambda: state.times)
    monkeypatch.setattr(system.platform, "system", lambda: "Linux")
    state.system = System(clock=lambda: state.now)
    state.percent = lambda: state.system.read()["cpu_percent"]
    return state


def test_it_does_not_know_the_load_at_the_first_look(processors):
    assert processors.percent() is None
    assert processors.percent() is None  # too soon


def test_it_measures_the_load_between_two_looks(processors):
    processors.percent()
    processors.now, processors.times = 101.0, times(10.5, 11.5)
    assert processors.percent() == 25.0
    processors.now, processors.times = 101.1, times(20.0, 11.5)
    assert processors.percent() == 25.0  # too soon for a new figure
    processors.now, processors.times = 102.0, times(11.5, 12.5, guest=1.0)
    assert processors.percent() == 50.0  # a guest's second is in `user` too: it counts once


def test_it_measures_the_load_from_any_thread(processors):
    """psutil's own function starts anew in each thread."""
    processors.percent()
    processors.now, processors.times = 101.0, times(11.0, 10.0)
    seen = []
    thread = threading.Thread(target=lambda: seen.append(processors.percent()))
    thread.start()
    thread.join()
    assert seen == [100.0]


def test_it_does_not_know_what_the_system_hides(monkeypatch):
    def refuse(*_):
        raise PermissionError

    for name in ("virtual_memory", "cpu_times", "cpu_count"):
        monkeypatch.setattr(psutil, name, refuse)
    told = System().read()
    assert (told["cpu_count"], told["ram_total_bytes"], told["ram_used_bytes"]) == (None, None, None)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor : 0\nmodel name\t: AMD  EPYC 9654\nprocessor : 1\nmodel name\t: other\n", "AMD EPYC 9654"),
        ("processor : 0\nCPU part : 0xd0c\n", "aarch64"),
        (None, "aarch64"),
    ],
)
def test_it_names_the_processor(monkeypatch, tmp_path, text, name):
    monkeypatch.setattr(system, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(system.platform, "system", lambda: "Linux")
    monkeypatch.setattr(system.platform, "machine", lambda: "aarch64")
    if text:
        system.CPU_INFO.write_text(text)
    assert system.cpu_name.__wrapped__() == name


@pytest.mark.parametrize(
    ("mac", "kernel", "release", "told"),
    [
        ("", "Linux", "6.1.0-18-amd64", "Linux 6.1"),
        ("15.1", "Darwin", "24.1.0", "macOS 15.1"),
        ("", "Windows", "11", "Windows 11"),
        ("", "Odd", "", "Odd"),
    ],
)
def test_it_names_the_system(monkeypatch, mac, kernel, release, told):
    monkeypatch.setattr(system.platform, "mac_ver", lambda: (mac, (), ""))
    monkeypatch.setattr(system.platform, "system", lambda: kernel)
    monkeypatch.setattr(system.platform, "release", lambda: release)
    assert system.system_name.__wrapped__() == told


def test_it_notes_memory_that_processors_and_gpu_share(monkeypatch):
    monkeypatch.setattr(reader, "has_unified_memory", lambda: True)
    apple = survey([device("Apple M3 Max", 0, 48 * GIB, 0, "integrated", "Metal")])
    machine = machine_reader(survey=lambda: apple, errors=NO_DRIVER).read()
    assert machine.gpus[0].is_integrated and machine.gpu_note == f"{reader.FROM_SURVEY} {reader.UNIFIED}"


def test_it_loads_nothing_before_the_first_look():
    code = (
        "import sys; from fleet.telemetry.reader import MachineReader; MachineReader()\n"
        "print({'psutil', 'pynvml', 'django'} & {*sys.modules})"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
    assert ended.stdout == "set()\n"


def wait_until(condition):
    wait_for(condition, step=0.01)
