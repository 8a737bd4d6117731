"""Serving TLS beside plain HTTP, in the one web process."""

import logging
import time

from daphne.server import Server
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.error import CannotListenError
from twisted.python.failure import Failure

from daemonpulse import certs

log = logging.getLogger(__name__)

LOOK_SECONDS = 86400.0  # a certificate is renewed weeks before its end
PREFIX = b"__Host-"


class FreshContext:
    """The TLS context for each new connection: renewed once a day where that is due, and read again when
    `daemonpulse certs` has written another certificate. Open connections stay as they are.

    Raises CertificateProblem when there is nothing to begin with; later it goes on with what it has.
    """

    method = SSL.TLS_METHOD

    def __init__(self):
        self._context, self._stamp = None, None
        self._look()

    def getContext(self) -> SSL.Context:
        if time.time() >= self._look_at or self._stamp != _stamp():
            try:
                self._look()
            except certs.CertificateProblem as problem:
                log.error("tls.not_renewed %s", problem)
        return self._context

    def _look(self) -> None:
        self._look_at = time.time() + LOOK_SECONDS
        self._stamp = _stamp()
        if certs.ensure().is_new:
            log.info("tls.renewed")
        self._stamp = _stamp()
        pem = certs.server_path().read_bytes()
        self._context = certs.served(pem, pem).getContext()


def _stamp() -> tuple[int, int] | None:
    try:
        stat = certs.server_path().stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino


class TlsServer(Server):
    """Daphne that also listens for TLS. Not through an endpoint's description, which reads its files once."""

    def __init__(self, application, *, tls_host: str, tls_port: int, **options):
        super().__init__(HostCookies(application, tls_port), **options)
        self.tls_host, self.tls_port = tls_host, tls_port
        self.tls_context = FreshContext()

    def run(self) -> None:
        reactor.callWhenRunning(self.listen_with_tls)
        super().run()

    def listen_with_tls(self) -> None:
        try:
            reactor.listenSSL(self.tls_port, self.http_factory, self.tls_context, interface=self.tls_host)
        except CannotListenError:
            self.listen_error(Failure())


class HostCookies:
    """Cookies of the TLS port are `Secure` and called `__Host-…`; those of plain HTTP stay as they are.

    Browsers keep one jar for all ports of a host. With one name for both, a page over plain HTTP could not replace a
    Secure cookie and nobody could sign in there; and whoever alters plain HTTP could plant a cookie that TLS believes.
    The prefix rules both out (RFC 6265bis §4.1.3).
    """

    def __init__(self, application, tls_port: int):
        self.application, self.tls_port = application, tls_port

    async def __call__(self, scope, receive, send):
        # By port: Daphne tells the scheme of a request, but not of a socket.
        if (scope.get("server") or (None, None))[1] != self.tls_port:
            return await self.application(scope, receive, send)

        async def send_renamed(message):
            if "headers" in message:
                message = message | {"headers": [_to_browser(*header) for header in message["headers"]]}
            await send(message)

        headers = [_from_browser(*header) for header in scope["headers"]]
        return await self.application(scope | {"headers": headers}, receive, send_renamed)


def _from_browser(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    if name.lower() != b"cookie":
        return name, value
    cookies = [cookie.strip() for cookie in value.split(b";")]
    return name, b"; ".join(cookie.removeprefix(PREFIX) for cookie in cookies if cookie.startswith(PREFIX))


def _to_browser(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    if name.lower() != b"set-cookie":
        return name, value
    is_marked = b"secure" in [part.strip().lower() for part in value.split(b";")]
    return name, PREFIX + value + (b"" if is_marked else b"; Secure")
