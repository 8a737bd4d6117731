"""The pages of one's own devices."""

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from ..models import Device, PairingCode
from .forms import NameForm
from .pages import devices_context, is_local, origin_of, origins_for_others
from .pairing import Offer

SECTION = {"section": "settings"}


def _own_device(request, pk) -> Device:
    return get_object_or_404(Device.objects.of(request.user).paired(), pk=pk)


@require_GET
def device_list(request):
    return _list(request)


def _list(request, status: int = 200, **extra) -> HttpResponse:
    context = SECTION | devices_context(request.user) | extra
    return render(request, "queue/device_list.html", context, status=status)


@never_cache
def device_pair(request):
    """The code is on this answer's page and nowhere else, so there is no redirect."""
    if request.method != "POST":  # somebody signed in again, or opened it by hand
        return redirect("device_list")
    code, text = PairingCode.issue(request.user)
    here = origin_of(request)
    origins = origins_for_others(here)
    context = {
        "code": code,
        "offer": Offer(text, origins[0] if origins else here),
        "here": Offer(text, here),
        "origins": origins,
        "is_local": is_local(here),
        "is_elsewhere": here not in origins,
    }
    return render(request, "queue/device_pairing.html", SECTION | context, status=201)


@require_POST
def device_rename(request, pk):
    device = _own_device(request, pk)
    form = NameForm(request.POST, auto_id=f"{device.dom_id}-%s")
    if not form.is_valid():
        return _list(request, 422, form=form, renamed=device)
    device.rename(form.cleaned_data["name"])
    messages.success(request, f"It is called “{device.name}” now.")
    return redirect("device_list")


@require_POST
def device_revocation(request, pk):
    device = _own_device(request, pk)
    device.revoke()
    messages.success(request, f"“{device.name}” is revoked; it gets in no more.")
    return redirect("device_list")
