"""The way of a call: version, method, token, rate, seal, body; then the answer the same way back."""

import json
import time
from dataclasses import dataclass

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.request import UnreadablePostError

from daemonpulse import sealing
from daemonpulse.origins import is_own_page
from daemonpulse.throttling import Throttle, client_address

from ..models import Device
from .errors import SyncError

VERSION = 1
WRONG_CODES = Throttle("pairing", limit=8, seconds=300)
MAX_SEQ = 2**53 - 1  # what every JSON reader keeps exact


class Pace:
    """At most `burst` calls at once and `per_second` on average, for each device, in this process."""

    def __init__(self, per_second: float, burst: int):
        self.per_second, self.burst = per_second, burst
        self.spent: dict[object, tuple[float, float]] = {}  # when, and how much was spent then

    def wait(self, key: object) -> float:
        """0 when the call may go on, else after how many seconds one may."""
        now = time.monotonic()
        at, spent = self.spent.get(key, (now, 0.0))
        spent = max(0.0, spent - (now - at) * self.per_second)
        if spent + 1 > self.burst:
            return (spent + 1 - self.burst) / self.per_second
        self.spent[key] = now, spent + 1
        return 0.0


PACE = Pace(per_second=20, burst=100)


@dataclass(frozen=True, slots=True)
class Opened:
    """A call that may be answered: who calls, and its body. `seq` is that of a sealed body."""

    device: Device
    data: object
    seq: int | None


def check_way(request: HttpRequest, version: int, is_known: bool) -> None:
    """Raises SyncError for what no body can mend."""
    if version != VERSION:
        raise SyncError(
            426, "version",
            f"This server speaks version {VERSION} of sync, the client version {version}. Update the older one.",
            supported=[VERSION],
        )  # fmt: skip
    if not is_known:
        raise SyncError(404, "no_call", "There is no such call.")
    if request.method != "POST":
        raise SyncError(405, "method", "Use POST here.")
    if not is_own_page(request.headers.get("Origin", ""), request.get_host()):
        raise SyncError(403, "foreign_origin", "Only this server's own pages may call it from a browser.")


def body_of(request: HttpRequest) -> bytes:
    try:
        return request.body
    except RequestDataTooBig as error:
        limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        message = f"The request is larger than {limit // 1024**2} MB. Send less at once."
        raise SyncError(413, "too_large", message, limit_bytes=limit) from error
    except UnreadablePostError as error:
        raise SyncError(400, "malformed", "The request broke off.") from error


def parsed(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise SyncError(400, "malformed", "The body is not valid JSON.") from error


def admit_address(request: HttpRequest) -> None:
    """Raises SyncError for an address that has guessed too often."""
    if WRONG_CODES.is_blocked(client_address(request)):
        raise too_fast(WRONG_CODES.seconds)


def too_fast(seconds: float) -> SyncError:
    seconds = max(1, round(seconds))
    return SyncError(429, "too_fast", f"Too many calls. Wait {seconds} s.", retry_after=seconds)


def device_of(token: str) -> Device:
    """The device that shows this token. Raises SyncError when it may not come in."""
    if not token:
        raise SyncError(401, "no_token", "Send the device's token as “Authorization: Bearer dpd_…”.")
    device = Device.find(token)
    if device is None or not device.owner.is_active:
        raise SyncError(401, "unknown_token", "This server does not know the device. Pair it again.")
    if device.revoked_at is not None:
        raise SyncError(401, "revoked", "The device was shut out. Pair it again if it should come back.")
    if not device.is_usable:
        raise SyncError(401, "expired", "The device was not here for a year. Pair it again.")
    if wait := PACE.wait(device.pk):
        raise too_fast(wait)
    return device


def admit(request: HttpRequest) -> Device:
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    return device_of(secret.strip() if scheme.lower() == "bearer" else "")


def open_body(request: HttpRequest, device: Device, call: str) -> Opened:
    """The call's body, out of its seal. Raises SyncError for what is not sealed as this device must."""
    body = body_of(request)
    content_type = request.content_type
    if content_type not in {"application/json", sealing.CONTENT_TYPE}:
        raise SyncError(415, "content_type", f"Send application/json or {sealing.CONTENT_TYPE}.")
    if content_type == "application/json":
        if device.is_sealed:
            raise SyncError(403, "sealed_only", "This device was paired sealed; a plain body is refused.")
        return Opened(device, parsed(body), None)
    seq, opened = unseal(device, body.decode("ascii", errors="replace"), call)
    return Opened(device, opened, seq)


def unseal(device: Device, sealed: str, call: str) -> tuple[int, bytes]:
    """(seq, body) of what a device sealed for this call; not yet whether the number was used. Raises SyncError."""
    unopened = SyncError(
        400, "unopened", "It was sealed with another key or for another call, or altered on its way. Pair again."
    )
    if not device.is_sealed:
        raise unopened
    try:
        header, body = sealing.open_sealed(sealing.from_text(device.key), sealed)
    except sealing.CannotOpen as error:
        raise unopened from error
    seq = header.get("seq")
    is_number = isinstance(seq, int) and not isinstance(seq, bool) and 0 < seq <= MAX_SEQ
    if header.get("kid") != str(device.pk) or header.get("use") != call or not is_number:
        raise unopened
    return seq, body


def check_fresh(device: Device, seq: int) -> None:
    """Raises SyncError for a number that was used: it is a copy of an earlier request."""
    if not device.accept(seq):
        raise SyncError(
            409, "replayed", "This request was here before, or the device counts from an old backup.",
            seen=device.seen_seq,
        )  # fmt: skip


def answer(opened: Opened | None, told: dict, status: int = 200) -> HttpResponse:
    """As the request came: sealed or plain."""
    if opened is None or opened.seq is None:
        response: HttpResponse = JsonResponse(told, status=status, json_dumps_params={"ensure_ascii": False})
    else:
        header = {"kid": str(opened.device.pk), "re": opened.seq, "status": status}
        body = json.dumps(told, ensure_ascii=False).encode()
        sealed = sealing.seal(sealing.from_text(opened.device.key), header, body)
        response = HttpResponse(sealed, content_type=sealing.CONTENT_TYPE, status=status)
    response["Cache-Control"] = "no-store"
    if status == 429:
        response["Retry-After"] = str(told["error"]["retry_after"])
    return response
