"""What LM Studio's loaded copies do right now, asked over its WebSocket: REST does not tell (contract §2.1, §10)."""

from fleet.daemons.errors import DaemonError, Reason, SocketUnavailable
from fleet.daemons.lmstudio_answers import instance_state
from fleet.daemons.lmstudio_answers import processing as read_processing
from fleet.daemons.lmstudio_socket import Line, LMStudioSocket
from fleet.daemons.types import InstanceState, Processing


def instances(socket: LMStudioSocket) -> list[InstanceState]:
    """Each loaded copy, LLMs first; one that vanishes meanwhile is left out. Raises DaemonError."""
    return [state for is_embedding in (False, True) for state in _instances(socket, is_embedding)]


def processing(socket: LMStudioSocket, instance: str, is_embedding: bool = False) -> Processing | None:
    """What one copy does; None: it is gone. Raises DaemonError: SocketUnavailable where that cannot be asked."""
    with socket.opened(is_embedding) as line:
        return _processing(line, {"identifier": instance})


def _instances(socket: LMStudioSocket, is_embedding: bool) -> list[InstanceState]:
    with socket.opened(is_embedding) as line:
        rows = line.call("listLoaded")
        if not isinstance(rows, list):
            raise DaemonError(Reason.NOT_UNDERSTOOD, "no list of loaded models")
        states = [_state(line, row, is_embedding) for row in rows if isinstance(row, dict)]
    return [state for state in states if state is not None and state.id]


def _state(line: Line, row: dict, is_embedding: bool) -> InstanceState | None:
    """A daemon that is too old to tell what a copy does still tells that it is there."""
    try:
        now = _processing(line, row)
    except SocketUnavailable:
        now = Processing()
    return None if now is None else instance_state(row, is_embedding, now)


def _processing(line: Line, row: dict) -> Processing | None:
    parameter = {"specifier": _specifier(row), "throwIfNotFound": False}
    try:
        told = line.call("getInstanceProcessingState", parameter)
    except DaemonError as error:
        if error.reason is Reason.MODEL_NOT_FOUND:
            return None
        raise
    return None if told is None else read_processing(told)


def _specifier(row: dict) -> dict:
    """How to name a copy: by its reference where one is told, as copies on two devices may share a name."""
    if isinstance(reference := row.get("instanceReference"), str):
        return {"type": "instanceReference", "instanceReference": reference}
    return {"type": "query", "query": {"identifier": row.get("identifier")}}
