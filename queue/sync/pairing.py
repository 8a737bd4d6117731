"""A device comes by a one-time code, and leaves by itself."""

import json

from django.db import transaction

from daemonpulse import sealing
from daemonpulse.models.event import writing

from ..models import Device, PairingCode
from .about import server
from .errors import SyncError, wrong_field
from .schema import fields_of

FIELDS = {"code": str, "name": str, "kind": str, "app": str, "public_key": str}


def pair(data: object) -> dict:
    """The call `pair`. Raises SyncError; a wrong field does not use up the code."""
    told = fields_of(data, FIELDS, required=("code", "name", "kind"))
    name = told["name"].strip()
    if not 1 <= len(name) <= 80:
        raise wrong_field("name", "length", "Give the device a name of 1 to 80 characters.")
    if told["kind"] not in Device.Kind.values:
        raise wrong_field("kind", "invalid_choice", f"Must be one of {', '.join(Device.Kind.values)}.")
    key, point = _agreed(told["public_key"]) if "public_key" in told else (b"", b"")
    with transaction.atomic(), writing():  # whatever fails gives the code back
        code = PairingCode.redeem(told["code"])
        if code is None:
            raise SyncError(
                422,
                "bad_code",
                "This code is wrong, used or older than five minutes. Make a new one on the server: "
                "Settings → Your devices → Pair a device.",
            )
        device, token = Device.pair(
            code, key=sealing.to_text(key), name=name, kind=told["kind"], app=told.get("app", "")[:40]
        )
    answer = {"device": str(device.pk), "name": device.name, "sealed": device.is_sealed, "server": server()}
    if not key:
        return answer | {"token": token}
    header = {"kid": str(device.pk), "re": 0, "status": 200}
    box = sealing.seal(key, header, json.dumps({"token": token}).encode())
    return answer | {"public_key": sealing.to_text(point), "box": box}


def _agreed(public_key: str) -> tuple[bytes, bytes]:
    """(the device's key, our point). Raises SyncError."""
    agreement = sealing.Agreement()
    try:
        other = sealing.from_text(public_key)
        if len(other) != sealing.POINT_BYTES:
            raise ValueError("not uncompressed")
        return agreement.key(other, is_server=True), agreement.point
    except ValueError as error:
        raise wrong_field("public_key", "invalid", "Must be an uncompressed point of P-256 in base64url.") from error


def leave(device: Device, data: object) -> dict:
    """The call `leave`."""
    fields_of(data, {})
    device.revoke()
    return {}
