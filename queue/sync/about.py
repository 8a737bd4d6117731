"""What the server tells of itself: who it is, whether it works, its limits, its models."""

import socket

from django.conf import settings
from django.utils import timezone

from daemonpulse import __version__
from daemonpulse.models import Installation
from fleet.models import Node

from ..models import Device, Runner
from ..pages import model_choices
from .cursors import newest
from .schema import counted, fields_of

MUTATIONS = 100
TEXT_CHARACTERS = 150_000
WATCHED = 20
LIMITS = {
    "body_bytes": settings.DATA_UPLOAD_MAX_MEMORY_SIZE,
    "mutations": MUTATIONS,
    "text_characters": TEXT_CHARACTERS,
    "watched": WATCHED,
}
MOST_PENDING = 1_000_000


def server() -> dict:
    return {"id": str(Installation.own_id()), "name": socket.gethostname(), "version": __version__, "protocol": 1}


def ping(device: Device, data: object) -> dict:
    """The call `ping`."""
    told = fields_of(data, {"pending": int})
    device.heard(counted(told, "pending", None, MOST_PENDING))
    return {
        "server": server(),
        "device": {"name": device.name},
        "time": timezone.now().isoformat(),
        "nodes": {"online": Node.objects.online().count(), "all": Node.objects.enabled().count()},
        "is_working": Runner.has_worker(),
        "cursor": newest(),
        "limits": LIMITS,
    }


def models(device: Device, data: object) -> dict:
    """The call `models`."""
    fields_of(data, {})
    choices = model_choices()
    return {"models": [{"key": one["key"], "name": one["name"], "is_usable": one["is_online"]} for one in choices]}
