"""Which kinds of daemon there are, and which one answers at an address."""

from fleet.daemons.base import Daemon
from fleet.daemons.errors import DaemonError, Reason
from fleet.daemons.lmstudio import LMStudio
from fleet.daemons.openai import OpenAICompatible

KINDS: dict[str, type[Daemon]] = {LMStudio.kind: LMStudio, OpenAICompatible.kind: OpenAICompatible}


def connect(kind: str, base_url: str, token: str = "") -> Daemon:
    return KINDS[kind](base_url, token)


def detect(base_url: str, token: str = "") -> str:
    """The kind of daemon at this address, asking in order of what each can do. Raises DaemonError."""
    last = DaemonError(Reason.UNREACHABLE)
    for kind in KINDS:
        try:
            connect(kind, base_url, token).probe()
            return kind
        except DaemonError as error:
            last = error
            if error.reason in {Reason.UNREACHABLE, Reason.TIMEOUT}:
                break
    raise last
