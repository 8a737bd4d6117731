"""The contexts of what both a page of devices and its socket render."""

from urllib.parse import urlsplit

from django.conf import settings
from django.utils import timezone

from daemonpulse.addresses import is_address, is_loopback

from ..models import Device, PairingCode

EVERYWHERE = {"0.0.0.0", "::"}  # noqa: S104 - compared, not bound


def devices_context(user) -> dict:
    """This person's devices. `usable`: the ids of those that may still call; the others were silent for a year."""
    devices = Device.objects.of(user)
    usable = set(devices.usable().values_list("pk", flat=True))
    return {"devices": list(devices.paired()), "usable": usable}


def pairing_context(user, pk: int) -> dict:
    """What became of a code: `device` is what was paired with it; `is_over` when it pairs nothing any more. `earlier`:
    devices that are away and may be the same one, paired before."""
    code = PairingCode.objects.filter(owner=user, pk=pk).first()  # a newer one replaces it
    is_over = code is None or code.expires_at <= timezone.now()
    device = None
    if code is not None and code.used_at is not None:
        device = Device.objects.of(user).filter(paired_at__gte=code.used_at).order_by("paired_at").first()
    earlier = [other for other in device.namesakes() if not other.is_online] if device else []
    return {"device": device, "is_over": is_over, "earlier": earlier}


def origin_of(request) -> str:
    """Scheme, host and port that the reader's browser has in its address bar."""
    scheme = "https" if settings.IS_BEHIND_TLS else request.scheme
    return f"{scheme}://{request.get_host()}"


def is_local(origin: str) -> bool:
    """Whether only this machine can reach it."""
    return is_loopback(urlsplit(origin).hostname or "")


def origins_for_others(here: str) -> list[str]:
    """Where other machines reach this server, the likeliest first; empty where nobody but this machine can.

    `here`: the origin under which the reader came. That one, if it will do; else those with TLS, else the other names
    under which this server answers.
    """
    parts = urlsplit(here)
    if not is_local(here) and (parts.scheme == "https" or not settings.TLS_URLS):
        return [here]
    if settings.TLS_URLS:
        return settings.TLS_URLS
    names = [host.strip("[]") for host in settings.ALLOWED_HOSTS]
    reachable = [name for name in names if name and name[0] not in "*." and name not in EVERYWHERE]
    port = f":{parts.port}" if parts.port else ""
    origins = [f"{parts.scheme}://{_bracketed(name)}{port}" for name in sorted(reachable, key=_doubt)]
    return [origin for origin in origins if not is_local(origin)]


def _doubt(name: str) -> int:
    """A phone finds an address surely, a full name mostly, and a bare one rarely."""
    return 0 if is_address(name) else 1 if "." in name else 2


def _bracketed(name: str) -> str:
    return f"[{name}]" if ":" in name else name
