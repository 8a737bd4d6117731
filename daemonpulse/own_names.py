"""The names and addresses under which this machine may be asked for. Imports no Django."""

import contextlib
import ipaddress
import re
import socket

LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
MAX_NAME = 253  # characters (RFC 1035)
LOCAL = ("localhost", "127.0.0.1", "::1")


def own_names() -> list[str]:
    """localhost, the host's name, its name on the local network (multicast DNS), and its addresses."""
    own = socket.gethostname()
    told = [*LOCAL, own, local_name(), *own_addresses()]
    names = []
    for name in told:
        with contextlib.suppress(ValueError):  # a host may have a name that is none in the DNS
            names.append(checked(name))
    return list(dict.fromkeys(names))


def local_name() -> str:
    """The name that DaemonPulse announces on the local network (daemonpulse/lan.py)."""
    return f"{socket.gethostname().partition('.')[0].lower()}.local"


def own_addresses() -> list[str]:
    """IP addresses that others can use: no loopback, and none that needs a network card beside it (link-local)."""
    import psutil

    told = [entry.address for entries in psutil.net_if_addrs().values() for entry in entries if entry.family in _IP]
    addresses = [ipaddress.ip_address(text) for text in told if "%" not in text]
    return sorted(str(each) for each in addresses if not (each.is_loopback or each.is_link_local))


_IP = {socket.AF_INET, socket.AF_INET6}


def facing_address() -> str | None:
    """The IPv4 address that faces the network; None without one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
            return probe.getsockname()[0]
        except OSError:
            return None


def checked(name: str) -> str:
    """A host name (in ASCII, lower case) or an IP address in its usual form; raises ValueError with a sentence."""
    text = name.strip().removesuffix(".").lower()
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(text[1:-1] if text[:1] + text[-1:] == "[]" else text)
        if not getattr(address, "scope_id", None):
            return str(address)
    with contextlib.suppress(UnicodeError):
        text = text.encode("idna").decode()
        labels = text.split(".")
        if len(text) <= MAX_NAME and all(map(LABEL.fullmatch, labels)) and not labels[-1].isdigit():
            return text
    raise ValueError(
        f"“{name}” is neither a host's name nor an address. Write it as it stands in the address bar, without https:// "
        "and port: box.example or 192.0.2.7."
    )
