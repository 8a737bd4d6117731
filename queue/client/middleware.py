"""A client has no nodes and no models of its own: their pages say where they are."""

from django.shortcuts import render

from ..models import Remote

ONLY_ON_SERVERS = ("/nodes/", "/models/", "/devices/", "/m/", "/ca/", "/api/sync/", "/api/v1/")
OPEN = ("/m/", "/ca/", "/api/")  # on a server these need no sign-in; the others lead to it
HERE_TOO = ("/api/v1/prompts", "/api/v1/models")


def only_what_is_here(get_response):
    def middleware(request):
        path, is_signed_in = request.path, request.user.is_authenticated
        is_shown = not path.startswith(ONLY_ON_SERVERS) or path.startswith(HERE_TOO)
        if is_shown or not (is_signed_in or path.startswith(OPEN)):
            return get_response(request)
        context = {"title": "That is on the server", "text": _where(is_signed_in), "section": ""}
        return render(request, "daemonpulse/error.html", context, status=404)

    return middleware


def _where(is_signed_in: bool) -> str:
    """Which server that is, is not for everybody."""
    remote = Remote.current() if is_signed_in else None
    where = f", at {remote.url}" if remote else ""
    return f"This is a client: it has no nodes and models of its own. You find this page on its server{where}."
