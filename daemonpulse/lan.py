"""Finding and being found on the local network (DNS-SD over multicast DNS, the `zeroconf` library)."""

import logging
import socket
import threading
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

SERVER = "_daemonpulse._tcp.local."
AGENT = "_daemonpulse-agent._tcp.local."
MAX_FOUND = 50


@dataclass(frozen=True, slots=True)
class Found:
    """A service that announced itself. Anybody on the network can say anything: nothing here is to be trusted."""

    type: str
    name: str
    host: str  # an IP address
    port: int
    properties: dict[str, str] = field(default_factory=dict)


def browse(types: list[str], seconds: float, interfaces: list[str] | None = None) -> list[Found]:
    """Listen for this long and return what is there. Raises OSError where there is no network to ask."""
    from zeroconf import InterfaceChoice, ServiceBrowser, ServiceListener, Zeroconf

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
        ServiceBrowser(zeroconf, types, Listener())
        threading.Event().wait(seconds)
        told = [(type_, name, zeroconf.get_service_info(type_, name, 500)) for type_, name in names[:MAX_FOUND]]
    finally:
        zeroconf.close()
    return [found for type_, name, info in told if info and (found := _read(type_, name, info))]


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
    """Says that a service is here, until close(). Announcing takes a second or two, so it happens in a thread.

    Raises nothing: a network that cannot be told is logged.
    """

    def __init__(self, type_: str, port: int, addresses: list[str], properties: dict[str, str]):
        self.type, self.port, self.addresses, self.properties = type_, port, addresses, properties
        self.zeroconf = None
        threading.Thread(target=self._announce, name="announce", daemon=True).start()

    def _announce(self) -> None:
        from zeroconf import ServiceInfo, Zeroconf

        name = socket.gethostname().split(".")[0]
        info = ServiceInfo(
            self.type, f"{name}-{self.port}.{self.type}", port=self.port, server=f"{name}.local.",
            parsed_addresses=self.addresses, properties=self.properties,
        )  # fmt: skip
        try:
            self.zeroconf = Zeroconf()
            self.zeroconf.register_service(info, allow_name_change=True)
        except Exception as error:  # no multicast here, or a name that is taken everywhere
            log.warning("lan.not_announced error=%s", type(error).__name__)

    def close(self) -> None:
        if self.zeroconf is not None:
            self.zeroconf.close()
