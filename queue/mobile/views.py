"""What a phone loads before it is paired with anybody: the same for everyone, so no sign-in and nothing of anyone."""

import hashlib
import json
from functools import cache
from pathlib import Path

from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.http import HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import render
from django.templatetags.static import static
from django.urls import reverse
from django.views.decorators.cache import cache_control
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

FOLDER = Path(settings.BASE_DIR) / "static"
TEMPLATE = Path(settings.BASE_DIR) / "templates" / "mobile" / "shell.html"
WORKER = "mobile/sw.js"
SHARED = ("daemonpulse/app.css", "daemonpulse/theme.js", "daemonpulse/icon.svg")
DARK = "#0f1422"


def fresh(view):
    """Asked for anew each time: an old worker would keep an old app."""
    return cache_control(no_cache=True)(require_GET(login_not_required(view)))


@fresh
def shell(request):
    return render(request, "mobile/shell.html")


@fresh
def worker(request):
    source = (FOLDER / WORKER).read_text()
    text = f"const SHELL = {json.dumps(shell_files())};\n{source}"
    return HttpResponse(text, content_type="text/javascript; charset=utf-8")


@fresh
def manifest(request):
    sizes = [("icon-192.png", "192x192", "any"), ("icon-512.png", "512x512", "any")]
    sizes.append(("icon-maskable-512.png", "512x512", "maskable"))
    icons = [
        {"src": static(f"mobile/{name}"), "sizes": size, "type": "image/png", "purpose": purpose}
        for name, size, purpose in sizes
    ]
    page = reverse("mobile")
    told = {
        "id": page,
        "name": "LMRMQ, the DaemonPulse queue",
        "short_name": "LMRMQ",
        "description": "Queue prompts for your own models, also without a connection.",
        "start_url": page,
        "scope": page,
        "display": "standalone",
        "background_color": DARK,
        "theme_color": DARK,
        "icons": icons,
        "shortcuts": [{"name": "New prompt", "url": f"{page}#new"}],
        "share_target": {
            "action": reverse("mobile_share"),
            "method": "POST",
            "enctype": "multipart/form-data",
            "params": {"title": "title", "text": "text", "url": "url"},
        },
    }
    return JsonResponse(told, content_type="application/manifest+json")


@csrf_exempt
@require_POST
@login_not_required
def share(request):
    """The service worker takes what is shared, and none of it comes here; this answers where no worker runs."""
    return HttpResponseRedirect(f"{reverse('mobile')}#new", status=303)


@cache
def shell_files() -> dict:
    """{"version", "page", "files"}: all that the app needs without a network; the version changes with any of it."""
    own = sorted(path for path in (FOLDER / "mobile").iterdir() if path.suffix in {".js", ".css", ".png"})
    fonts = sorted((FOLDER / "daemonpulse" / "fonts").glob("*.woff2"))
    files = [*own, *(FOLDER / name for name in SHARED), *fonts]
    digest = hashlib.sha256()
    for path in [*files, TEMPLATE]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    served = [static(path.relative_to(FOLDER).as_posix()) for path in files if path != FOLDER / WORKER]
    return {"version": digest.hexdigest()[:16], "page": reverse("mobile"), "files": served}
