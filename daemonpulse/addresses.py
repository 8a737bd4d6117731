"""What an address tells of who can reach it. Imports no Django."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Only this machine can reach it: "localhost", or an address such as 127.0.0.1 or ::1, without brackets."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower() == "localhost"
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
