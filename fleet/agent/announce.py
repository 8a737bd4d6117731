"""Telling the network that an agent is here (DNS-SD): its address and version, nothing that helps a stranger in."""

import contextlib
import ipaddress
import socket
import threading

from daemonpulse import __version__

SERVICE = "_daemonpulse-agent._tcp.local."  # longer than RFC 6335 likes, hence strict=False
END_SECONDS = 2.0


class Announcement:
    """Registers in a thread of its own, because probing for the name takes over a second. `end()` takes it back."""

    def __init__(self, host: str, port: int, is_tls: bool):
        self.host, self.port, self.is_tls = host, port, is_tls
        self._zeroconf = None
        self._is_over = False
        self._thread = threading.Thread(target=self._begin, name="announcement", daemon=True)
        self._thread.start()

    def _begin(self) -> None:
        from zeroconf import ServiceInfo, Zeroconf

        name = socket.gethostname().partition(".")[0]
        addresses = addresses_of(self.host)
        info = ServiceInfo(
            SERVICE, f"{name}-{self.port}.{SERVICE}", addresses=[address.packed for address in addresses],
            port=self.port, properties={"version": __version__, "tls": "1" if self.is_tls else "0"},
            server=f"{name}.local.",
        )  # fmt: skip
        try:
            self._zeroconf = Zeroconf(interfaces=[str(address) for address in addresses])
            self._zeroconf.register_service(info, allow_name_change=True, strict=False)
        except Exception as error:  # no multicast here: the agent works as well without being found
            print(f"daemonpulse agent: not announced on the network ({type(error).__name__}).", flush=True)
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
        with contextlib.suppress(ValueError):
            return [ipaddress.IPv4Address(host)]
    told = [
        entry.address
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family == socket.AF_INET
    ]
    return [address for address in map(ipaddress.IPv4Address, told) if not address.is_loopback]
