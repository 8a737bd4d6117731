import pytest

from tests.fleet.simulator_fixture import SimulatorProcess


@pytest.fixture(scope="module")
def process(request):
    """A simulated daemon for a whole module, which may name its options in SIMULATOR."""
    process = SimulatorProcess().start(*getattr(request.module, "SIMULATOR", ()))
    yield process
    process.stop()


@pytest.fixture
def simulator(process):
    """The same, as freshly started, and instant."""
    process.reset()
    return process
