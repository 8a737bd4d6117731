"""From a one-time code to a paired device (docs/sync.md, `pair`)."""

import json
import socket
from pathlib import Path

import requests

from daemonpulse import __version__, sealing
from daemonpulse.models import User

from ..models import Remote
from . import trust
from .line import PREFIX, CallFailed, as_object, failure_of, not_understood, plain_failure, post

APP = f"daemonpulse-client/{__version__}"
SECONDS = (10, 20)


class CannotPair(Exception):
    """What went wrong and what to do, in one message."""


def pair(owner: User, server: str, code: str, *, name: str = "", ca_file: str = "", fingerprint: str = "") -> Remote:
    """Pair this client with a server, in place of an earlier pairing. Raises CannotPair; nothing is changed then."""
    try:
        url = trust.origin(server)
        ca_certificate = _ca(url, ca_file, fingerprint)
        return _pair(owner, url, code, (name or own_name())[:80], ca_certificate)
    except (trust.NotTrusted, ValueError) as error:
        raise CannotPair(str(error)) from error
    except (CallFailed, requests.RequestException) as error:
        raise CannotPair(_words(error, server)) from error


def own_name() -> str:
    """What this computer is called on its server, as that last told; before, what it calls itself."""
    remote = Remote.current()
    return (remote.device_name if remote else "") or socket.gethostname()


def _words(error: Exception, server: str) -> str:
    if isinstance(error, CallFailed) and error.code != "gone":
        return error.message
    return f"{server} does not answer. Is the server running, and is the address right?"


def _ca(url: str, ca_file: str, fingerprint: str) -> str:
    """The PEM of the one CA to trust; empty for the system's own."""
    if not url.startswith("https://") or not (ca_file or fingerprint):
        return ""
    if not ca_file:
        return trust.fetch_ca(url, fingerprint)
    try:
        return trust.read_ca(Path(ca_file).expanduser().read_bytes())
    except (OSError, ValueError) as error:
        raise CannotPair(f"{ca_file} is no certificate that can be read: {error}.") from error


def _pair(owner: User, url: str, code: str, name: str, ca_certificate: str) -> Remote:
    agreement = sealing.Agreement()
    asked = {"code": code, "name": name, "kind": "desktop", "app": APP}
    asked["public_key"] = sealing.to_text(agreement.point)
    told = _ask(url, asked, ca_certificate)
    try:
        key = agreement.key(sealing.from_text(told["public_key"]), is_server=False)
        header, opened = sealing.open_sealed(key, told["box"])
        if (header.get("kid"), header.get("re")) != (told["device"], 0):
            raise not_understood("The token is another device's.")
        token = json.loads(opened)["token"]
        device = {"id": told["device"], "name": told["name"]}
        about = {"id": str(told["server"]["id"]), "name": str(told["server"]["name"])}
    except (sealing.CannotOpen, KeyError, TypeError, ValueError) as error:
        raise not_understood("The agreement on a key failed.") from error
    return Remote.pair(
        owner, url=url, server=about, device=device, token=token, key=sealing.to_text(key),
        ca_certificate=ca_certificate,
    )  # fmt: skip


def _ask(url: str, asked: dict, ca_certificate: str) -> dict:
    headers = {"Content-Type": "application/json"}
    body = json.dumps(asked).encode()
    session = trust.session(ca_certificate)
    status, kind, content = post(session, f"{url}{PREFIX}pair", body, headers, SECONDS)
    if kind != "application/json":
        raise plain_failure(status, content)
    told = as_object(content)
    if status != 200:
        raise failure_of(status, told)
    return told
