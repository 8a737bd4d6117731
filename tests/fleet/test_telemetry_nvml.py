import os
import shutil
import subprocess
import sys

import psutil
import pynvml
import pytest

from fleet.telemetry import nvml
from fleet.telemetry.nvml import Nvml
from fleet.telemetry.processes import ProcessNames
from tests.fleet.fake_lms_fixture import wait_for
from tests.fleet.fake_nvml import GIB, Card, FakeNvml, Instance

MIB = 1024**2


def read(*cards: Card, **kwargs):
    return Nvml(FakeNvml(*cards), **kwargs).read()


def test_it_reads_every_gpu():
    answer = read(Card(), Card(name="NVIDIA GeForce RTX 4090", uuid="GPU-2", total=24 * GIB, used=2 * GIB))
    assert (answer.driver_version, answer.cuda_version, answer.note) == ("580.95.05", "13.1", "")
    first, second = answer.gpus
    assert (first.index, first.name, first.uuid, first.source) == (0, "NVIDIA H100 80GB HBM3", "GPU-1", "nvml")
    assert (first.utilization_percent, first.temperature_celsius) == (55.0, 61.0)
    assert (first.power_watts, first.power_limit_watts) == (301.5, 700.0)
    assert (first.ecc_errors, first.throttle_reasons, first.processes) == (0, (), ())
    assert (first.mig, first.problem) == ("", "")
    assert (second.index, second.uuid, second.memory_total_bytes) == (1, "GPU-2", 24 * GIB)


def test_it_does_not_count_reserved_memory_as_used():
    (gpu,) = read(Card(total=80 * GIB, reserved=1 * GIB, used=30 * GIB)).gpus
    assert (gpu.memory_total_bytes, gpu.memory_used_bytes, gpu.memory_free_bytes) == (80 * GIB, 30 * GIB, 49 * GIB)


@pytest.mark.parametrize("error", [pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, pynvml.NVML_ERROR_NOT_SUPPORTED])
def test_it_reads_memory_from_drivers_without_the_second_version(error):
    (gpu,) = read(Card(reserved=0, errors={"DeviceGetMemoryInfo_v2": error})).gpus
    assert (gpu.memory_total_bytes, gpu.memory_used_bytes) == (80 * GIB, 30 * GIB)


def test_it_uses_what_older_drivers_have():
    missing = [
        "DeviceGetTemperatureV",
        "DeviceGetCurrentClocksEventReasons",
        "DeviceGetComputeRunningProcesses_v3",
        "DeviceGetGraphicsRunningProcesses_v3",
    ]
    errors = dict.fromkeys(missing, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
    reasons = pynvml.nvmlClocksEventReasonSwPowerCap
    (gpu,) = read(Card(errors=errors, reasons=reasons, processes=[(os.getpid(), GIB)])).gpus
    assert gpu.temperature_celsius == 61
    assert gpu.throttle_reasons == ("held at its power limit",)
    assert [process.pid for process in gpu.processes] == [os.getpid()]


FIELDS = {
    ("DeviceGetName",): {"name": "NVIDIA GPU"},
    ("DeviceGetUUID",): {"uuid": ""},
    ("DeviceGetMemoryInfo_v2", "DeviceGetMemoryInfo"): {
        "memory_total_bytes": None,
        "memory_used_bytes": None,
        "memory_free_bytes": None,
    },
    ("DeviceGetUtilizationRates",): {"utilization_percent": None},
    ("DeviceGetTemperatureV", "DeviceGetTemperature"): {"temperature_celsius": None},
    ("DeviceGetPowerUsage",): {"power_watts": None},
    ("DeviceGetEnforcedPowerLimit",): {"power_limit_watts": None},
    ("DeviceGetTotalEccErrors",): {"ecc_errors": None},
    ("DeviceGetCurrentClocksEventReasons", "DeviceGetCurrentClocksThrottleReasons"): {"throttle_reasons": None},
    ("DeviceGetComputeRunningProcesses_v3", "DeviceGetComputeRunningProcesses_v2"): {},
    (
        "DeviceGetComputeRunningProcesses_v3",
        "DeviceGetComputeRunningProcesses_v2",
        "DeviceGetGraphicsRunningProcesses_v3",
        "DeviceGetGraphicsRunningProcesses_v2",
    ): {"processes": None},
}


@pytest.mark.parametrize("error", [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_NO_PERMISSION, 999, 4242])
@pytest.mark.parametrize("functions", FIELDS, ids=lambda functions: functions[-1])
def test_it_leaves_only_the_refused_field_unknown(functions, error):
    whole, refused = (read(Card(errors=errors)).gpus[0] for errors in ({}, dict.fromkeys(functions, error)))
    differing = {
        name: getattr(refused, name) for name in whole.__slots__ if getattr(refused, name) != getattr(whole, name)
    }
    assert differing == FIELDS[functions]


@pytest.mark.parametrize("function", ["*", "DeviceGetHandleByIndex", "DeviceGetUtilizationRates"])
def test_it_shows_a_lost_gpu_beside_the_others(function):
    lost = Card(uuid="GPU-lost", errors={function: pynvml.NVML_ERROR_GPU_IS_LOST})
    answer = read(Card(uuid="GPU-a"), lost, Card(uuid="GPU-c"))
    before, gpu, after = answer.gpus
    assert "lost this GPU" in gpu.problem and "Restart" in gpu.problem
    assert gpu.index == 1
    unknown = (gpu.memory_total_bytes, gpu.memory_used_bytes, gpu.utilization_percent, gpu.temperature_celsius)
    assert unknown == (None,) * 4 and gpu.processes is None and gpu.throttle_reasons is None
    assert (before.uuid, after.uuid, after.index) == ("GPU-a", "GPU-c", 2)
    assert before.memory_used_bytes == after.memory_used_bytes == 30 * GIB
    assert (before.problem, after.problem, answer.note) == ("", "", "")


def test_it_names_a_lost_gpu_that_still_says_who_it_is():
    (gpu,) = read(Card(errors={"DeviceGetUtilizationRates": pynvml.NVML_ERROR_GPU_IS_LOST})).gpus
    assert (gpu.name, gpu.uuid) == ("NVIDIA H100 80GB HBM3", "GPU-1")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (pynvml.NVML_ERROR_RESET_REQUIRED, "nvidia-smi --gpu-reset"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "/dev/nvidia"),
        (pynvml.NVML_ERROR_INSUFFICIENT_POWER, "power cables"),
        (pynvml.NVML_ERROR_UNKNOWN, "Unknown Error"),
    ],
)
def test_it_says_what_to_do_about_a_gpu_that_cannot_be_opened(error, words):
    (gpu,) = read(Card(errors={"DeviceGetHandleByIndex": error})).gpus
    assert words in gpu.problem


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "No NVIDIA driver was found"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "not running"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "account may not talk"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "was updated"),
        (pynvml.NVML_ERROR_UNKNOWN, "Unknown Error"),
    ],
)
def test_it_says_why_there_are_no_gpus(error, words):
    answer = Nvml(FakeNvml(Card(), errors={"Init": error})).read()
    assert answer.gpus == () and words in answer.note
    assert "estart" in answer.note or "nstall" in answer.note or "ive it access" in answer.note


def test_it_says_that_the_driver_finds_no_gpu():
    assert read().note == nvml.NO_GPU


def test_it_says_that_the_package_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert Nvml().read() == nvml.NvmlAnswer(note=nvml.NOT_INSTALLED)


def test_it_never_raises(monkeypatch):
    library = FakeNvml(Card())
    library.nvmlDeviceGetCount = lambda: 1 / 0
    reader = Nvml(library)
    assert reader.read() == nvml.NvmlAnswer(note=nvml.UNEXPECTED)
    del library.nvmlDeviceGetCount
    assert len(reader.read().gpus) == 1


def test_it_begins_one_session_for_many_reads():
    library = FakeNvml(Card())
    reader = Nvml(library)
    assert reader.read() == reader.read()
    assert library.begun == 1


def test_it_finds_a_driver_that_is_installed_later():
    library = FakeNvml(Card(), errors={"Init": pynvml.NVML_ERROR_LIBRARY_NOT_FOUND})
    reader = Nvml(library)
    assert reader.read().gpus == ()
    library.errors = {}
    assert len(reader.read().gpus) == 1


@pytest.mark.parametrize("place", ["DeviceGetCount", "DeviceGetUtilizationRates"])
def test_it_begins_a_new_session_when_the_driver_was_restarted(place):
    """Within the same read: nobody sees the gap."""
    library = FakeNvml(Card(utilization=1))
    reader = Nvml(library)
    reader.read()
    library.breaks_at = place  # from there on every call says UNINITIALIZED
    library.cards = [Card(utilization=7)]
    (gpu,) = reader.read().gpus
    assert (gpu.utilization_percent, library.begun) == (7, 2)


def test_it_recovers_after_the_driver_was_gone():
    library = FakeNvml(Card())
    reader = Nvml(library)
    reader.read()
    library.errors = {
        "DeviceGetCount": pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        "Init": pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    }
    assert "not running" in reader.read().note
    library.errors = {}
    assert len(reader.read().gpus) == 1


def test_it_sees_that_a_lost_gpu_was_reset():
    now = [0.0]
    library = FakeNvml(Card(errors={"*": pynvml.NVML_ERROR_GPU_IS_LOST}))
    reader = Nvml(library, clock=lambda: now[0])
    reader.read()
    now[0] = nvml.RENEWAL_SECONDS
    reader.read()
    library.cards = [Card()]
    assert reader.read().gpus[0].problem == ""
    assert (library.begun, library.ended) == (2, 1)
    now[0] *= 5
    reader.read()
    assert library.begun == 2


REASON = "nvmlClocksEventReason"


@pytest.mark.parametrize(
    ("names", "phrases"),
    [
        ([], ()),
        (["GpuIdle"], ()),
        (["SwPowerCap"], ("held at its power limit",)),
        (["HwSlowdown", "HwThermalSlowdown", "SwThermalSlowdown"], ("slowed by heat",)),
        (["HwSlowdown", "HwPowerBrakeSlowdown"], ("slowed because its power supply asks for it",)),
        (["HwSlowdown"], ("slowed by its hardware, to protect itself",)),
        (["GpuIdle", "SwPowerCap", "SwThermalSlowdown"], ("held at its power limit", "slowed by heat")),
        (["ApplicationsClocksSetting"], ("held at a clock speed that was set for it",)),
    ],
)
def test_it_says_in_words_why_a_gpu_is_slow(names, phrases):
    bits = sum(getattr(pynvml, f"{REASON}{name}") for name in names)
    assert read(Card(reasons=bits)).gpus[0].throttle_reasons == phrases


def test_it_admits_a_reason_that_it_does_not_know():
    assert read(Card(reasons=1 << 40)).gpus[0].throttle_reasons == ("slowed for a reason that is not known here",)


def test_it_counts_uncorrected_errors_only():
    assert read(Card(uncorrected=3)).gpus[0].ecc_errors == 3


def test_it_reads_each_mig_instance():
    own = [(os.getpid(), GIB)]
    instances = [
        Instance("1g.10gb", "MIG-1", 10 * GIB, 2 * GIB, processes=own),
        None,
        Instance("3g.40gb", "MIG-2", 40 * GIB),
    ]
    card = Card(mig=instances, temperature=70, reasons=pynvml.nvmlClocksEventReasonSwPowerCap)
    small, big, plain = read(card, Card(uuid="GPU-2")).gpus
    assert (small.mig, small.uuid, small.name, small.index) == ("1g.10gb", "MIG-1", "NVIDIA H100 80GB HBM3", 0)
    assert (small.memory_total_bytes, small.memory_used_bytes, small.memory_free_bytes) == (10 * GIB, 2 * GIB, 8 * GIB)
    assert [process.pid for process in small.processes] == [os.getpid()]
    assert (small.utilization_percent, small.power_watts, small.power_limit_watts) == (None, None, None)
    assert (small.temperature_celsius, small.throttle_reasons) == (70, ("held at its power limit",))
    assert (big.mig, big.memory_total_bytes, big.processes) == ("3g.40gb", 40 * GIB, ())
    assert (plain.mig, plain.index, plain.utilization_percent) == ("", 1, 55)


def test_it_says_that_a_mig_gpu_has_no_instance():
    (gpu,) = read(Card(mig=[])).gpus
    assert gpu.problem == nvml.NO_INSTANCE and gpu.memory_total_bytes is None


def test_it_keeps_other_instances_when_one_is_not_fully_readable():
    hidden = Instance(uuid="MIG-1", errors={"*": pynvml.NVML_ERROR_NO_PERMISSION})
    first, second = read(Card(mig=[hidden, Instance(uuid="MIG-2")])).gpus
    assert (first.mig, first.memory_total_bytes, first.processes) == ("MIG", None, None)
    assert (second.mig, second.memory_total_bytes) == ("1g.10gb", 10 * GIB)


def test_it_merges_processes_by_pid():
    own, other = os.getpid(), 2**22 + 7  # above what Linux gives out
    card = Card(processes=[(own, 3 * GIB), (other, None)], graphics=[(own, 3 * GIB), (other, None)])
    (gpu,) = read(card).gpus
    assert [(process.pid, process.memory_bytes) for process in gpu.processes] == [(own, 3 * GIB), (other, None)]
    assert gpu.processes[0].name.startswith(("python", "pytest"))
    assert gpu.processes[1].name == "" and not any(process.is_daemon for process in gpu.processes)


def test_it_takes_the_name_from_the_driver_without_options():
    library = FakeNvml(Card(processes=[(2**22 + 7, GIB)]))
    library.process_names = {2**22 + 7: "/opt/LM Studio/llama-server --api-key secret -p /tmp/words"}
    (process,) = Nvml(library).read().gpus[0].processes
    assert (process.name, process.is_daemon) == ("llama-server", True)


@pytest.fixture
def running(tmp_path):
    """Starts a program that waits, under any path and with any arguments; returns its pid."""
    started = []

    def start(path: str, *arguments: str, called: str = "") -> int:
        program = tmp_path / path
        program.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(shutil.which("sleep"), program)
        started.append(subprocess.Popen([called or str(program), "60", *arguments], executable=program))
        assert wait_for(psutil.Process(started[-1].pid).cmdline)  # empty until the program is there
        return started[-1].pid

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("path", "is_daemon"),
    [
        ("home/.lmstudio/llmster/0.4.2/bin/node", True),
        ("bin/llmster", True),
        ("bin/llama-server", True),
        ("bin/ollama", True),
        ("bin/LM Studio Helper", True),
        ("bin/lmsensors", False),
        ("home/.lmstudio-other/node", False),
    ],
)
def test_it_knows_the_daemons_processes(running, tmp_path, path, is_daemon):
    process = ProcessNames(pynvml, tmp_path / "home/.lmstudio").process(running(path), 5)
    assert (process.name, process.memory_bytes, process.is_daemon) == (path.rpartition("/")[2], 5, is_daemon)


def test_it_shows_a_long_name_whole_whatever_the_command_line_says(running):
    process = ProcessNames(pynvml).process(running("bin/LM Studio Helper", called="renderer"), 5)
    assert (process.name, process.is_daemon) == ("LM Studio Helper", True)


def test_it_knows_the_daemon_below_a_linked_folder(running, tmp_path):
    pid = running("disk/lmstudio/engine")
    (tmp_path / "link").symlink_to(tmp_path / "disk/lmstudio")
    assert ProcessNames(pynvml, tmp_path / "link").process(pid, None).is_daemon


@pytest.mark.parametrize(
    ("arguments", "is_daemon"),
    [
        (["-m", "vllm.entrypoints.openai.api_server", "--model", "x"], True),
        (["-u", "-m", "llama_cpp.server"], True),
        (["-u", "/usr/local/bin/vllm", "serve"], True),
        (["train.py", "vllm"], False),
        (["-m"], False),
        ([], False),
    ],
)
def test_it_knows_servers_written_in_python(monkeypatch, arguments, is_daemon):
    looked_up = ("python3.11", "/usr/bin/python3.11", ["/usr/bin/python3", *arguments])
    monkeypatch.setattr("fleet.telemetry.processes._looked_up", lambda pid: looked_up)
    assert ProcessNames(pynvml).process(1, None).is_daemon is is_daemon


@pytest.mark.parametrize(
    ("name", "is_daemon"), [("VLLM::EngineCore", True), ("ollama.exe", True), ("lms.exe", True), ("Xorg", False)]
)
def test_it_knows_daemons_by_name_alone(monkeypatch, name, is_daemon):
    monkeypatch.setattr("fleet.telemetry.processes._looked_up", lambda pid: (name, "", []))
    assert ProcessNames(pynvml).process(1, None).is_daemon is is_daemon


def test_it_agrees_with_nvidia_smi_or_says_that_there_is_no_driver():
    """On this machine, by the real library."""
    if shutil.which("nvidia-smi") is None:
        answer = Nvml().read()
        assert answer.gpus == () and answer.note == nvml.DRIVER_NOTES["LIBRARY_NOT_FOUND"]
        return
    fields = "uuid,name,memory.total,memory.used,memory.free,temperature.gpu,driver_version"
    argv = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    answer, lines = Nvml().read(), subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    gpus = {gpu.uuid: gpu for gpu in answer.gpus if not gpu.mig}
    rows = {row[0]: row[1:] for row in (line.split(", ") for line in lines.splitlines())}
    assert set(gpus) <= set(rows) and answer.gpus
    for uuid, gpu in gpus.items():
        name, total, used, free, celsius, driver = rows[uuid]
        assert (gpu.name, answer.driver_version) == (name, driver)
        told = (gpu.memory_total_bytes, gpu.memory_used_bytes, gpu.memory_free_bytes)
        for ours, theirs in zip(told, (total, used, free), strict=True):
            if not theirs.isdigit():  # "[N/A]"
                assert ours is None
                continue
            assert abs(ours - int(theirs) * MIB) <= min(100 * MIB, 0.02 * int(total) * MIB)
        assert not celsius.isdigit() or abs(gpu.temperature_celsius - int(celsius)) <= 5
