"""The machine of a node: this one, another one through its agent, or a simulated one. All answer the same calls."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlencode, urlsplit

from fleet.agent.errors import ActionFailed
from fleet.agent.keys import AgentKey
from fleet.daemons import http
from fleet.daemons.errors import DaemonError, Reason
from fleet.lms.actions import Action, execute
from fleet.lms.home import Folder
from fleet.lms.manager import LMStudioManager
from fleet.models.node import Node
from fleet.telemetry.reader import MachineReader
from fleet.telemetry.readings import Machine

if TYPE_CHECKING:
    from fleet.agent.client import AgentClient

NOT_MANAGED = "a simulated machine has no LM Studio to manage"
SAME_READING_SECONDS = 1.0  # several nodes on one machine share a reading


class Host(Protocol):
    """A machine with an LM Studio. Every call may raise DaemonError, execute() also LmsError."""

    def telemetry(self) -> Machine: ...

    def status(self) -> dict: ...

    def execute(
        self,
        action: Action,
        parameters: dict,
        on_line: Callable[[str], None] | None,
        command_id: str | None,
        on_signed: Callable[[dict], None] | None,
    ) -> dict:
        """Do it; `on_signed` gets the envelope that it travels in, where it travels."""
        ...

    def logs(self, source: str) -> Iterator[str]: ...


class ThisMachine:
    """The machine that this process runs on; `port` is the daemon's."""

    def __init__(self, port: int, token: str = ""):
        self.port, self.token = port, token

    def manager(self, on_line: Callable[[str], None] | None = None) -> LMStudioManager:
        return LMStudioManager(port=self.port, token=self.token, on_line=on_line)

    def telemetry(self) -> Machine:
        return _own_reader.read()

    def status(self) -> dict:
        return self.manager().get_status().as_json()

    def execute(self, action, parameters, on_line=None, command_id=None, on_signed=None) -> dict:
        return execute(self.manager(on_line), action, parameters)

    def logs(self, source: str) -> Iterator[str]:
        return self.manager().stream_logs(source)


class SimulatedMachine:
    """The machine of a simulated daemon: its cards can be read, and there is no LM Studio on it to be managed."""

    def __init__(self, base_url: str, token: str = ""):
        self.base_url, self.token = base_url.rstrip("/"), token

    def telemetry(self) -> Machine:
        try:
            return Machine.from_json(self._get("machine"))
        except ValueError as error:
            raise DaemonError(Reason.NOT_UNDERSTOOD, str(error)) from error

    def status(self) -> dict:
        raise DaemonError(Reason.BAD_REQUEST, NOT_MANAGED)

    def execute(self, action, parameters, on_line=None, command_id=None, on_signed=None) -> dict:
        """What a model's file says of it is all that can be asked; DaemonError for any other action."""
        if action != Action.METADATA:
            raise DaemonError(Reason.BAD_REQUEST, NOT_MANAGED)
        return self._get(f"metadata?{urlencode({'model': parameters['model']})}")

    def logs(self, source: str) -> Iterator[str]:
        return iter(())

    def _get(self, path: str) -> dict:
        return http.call("GET", f"{self.base_url}/simulator/{path}", self.token)


class OwnReader:
    """This machine's reader, made when it is first needed and asked once for all of the nodes on it."""

    def __init__(self):
        self._lock = threading.Lock()
        self._reader: MachineReader | None = None
        self._last: Machine | None = None
        self._read_at = 0.0

    def read(self) -> Machine:
        with self._lock:
            if self._last is None or time.monotonic() - self._read_at > SAME_READING_SECONDS:
                self._reader = self._reader or self._made()
                self._last, self._read_at = self._reader.read(), time.monotonic()
            return self._last

    @staticmethod
    def _made() -> MachineReader:
        return MachineReader(survey=lambda: LMStudioManager().survey(), folder=Folder.find().path)


_own_reader = OwnReader()


def host_of(node: Node) -> Host | None:
    """The machine behind a node, None where it cannot be asked. Raises DaemonError for an agent's key that is none."""
    if node.agent_url:
        try:
            return agent_at(node.agent_url, node.agent_key)
        except ValueError as error:
            raise DaemonError(Reason.UNAUTHORIZED, str(error)) from error
    if node.has_simulated_machine:
        return SimulatedMachine(node.base_url, node.token)
    if node.is_here:
        parts = urlsplit(node.base_url)
        return ThisMachine(parts.port or (443 if parts.scheme == "https" else 80), node.token)
    return None


def agent_at(url: str, key: str) -> "AgentClient":
    """An agent by its address and what `daemonpulse agent key` printed. Raises ValueError with a sentence."""
    from fleet.agent.client import AgentClient  # its library is a tenth of the start of every process

    return AgentClient(url, AgentKey.parse(key))


# What goes wrong with an agent is worded for agents; the daemon's own words name the wrong place.
OF_AGENT = {
    Reason.UNREACHABLE: "Nothing answers at the address of its agent. Is the agent running there?",
    Reason.TIMEOUT: "Its agent takes too long to answer.",
    Reason.CUT: "The connection to its agent broke.",
    Reason.UNAUTHORIZED: "Its agent refused our key. `daemonpulse agent key` prints the right one there.",
}


def explain(error: DaemonError, node: Node) -> str:
    """What went wrong with a node's machine, and what to do, for people."""
    return explain_agent(error) if node.agent_url else error.reason.explanation


def explain_agent(error: DaemonError) -> str:
    """The same of an agent."""
    if isinstance(error, ActionFailed):
        return f"{error} {error.advice}".strip()
    if error.detail.endswith("."):  # a sentence of ours (fleet/agent/client.py)
        return f"Its agent: {error.detail}"
    return OF_AGENT.get(error.reason, "What answers at the address of its agent is not an agent.")
