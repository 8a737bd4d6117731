import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.telemetry.readings import Gpu, GpuProcess, Machine
from fleet.telemetry.survey import gpus_from_survey, ram_from_survey

GIB = 1024**3
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
machine_keys = st.sampled_from(["at", "hostname", "cpu_count", "cpu_percent", "gpus", "gpu_note", "ram_total_bytes"])
gpu_keys = st.sampled_from(["index", "name", "memory_used_bytes", "processes", "throttle_reasons", "is_integrated"])
gpus_json = st.dictionaries(gpu_keys, anything | st.lists(st.dictionaries(st.sampled_from(["pid", "name"]), scalars)))
machines_json = st.dictionaries(machine_keys, scalars | st.lists(gpus_json | scalars, max_size=3))


def test_it_survives_the_way_through_json():
    process = GpuProcess(7, "llmster", 5 * GIB, True)
    gpu = Gpu(1, "H100", "nvml", "GPU-1", 80 * GIB, throttle_reasons=("slowed by heat",), processes=(process,))
    machine = Machine(at=1.5, hostname="box", cpu_percent=3.5, gpus=(gpu,), gpu_note="note")
    assert Machine.from_json(json.loads(json.dumps(machine.as_json()))) == machine


@settings(max_examples=80)
@given(anything | machines_json)
def test_it_reads_any_json_or_says_that_it_is_no_reading(data):
    try:
        machine = Machine.from_json(data)
    except ValueError:
        return
    assert Machine.from_json(machine.as_json()) == machine
    numbers = [machine.at, machine.cpu_percent, *(gpu.memory_used_bytes for gpu in machine.gpus)]
    assert all(number is None or math.isfinite(number) for number in numbers)


@pytest.mark.parametrize("at", [10**400, math.nan, math.inf, "now", True, None])
def test_it_refuses_a_time_that_is_none(at):
    with pytest.raises(ValueError, match="no reading"):
        Machine.from_json({"at": at})


def test_its_texts_can_be_shown_and_kept_whatever_they_were():
    odd = "\x1b[31mH100\x1b[0m \ud800\x00\r\nx"
    gpu = {"name": odd, "problem": odd, "throttle_reasons": [odd], "processes": [{"pid": 7, "name": odd}]}
    machine = Machine.from_json({"at": 1, "hostname": odd, "gpus": [gpu]})
    found = machine.gpus[0]
    texts = {machine.hostname, found.name, found.problem, *found.throttle_reasons, found.processes[0].name}
    assert texts == {"H100 \ufffd x"}


def test_a_survey_with_odd_names_makes_clean_ones():
    assert [gpu.name for gpu in gpus_from_survey(survey([device("\x1b[1mA\ud800\x00"), device("\x00")]))] == ["A\ufffd"]


def test_it_drops_throttle_reasons_that_are_no_text():
    machine = Machine.from_json({"at": 1, "gpus": [{"throttle_reasons": ["slowed by heat", 7, ["x"]]}]})
    assert machine.gpus[0].throttle_reasons == ("slowed by heat",)


def device(name="Example RTX", number=0, total=24 * GIB, dedicated=24 * GIB, kind="discrete", platform="CUDA"):
    return {
        "name": name,
        "deviceId": number,
        "totalMemoryCapacityBytes": total,
        "dedicatedMemoryCapacityBytes": dedicated,
        "integrationType": kind,
        "detectionPlatform": platform,
    }


def survey(*engines, code="success", ram=64 * GIB):
    return {
        "status": "ok",
        "engines": [
            {
                "name": "llama.cpp",
                "hardwareSurvey": {"gpuSurveyResult": {"result": {"code": code, "message": ""}, "gpuInfo": devices}},
                "memoryInfo": {"ramCapacity": ram, "vramCapacity": 0, "totalMemory": ram},
            }
            for devices in engines
        ],
    }


def test_it_takes_capacities_from_a_survey():
    (gpu,) = gpus_from_survey(survey([device()]))
    assert gpu == Gpu(0, "Example RTX", "survey", memory_total_bytes=24 * GIB, is_integrated=False)
    assert (gpu.memory_used_bytes, gpu.memory_free_bytes) == (None, None)


def test_it_tells_each_gpu_once_though_every_engine_names_it():
    cuda = [device("NVIDIA GeForce RTX 4090", 0), device("NVIDIA GeForce RTX 4090", 1)]
    vulkan = [device(gpu["name"], 1 - gpu["deviceId"], 90 * GIB, 23 * GIB, platform="Vulkan") for gpu in cuda]
    gpus = gpus_from_survey(survey(vulkan, cuda, cuda, []))
    assert [(gpu.index, gpu.memory_total_bytes) for gpu in gpus] == [(0, 24 * GIB), (1, 24 * GIB)]


def test_it_knows_a_gpu_under_the_names_of_two_drivers():
    rocm = [device("AMD Radeon RX 7900 XTX", platform="ROCm")]
    vulkan = [device("AMD Radeon(TM) RX 7900 XTX (RADV NAVI31)", platform="Vulkan"), device("Intel(R) UHD", 1)]
    assert [gpu.name for gpu in gpus_from_survey(survey(vulkan, rocm))] == ["AMD Radeon RX 7900 XTX", "Intel(R) UHD"]


def test_it_counts_shared_memory_for_an_integrated_gpu_only():
    apple = device("Apple M3 Max", 0, 48 * GIB, 0, "integrated", "Metal")
    amd = device("AMD Radeon 780M", 1, 16 * GIB, GIB // 2, "integrated", "Vulkan")
    card = device("Intel Arc A770", 2, 32 * GIB, 16 * GIB, "discrete", "Vulkan")
    odd = device("Odd", 3, 0, 0, "unknown", "unknown")
    told = [(gpu.is_integrated, gpu.memory_total_bytes) for gpu in gpus_from_survey(survey([apple, amd, card, odd]))]
    assert told == [(True, 48 * GIB), (True, 16 * GIB), (False, 16 * GIB), (None, None)]


def test_it_numbers_gpus_by_position_where_device_ids_do_not_tell_them_apart():
    gpus = gpus_from_survey(survey([device("A", 0), device("B", 0), device("C", None)]))
    assert [(gpu.index, gpu.name) for gpu in gpus] == [(0, "A"), (1, "B"), (2, "C")]


def test_it_finds_no_gpu_where_the_survey_found_none():
    assert gpus_from_survey(survey([], code="noDevicesFound")) == ()
    assert gpus_from_survey(survey([device()], code="error")) == ()


def test_it_takes_the_memory_from_the_first_engine_that_knows_it():
    unknown, known = survey([], ram=0), survey([], ram=64 * GIB)
    assert ram_from_survey({"engines": unknown["engines"] + known["engines"]}) == 64 * GIB
    assert ram_from_survey(None) is None


survey_keys = st.sampled_from(list(device()))
odd_devices = st.lists(st.dictionaries(survey_keys, anything, max_size=6) | anything, max_size=4)
odd_surveys = st.lists(odd_devices | anything, max_size=3).map(lambda engines: survey(*engines))


@settings(max_examples=80)
@given(anything | odd_surveys | st.fixed_dictionaries({"engines": anything | st.lists(anything)}))
def test_it_takes_any_json_for_a_survey(data):
    gpus = gpus_from_survey(data)
    assert all(gpu.name and (gpu.memory_total_bytes is None or gpu.memory_total_bytes > 0) for gpu in gpus)
    assert len({gpu.index for gpu in gpus}) == len(gpus)
    assert Machine.from_json(Machine(at=1.0, gpus=gpus).as_json()).gpus == gpus
    ram_from_survey(data)
