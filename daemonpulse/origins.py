"""Only our own pages: of sockets, and of calls that carry no CSRF token."""

from urllib.parse import urlsplit

from channels.security.websocket import WebsocketDenier


def is_own_page(origin: str, host: str) -> bool:
    """Whether an Origin header is that of the Host it was sent to, port included; no Origin: no page at all."""
    try:
        return not origin or urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:  # such as half an IPv6 address
        return False


class SameOriginOnly:
    """Refuses a handshake whose Origin is not the Host it was sent to, port included.

    Cookies do not tell ports apart, so another server on this machine counts as "the same site" for the browser.
    A client that sends no Origin is no browser; it gets past this, but has no session either.
    """

    def __init__(self, application):
        self.application = application

    async def __call__(self, scope, receive, send):
        headers = dict(scope["headers"])
        origin = headers.get(b"origin", b"").decode("latin1")
        host = headers.get(b"host", b"").decode("latin1")
        if not is_own_page(origin, host):
            return await WebsocketDenier()(scope, receive, send)
        return await self.application(scope, receive, send)
