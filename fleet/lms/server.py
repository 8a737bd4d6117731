"""LM Studio's server over HTTP: does it answer, and what has it loaded. Nothing here can wake the daemon."""

import time

from fleet.daemons import http
from fleet.daemons.errors import DaemonError, Reason

GREETING_SECONDS = 0.5  # what LM Studio's own command line allows (contract §1.2)
PATIENT_SECONDS = 3.0  # where a busy server must not pass for none; where there is none, that is known at once
MODELS_SECONDS = 3.0
POLL_SECONDS = 0.1


def look(url: str, seconds: float) -> bool | None:
    """The server answers; it needs no token for this (contract §1.2). None: somebody is there, but did not answer
    within `seconds`, as one that is busy, or just ending."""
    try:
        return http.call("GET", f"{url}/lmstudio-greeting", seconds=seconds).get("lmstudio") is True
    except DaemonError as error:
        return None if error.reason in {Reason.TIMEOUT, Reason.CUT} else False


def greets(url: str, seconds: float = GREETING_SECONDS) -> bool:
    """The server answers, and soon."""
    return look(url, seconds) is True


def comes_to(url: str, is_up: bool, seconds: float) -> bool:
    """Wait until the server answers, or is gone: one that is only slow is neither."""
    until = time.monotonic() + seconds
    while True:
        left = until - time.monotonic()
        if look(url, max(left, GREETING_SECONDS)) is is_up:
            return True
        if left <= 0:
            return False
        time.sleep(POLL_SECONDS)


def loaded_model(url: str, token: str, seconds: float = MODELS_SECONDS) -> str | None:
    """The first loaded model by its instance id, language models first; None when none is. Raises DaemonError."""
    models = http.call("GET", f"{url}/api/v1/models", token, seconds=seconds).get("models")
    found = []
    for model in models if isinstance(models, list) else ():
        instances = model.get("loaded_instances") if isinstance(model, dict) else None
        for instance in instances if isinstance(instances, list) else ():
            if isinstance(instance, dict) and isinstance(instance.get("id"), str):
                found.append((model.get("type") == "embedding", instance["id"]))
    return min(found, key=lambda row: row[0])[1] if found else None
