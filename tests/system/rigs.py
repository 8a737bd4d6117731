"""Machines with a daemon and an agent, which can be unplugged."""

import json
from contextlib import contextmanager

from tests.fleet.agent_fixture import AgentProcess
from tests.fleet.fake_lms_fixture import FakeLMStudio
from tests.fleet.simulator_fixture import SimulatorProcess
from tests.system.networks import Machine


class Rig:
    """A machine with a daemon and an agent. Where namespaces are not allowed it is an address of the loopback, and
    unplugging it is killing both."""

    def __init__(self, number: int, folder, machine: Machine | None):
        self.name, self.machine = f"rig-{number}", machine
        self.address = machine.address if machine else f"127.0.0.{number + 1}"
        self.studio = FakeLMStudio(folder / self.name)
        self.daemon = SimulatorProcess()
        self.agent = AgentProcess(self.studio.home)
        with self._there():
            self.daemon.start("--host", self.address)
            self.agent.start("--host", self.address, "--tls")

    def _there(self):
        return self.machine.entered() if self.machine else closing_nothing()

    def add_to(self, site):
        site.environment["DAEMONPULSE_AGENT_KEY"] = self.agent.key.to_text()
        answer = site.run("node-add", self.name, self.daemon.url, "--agent-url", self.agent.url)
        assert answer.returncode == 0, answer.stderr

    def unplug(self):
        if self.machine:
            self.machine.unplug()
        else:
            self.daemon.kill()
            self.agent.kill()

    def plug(self):
        if self.machine:
            self.machine.plug()
        else:
            self.daemon.start(*self.daemon.args[2:], "--port", str(self.daemon.port))
            self.agent.start(*self.agent.args[2:], "--port", str(self.agent.port))

    def close(self):
        for process in (self.daemon, self.agent):
            process.stop()
        self.studio.stop()
        if self.machine:
            self.machine.close()


@contextmanager
def closing_nothing():
    yield


def fleet(site) -> dict[str, dict]:
    return {node["name"]: node for node in json.loads(site.run("fleet-status", "--json").stdout)["nodes"]}
