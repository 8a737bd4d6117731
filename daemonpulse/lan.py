"""Finding and being found on the local network (DNS-SD over multicast DNS, the `zeroconf` library)."""

import contextlib
import ipaddress
import logging
import secrets
import socket
import threading
import time
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

SERVER = "_daemonpulse._tcp.local."
AGENT = "_dpulse-agent._tcp.local."  # 15 letters at most (RFC 6335)
MAX_FOUND = 50
END_SECONDS = 2.0
ASK_SECONDS = 2.0

_own: set[str] = set()  # ids of what this process announces


@dataclass(frozen=True, slots=True)
class Found:
    """A service that announced itself. Anybody on the network can say anything: nothing here is to be trusted."""

    type: str
    name: str
    host: str  # an IP address
    port: int
    properties: dict[str, str] = field(default_factory=dict)


def browse(types: list[str], seconds: float, interfaces: list[str] | None = None) -> list[Found]:
    """Listen for this long and return what is there, but for what this process announced itself.

    Takes up to ASK_SECONDS more, to ask who was heard. Raises OSError where there is no network to ask.
    """
    from zeroconf import DNSQuestionType, Error, InterfaceChoice, ServiceBrowser, ServiceListener, Zeroconf

    names: list[tuple[str, str]] = []

    class Listener(ServiceListener):
        def add_service(self, zeroconf, type_, name):
            names.append((type_, name))

        def update_service(self, zeroconf, type_, name):
            pass

        def remove_service(self, zeroconf, type_, name):
            pass

    zeroconf = Zeroconf(interfaces=interfaces or InterfaceChoice.All)
    try:
        # QM: answers go to all. One sent to the asker alone would go to any process here that shares the port.
        browser = ServiceBrowser(zeroconf, types, Listener(), question_type=DNSQuestionType.QM)
        threading.Event().wait(seconds)
        browser.cancel()  # close() does not end its thread
        until = time.monotonic() + ASK_SECONDS
        found = []
        for type_, name in names[:MAX_FOUND]:
            with contextlib.suppress(Error):  # a name that cannot be one: anybody can announce anything
                rest = (until - time.monotonic()) * 1000
                info = zeroconf.get_service_info(type_, name, min(500, rest), DNSQuestionType.QM) if rest > 0 else None
                found += [service] if info and (service := _read(type_, name, info)) else []
    finally:
        zeroconf.close()
    return [service for service in found if service.properties.get("id") not in _own]


def _read(type_: str, name: str, info) -> Found | None:
    addresses = info.parsed_addresses()
    if not addresses or not info.port:
        return None
    properties = {
        key.decode(errors="replace")[:50]: (value or b"").decode(errors="replace")[:200]
        for key, value in list(info.properties.items())[:20]
    }
    return Found(type_, name.removesuffix(f".{type_}")[:80], addresses[0], info.port, properties)


class Announcement:
    """Says that a service is here, until end(). In a thread of its own: probing for the name takes over a second.

    `properties` helps to use it, never a stranger to get in.
    """

    def __init__(self, type_: str, host: str, port: int, properties: dict[str, str]):
        self.type, self.host, self.port = type_, host, port
        self.properties = properties | {"id": secrets.token_hex(8)}
        _own.add(self.properties["id"])
        self._zeroconf = None
        self._is_over = False
        threading.Thread(target=self._begin, name="announcement", daemon=True).start()

    def _begin(self) -> None:
        from zeroconf import ServiceInfo, Zeroconf

        name = socket.gethostname().partition(".")[0]
        addresses = addresses_of(self.host)
        info = ServiceInfo(
            self.type, f"{name}-{self.port}.{self.type}", addresses=[address.packed for address in addresses],
            port=self.port, properties=self.properties, server=f"{name}.local.",
        )  # fmt: skip
        try:
            self._zeroconf = Zeroconf(interfaces=[str(address) for address in addresses])
            self._zeroconf.register_service(info, allow_name_change=True)
        except Exception as error:  # no multicast here: it works as well without being found
            log.warning("lan.not_announced error=%s", type(error).__name__)
        if self._is_over:
            self._take_back()

    def end(self) -> None:
        self._is_over = True
        ending = threading.Thread(target=self._take_back, daemon=True)
        ending.start()
        ending.join(END_SECONDS)

    def _take_back(self) -> None:
        if self._zeroconf is not None:
            with contextlib.suppress(Exception):
                self._zeroconf.close()  # unregisters first


def addresses_of(host: str) -> list[ipaddress.IPv4Address]:
    """The IPv4 addresses under which others reach what is bound to `host`."""
    import psutil

    if host not in {"0.0.0.0", "::", ""}:  # noqa: S104 - compared, not bound
        with contextlib.suppress(OSError):
            found = {info[4][0] for info in socket.getaddrinfo(host, None, socket.AF_INET)}
            return [ipaddress.IPv4Address(address) for address in sorted(found)]
        return []
    told = [
        entry.address
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family == socket.AF_INET
    ]
    return [address for address in map(ipaddress.IPv4Address, told) if not address.is_loopback]
