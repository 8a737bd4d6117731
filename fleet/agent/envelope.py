"""The signed envelope that a command travels in (docs/agent.md has the exact form).

The token of a request lets somebody look; only an envelope lets somebody act. It is signed with a key that never
travels, holds for a minute, and works once: who records it on the way can neither alter nor repeat it.
"""

import hashlib
import hmac
import json
import re
import secrets
import time
import uuid
from dataclasses import dataclass

from fleet.agent.keys import AgentKey
from fleet.agent.nonces import Nonces, TooMany

PURPOSE = b"daemonpulse-command-v1\n"  # before the signed text, so that the key signs nothing else by accident
WINDOW_SECONDS = 60
MAX_BYTES = 48 * 1024  # of the canonical form
FIELDS = {"id", "issued_at", "nonce", "action", "parameters", "signature"}
ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
NONCE = re.compile(r"[A-Za-z0-9_-]{22,64}")
ACTION = re.compile(r"[a-z][a-z_]{0,39}")
SIGNATURE = re.compile(r"[0-9a-f]{64}")
LATEST = 2**53  # what every JSON reader takes as a whole number

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


class Refused(Exception):
    """An envelope that is not to be acted on; the message says why and what to do about it."""


@dataclass(frozen=True)
class Command:
    id: str
    action: str
    parameters: dict


def canonical(envelope: dict) -> bytes:
    """What is signed: all but the signature, in one form. Raises ValueError for what has none."""
    signed = {name: value for name, value in envelope.items() if name != "signature"}
    return PURPOSE + _encode(signed).encode()


def sign(key: AgentKey, action: str, parameters: dict, *, id: str | None = None, now: float | None = None) -> dict:
    """An envelope for this command. `now` in unix seconds; `id` names the command in the logs of both ends."""
    envelope = {
        "id": id or uuid.uuid4().hex,
        "issued_at": round((time.time() if now is None else now) * 1000),
        "nonce": secrets.token_urlsafe(16),
        "action": action,
        "parameters": parameters,
    }
    return envelope | {"signature": _signature(key, canonical(envelope))}


def _signature(key: AgentKey, text: bytes) -> str:
    return hmac.new(key.signing_key, text, hashlib.sha256).hexdigest()


class Verifier:
    """Opens envelopes signed with one key, each of them once. Thread-safe."""

    def __init__(self, key: AgentKey, nonces: Nonces | None = None):
        self.key = key
        self.nonces = nonces or Nonces()

    def open(self, envelope: object, now: float | None = None) -> Command:
        """The command inside. Raises Refused, and nothing else, whatever it is given.

        1. Has it the form of an envelope? 2. Is it signed with our key? 3. Is it of this minute?
        4. Is it the first time? Only what passes 1 to 3 is remembered, so nobody without the key fills the memory.
        """
        text = _checked(envelope)  # 1
        if not hmac.compare_digest(_signature(self.key, text), envelope["signature"]):  # 2
            raise Refused("it is not signed with this agent's key, or was altered on the way")
        now_ms = round((time.time() if now is None else now) * 1000)
        _check_time(envelope["issued_at"], now_ms)  # 3
        self._check_first_time(envelope, now_ms)  # 4
        return Command(envelope["id"], envelope["action"], envelope["parameters"])

    def _check_first_time(self, envelope: dict, now_ms: int) -> None:
        # Twice the window: it stays known while a clock that is set back by up to a minute makes it young again.
        until = envelope["issued_at"] + 2 * WINDOW_SECONDS * 1000
        try:
            is_new = self.nonces.remember(envelope["nonce"], until, now_ms)
        except TooMany:
            raise Refused("too many commands came within two minutes; wait a little") from None
        except OSError as error:
            raise Refused(f"the agent cannot write into its folder ({error.strerror}), so nothing is run") from error
        if not is_new:
            raise Refused("it was used before; each command needs an envelope of its own")


def _checked(envelope: object) -> bytes:
    """The signed text of something with the form of an envelope."""
    if not isinstance(envelope, dict) or set(envelope) != FIELDS:
        raise Refused(f"it is no envelope: it needs exactly {', '.join(sorted(FIELDS))}")
    for name, form in (("id", ID), ("nonce", NONCE), ("action", ACTION), ("signature", SIGNATURE)):
        value = envelope[name]
        if not isinstance(value, str) or not form.fullmatch(value):
            raise Refused(f"its {name} has not the form it needs")
    at = envelope["issued_at"]
    if type(at) is not int or not 0 <= at < LATEST:
        raise Refused("its issued_at is not a whole number of milliseconds since 1970")
    if not isinstance(envelope["parameters"], dict):
        raise Refused("its parameters are not an object")
    try:
        text = canonical(envelope)
    except (ValueError, TypeError, RecursionError) as error:
        raise Refused("its parameters hold something that has no canonical form") from error
    if len(text) > MAX_BYTES:
        raise Refused(f"it is longer than {MAX_BYTES // 1024} KB")
    return text


def _check_time(issued_at: int, now_ms: int) -> None:
    seconds = (now_ms - issued_at) / 1000
    if seconds > WINDOW_SECONDS:
        raise Refused(f"it is {seconds:.0f} s old, more than {WINDOW_SECONDS}; compare the clocks of both machines")
    if -seconds > WINDOW_SECONDS:
        raise Refused(f"it comes from {-seconds:.0f} s in the future; compare the clocks of both machines")
