"""What an address is, and who can reach it. Imports no Django."""

import ipaddress


def is_address(text: str) -> bool:
    """An IP address, without brackets, or "localhost"."""
    return _parsed(text) is not None or text.lower() == "localhost"


def is_loopback(host: str) -> bool:
    """Only this machine can reach it: "localhost", or an address such as 127.0.0.1 or ::1, without brackets."""
    address = _parsed(host)
    if address is None:
        return host.lower() == "localhost"
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _parsed(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
