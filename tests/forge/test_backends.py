"""What is thought to compute on a node."""

import pytest

from fleet.telemetry.readings import Gpu, Machine
from forge.backends import backend_of


@pytest.mark.parametrize(
    ("source", "name", "backend"),
    [
        ("nvml", "Whatever", "cuda"),
        ("survey", "NVIDIA RTX 4090", "cuda"),
        ("survey", "AMD Radeon RX 7900 XTX", "rocm"),
        ("survey", "Apple M3 Max", "metal"),
        ("survey", "Intel Arc A770", "vulkan"),
        ("survey", "", "vulkan"),
    ],
)
def test_it_knows_the_backend_of_a_card(source, name, backend):
    assert backend_of(Machine(1.0, gpus=[Gpu(0, name, source=source)])) == backend


def test_it_says_what_there_is_without_a_card():
    assert backend_of(Machine(1.0)) == "cpu"
    assert backend_of(None) == ""
    assert backend_of(None, is_simulated=True) == "simulated"
