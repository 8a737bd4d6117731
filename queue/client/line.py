"""One call to the server and its answer, sealed both ways (docs/sync.md, "Sealing" and "Errors")."""

import io
import json
import re
import time
from collections import deque
from http import HTTPStatus
from threading import Lock

import requests

from daemonpulse import sealing

from ..models import Remote
from . import trust

SECONDS = (5, 30)  # to connect, between two bytes
MAX_ANSWER = 32 * 1024 * 1024  # bytes
PREFIX = "/api/sync/v1/"
CODE = re.compile(r"[a-z_]{1,40}")  # it is logged and kept
MOST_TRIES = 3  # of one call, each with another number
JUMPS, JUMPS_SECONDS = 2, 3600.0  # a store from a backup has to jump once; two copies of a store do it again and again
GONE = {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}


class CallFailed(Exception):
    """A call had no result. `code`: the server's own, or gone, certificate, not_understood. `told`: its whole error.
    `is_unsent`: there was not even a connection, so nobody has heard of it."""

    def __init__(self, code: str, message: str, status: int = 0, told: dict | None = None, *, is_unsent: bool = False):
        super().__init__(code)
        self.code, self.message, self.status, self.told = code, message, status, told or {}
        self.is_unsent = is_unsent


class Numbers:
    """What a device seals with, each once; taken from the database some at a time. All lines of a process share
    them: those of a line that rests would be too old when it speaks again."""

    def __init__(self, device: str):
        self.device = device
        self.left: deque[int] = deque()
        self.lock = Lock()
        self.jumped_at: deque[float] = deque(maxlen=JUMPS)

    def next(self) -> int:
        with self.lock:
            if not self.left:
                self.left.extend(Remote.take_numbers(self.device))
            return self.left.popleft()

    def go_on_after(self, seen: int) -> None:
        """The server has seen these before: our store is an old backup, or somebody else has a copy of it."""
        with self.lock:
            if not self.left or self.left[0] <= seen:
                self.jumped_at.append(time.monotonic())
                self.left = deque(Remote.take_numbers(self.device, above=seen))

    @property
    def are_anothers_too(self) -> bool:
        return len(self.jumped_at) == JUMPS and time.monotonic() - self.jumped_at[0] < JUMPS_SECONDS


class Line:
    """To one server, as one device. Not to be shared between threads."""

    def __init__(self, remote: Remote, numbers: Numbers | None = None):
        self.url, self.device, self.token = remote.url, remote.device, remote.token
        self.key = sealing.from_text(remote.key)
        self.numbers = numbers or Numbers(remote.device)
        self.session = trust.session(remote.ca_certificate)

    def call(self, use: str, body: dict, seconds=SECONDS) -> dict:
        """The answer's body. Raises CallFailed. A number that was used already is replaced."""
        for turn in range(MOST_TRIES):
            try:
                return self._call(use, body, seconds)
            except CallFailed as failure:
                failure.is_unsent &= turn == 0
                if failure.code != "replayed" or not isinstance(failure.told.get("seen"), int):
                    raise
                self.numbers.go_on_after(failure.told["seen"])
                replayed = failure
        raise replayed

    def seal(self, use: str, body: dict) -> tuple[int, str]:
        """(number, sealed body)."""
        seq = self.numbers.next()
        header = {"kid": self.device, "seq": seq, "use": use}
        return seq, sealing.seal(self.key, header, json.dumps(body, ensure_ascii=False).encode())

    def _call(self, use: str, body: dict, seconds) -> dict:
        seq, sealed = self.seal(use, body)
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": sealing.CONTENT_TYPE}
        status, kind, content = post(self.session, self.url + PREFIX + use, sealed.encode(), headers, seconds)
        if kind != sealing.CONTENT_TYPE:
            raise plain_failure(status, content)
        told = self._open(content, seq, status)
        if status != HTTPStatus.OK:
            raise failure_of(status, told)
        return told

    def _open(self, content: bytes, seq: int, status: int) -> dict:
        try:
            header, opened = sealing.open_sealed(self.key, content.decode("ascii", errors="replace"))
        except sealing.CannotOpen as error:
            raise not_understood("It was sealed with another key, or altered on its way.") from error
        if (header.get("kid"), header.get("re"), header.get("status")) != (self.device, seq, status):
            raise not_understood("It is the answer to something else.")
        return as_object(opened)


class Body(io.BytesIO):
    """What is sent. It is read from once there is a connection, over TLS one that is trusted."""

    is_begun = False

    def read(self, size: int | None = -1) -> bytes:
        self.is_begun = True
        return super().read(size)


def post(session: requests.Session, url: str, body: bytes, headers: dict, seconds) -> tuple[int, str, bytes]:
    """(status, content type, body). Raises CallFailed when nothing, or somebody else, answers."""
    sent = Body(body)
    try:
        with session.post(
            url, data=sent, headers=headers, timeout=seconds, stream=True, allow_redirects=False
        ) as answer:
            content = answer.raw.read(MAX_ANSWER + 1, decode_content=True)
            kind = answer.headers.get("Content-Type", "").partition(";")[0].strip()
            status = answer.status_code
    except (requests.RequestException, OSError, ValueError) as error:
        if isinstance(error, requests.exceptions.SSLError) and not sent.is_begun:
            raise CallFailed("certificate", trust.WRONG_CERTIFICATE, is_unsent=True) from error
        raise CallFailed("gone", "The server does not answer.", is_unsent=not sent.is_begun) from error
    except Exception as error:  # urllib3's own, where it reads a body
        if type(error).__module__.partition(".")[0] != "urllib3":
            raise
        raise CallFailed("gone", "The connection to the server broke.") from error
    if len(content) > MAX_ANSWER:
        raise not_understood("It is far too long.")
    return status, kind, content


def plain_failure(status: int, content: bytes) -> CallFailed:
    """An answer that is not sealed can only be an error."""
    if status == HTTPStatus.OK:
        return not_understood("It is not sealed.")
    try:
        return failure_of(status, as_object(content))
    except CallFailed:
        if status in GONE:
            return CallFailed("gone", "The server is down; a proxy in front of it answers.", status)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return CallFailed("server_error", f"The server has trouble of its own (status {status}).", status)
        return CallFailed("no_server", f"At this address is no DaemonPulse server (status {status}).", status)


def failure_of(status: int, told: dict) -> CallFailed:
    error = told.get("error")
    if not isinstance(error, dict) or not CODE.fullmatch(str(error.get("code"))):
        raise not_understood(f"An error without a code (status {status}).")
    return CallFailed(error["code"], str(error.get("message", "")), status, error)


def as_object(content: bytes) -> dict:
    try:
        told = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise not_understood("It is not JSON.") from error
    if not isinstance(told, dict):
        raise not_understood("It is not an object.")
    return told


def not_understood(why: str) -> CallFailed:
    return CallFailed("not_understood", f"What came back is not this server's answer. {why}")
