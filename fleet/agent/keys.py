"""The key that a control plane needs to use an agent: one string to copy and paste."""

import base64
import binascii
import contextlib
import os
import secrets
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

PREFIX = "dpa1"  # DaemonPulse agent, first form
SECRET_BYTES = 32
FILE = "agent.key"
NOT_A_KEY = "This is not an agent's key. It begins with dpa1. and `daemonpulse agent key` on that machine prints it."


@dataclass(frozen=True)
class AgentKey:
    """`token` opens the door and travels with each request; `signing_key` signs commands and never travels.

    `fingerprint` is the SHA-256 of the agent's own certificate in hex; "" when it has none, or one that a
    certificate authority vouches for.
    """

    token: str = field(repr=False)
    signing_key: bytes = field(repr=False)
    fingerprint: str = ""

    @classmethod
    def make(cls) -> "AgentKey":
        return cls(_text(secrets.token_bytes(SECRET_BYTES)), secrets.token_bytes(SECRET_BYTES))

    @classmethod
    def parse(cls, text: str) -> "AgentKey":
        """The key in this string, whatever white space came with it. Raises ValueError with a sentence."""
        prefix, *parts = "".join(text.split()).split(".")
        if prefix != PREFIX or len(parts) not in (2, 3):
            raise ValueError(NOT_A_KEY)
        token, signing_key, *fingerprint = [_bytes(part) for part in parts]
        return cls(_text(token), signing_key, fingerprint[0].hex() if fingerprint else "")

    def __str__(self) -> str:
        """Nothing secret: a key that is formatted into a message must not give itself away."""
        return "an agent's key"

    def to_text(self) -> str:
        """The string to paste. Secret: whoever has it can use the agent."""
        parts = [PREFIX, self.token, _text(self.signing_key)]
        return ".".join([*parts, _text(bytes.fromhex(self.fingerprint))] if self.fingerprint else parts)

    def with_fingerprint(self, fingerprint: str) -> "AgentKey":
        return replace(self, fingerprint=fingerprint)

    def derive(self, purpose: str) -> bytes:
        """32 bytes for one more purpose, from which the signing key cannot be found."""
        return HKDF(SHA256(), 32, salt=None, info=f"daemonpulse-agent-{purpose}".encode()).derive(self.signing_key)


def read_or_make(folder: Path) -> AgentKey:
    """The key of the agent that keeps its files in `folder`; made on the first start.

    Raises ValueError when the file holds something else, OSError when it cannot be read or written.
    """
    file = folder / FILE
    try:
        return AgentKey.parse(file.read_text())
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError):  # another process made one at the same moment
            _store(folder, AgentKey.make(), is_first=True)
        return AgentKey.parse(file.read_text())
    except ValueError as error:
        raise ValueError(
            f"{file} holds no agent's key. Put the right one back, or remove the file: the next start makes a new key, "
            "which the control plane must then be given."
        ) from error


def write(folder: Path, key: AgentKey) -> None:
    """Store the key for this user's eyes only, whole or not at all."""
    _store(folder, key, is_first=False)


def _store(folder: Path, key: AgentKey, is_first: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, name = tempfile.mkstemp(dir=folder, prefix=".key-")  # 0600 by itself
    with os.fdopen(handle, "w") as file:
        file.write(key.to_text() + "\n")
    if is_first:
        try:
            os.link(name, folder / FILE)
        finally:
            Path(name).unlink()
    else:
        Path(name).replace(folder / FILE)


def _text(secret: bytes) -> str:
    return base64.urlsafe_b64encode(secret).rstrip(b"=").decode()


def _bytes(part: str) -> bytes:
    try:
        secret = base64.b64decode(part.encode("ascii") + b"=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(NOT_A_KEY) from error
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"{NOT_A_KEY} This one is cut off or too long.")
    return secret
