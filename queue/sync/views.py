"""One view for all calls of docs/sync.md."""

from datetime import timedelta

from django.contrib.auth.decorators import login_not_required
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt

from daemonpulse.throttling import client_address

from . import door
from .about import models, ping
from .errors import SyncError
from .pairing import leave, pair
from .pulling import pull, text
from .pushing import push

HEARD_EVERY = timedelta(minutes=1)  # a device that never pings is there as well
CALLS = {"ping": ping, "push": push, "pull": pull, "text": text, "models": models, "leave": leave}


@csrf_exempt
@login_not_required
def call(request, version: int, name: str):
    """1. The way. 2. Pairing needs a code only. 3. Who calls, and what it says. 4. The answer, sealed alike."""
    opened = None
    try:
        door.check_way(request, version, name == "pair" or name in CALLS)  # 1
        if name == "pair":  # 2
            return door.answer(None, _pair(request))
        device = door.admit(request)  # 3
        opened = door.open_body(request, device, name)
        if opened.seq is not None:
            door.check_fresh(device, opened.seq)
        if device.last_heard_at is None or timezone.now() - device.last_heard_at > HEARD_EVERY:
            device.heard()
        data = opened.data if opened.seq is None else door.parsed(opened.data)
        told = CALLS[name](device, data)  # 4
    except SyncError as error:
        response = door.answer(opened, error.as_json(), error.status)
        if error.status == 401:
            response["WWW-Authenticate"] = "Bearer"
        if error.status == 405:
            response["Allow"] = "POST"
        return response
    return door.answer(opened, told)


def _pair(request) -> dict:
    door.admit_address(request)
    try:
        return pair(door.parsed(door.body_of(request)))
    except SyncError as error:
        if error.code == "bad_code":
            door.WRONG_CODES.count(client_address(request))
        raise
