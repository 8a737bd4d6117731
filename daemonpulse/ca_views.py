"""How a device comes to trust this server's certificate: for everybody, because who cannot trust it cannot sign in."""

from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.http import Http404, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from daemonpulse import certs
from daemonpulse.addresses import is_loopback

PLATFORMS = {
    "android": "Android",
    "ios": "iPhone and iPad",
    "windows": "Windows",
    "macos": "macOS",
    "linux": "Linux",
    "firefox": "Firefox on a computer",
}
SIGNS = {  # in a User-Agent, in lower case; the first that fits counts, because Android's says Linux as well
    "android": ("android",),
    "ios": ("iphone", "ipad"),
    "windows": ("windows",),
    "macos": ("macintosh",),
    "linux": ("linux", "x11"),
}


@login_not_required
@never_cache
@require_GET
def ca_page(request):
    likely = platforms_of(request.headers.get("User-Agent", ""))
    platforms = [
        {"title": PLATFORMS[name], "template": f"daemonpulse/_ca_{name}.html", "is_likely": name in likely[:1]}
        for name in dict.fromkeys([*likely, *PLATFORMS])
    ]
    fingerprint = certs.fingerprint()
    context = {
        "fingerprint": fingerprint and certs.grouped(fingerprint),
        "platforms": platforms,
        "urls": settings.TLS_URLS,
        "is_this_machine": is_loopback(urlsplit(f"//{request.get_host()}").hostname or ""),
    }
    return render(request, "daemonpulse/ca.html", context)


@login_not_required
@never_cache
@require_GET
def ca_certificate(request):
    """PEM, which every platform's importer reads; Linux reads nothing else."""
    if certs.fingerprint() is None:
        raise Http404
    return HttpResponse(certs.ca_path().read_bytes(), content_type="application/x-x509-ca-cert")


def platforms_of(user_agent: str) -> list[str]:
    """What the reader's device probably is, best guess first; a Firefox on a computer has a store of its own."""
    told = user_agent.lower()
    found = [name for name, signs in SIGNS.items() if any(sign in told for sign in signs)][:1]
    is_firefox = "firefox/" in told and found != ["android"]
    return ["firefox", *found] if is_firefox else found
