"""A client has no nodes and no models of its own: their pages say where they are."""

from django.shortcuts import render

from ..models import Remote

ONLY_ON_SERVERS = ("/nodes/", "/models/", "/devices/", "/m/", "/ca/", "/api/sync/", "/api/v1/")
HERE_TOO = ("/api/v1/prompts", "/api/v1/models")


def only_what_is_here(get_response):
    def middleware(request):
        path = request.path
        if not path.startswith(ONLY_ON_SERVERS) or path.startswith(HERE_TOO) or not request.user.is_authenticated:
            return get_response(request)
        context = {"title": "That is on the server", "text": _where(), "section": ""}
        return render(request, "daemonpulse/error.html", context, status=404)

    return middleware


def _where() -> str:
    remote = Remote.current()
    where = f"at {remote.url}" if remote else "once this client is paired with one"
    return f"This is a client: it has no nodes and models of its own. You find this page on its server, {where}."
