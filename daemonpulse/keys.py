"""The key that everything secret in the database is encrypted with, and what is derived from it.

It is 32 random bytes, kept as text in a 0600 file beside the database or in DAEMONPULSE_KEY.
"""

import hashlib
import hmac
import os
import secrets
from pathlib import Path

ENVIRONMENT_VARIABLE = "DAEMONPULSE_KEY"
FILE_NAME = "secret.key"
KEY_BYTES = 32


class KeyProblem(Exception):
    """The key is missing, unreadable or not the one that this database was written with."""


def path(data_dir: Path) -> Path:
    return data_dir / FILE_NAME


def generate() -> str:
    return secrets.token_urlsafe(KEY_BYTES)


def read(data_dir: Path) -> str | None:
    """The key from the environment or the key file; None where there is neither."""
    if from_environment := os.environ.get(ENVIRONMENT_VARIABLE):
        return from_environment.strip()
    try:
        return path(data_dir).read_text().strip() or None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KeyProblem(f"The key file {path(data_dir)} cannot be read: {error.strerror}.") from error


def read_or_create(data_dir: Path, *, has_database: bool) -> str:
    """The key, made on the first start.

    Raises KeyProblem when a database is there but its key is not: a new key could not read it.
    """
    if key := read(data_dir):
        return key
    if has_database:
        raise KeyProblem(
            f"There is a database in {data_dir}, but its key is missing. Put the file {FILE_NAME} back beside "
            f"it or set {ENVIRONMENT_VARIABLE}; without the key its prompts cannot be read by anybody."
        )
    return write(data_dir, generate())


def write(data_dir: Path, key: str, name: str = FILE_NAME) -> str:
    """Put the key file in place in one step, readable by its owner alone; returns the key."""
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = data_dir / f"{name}.draft"
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(key + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(data_dir / name)
    return key


def derive(key: str, purpose: str) -> str:
    """A secret of its own for one purpose, so that none of them tells the others."""
    return hmac.new(key.encode(), purpose.encode(), hashlib.sha256).hexdigest()
