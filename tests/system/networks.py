"""Machines of their own for a test: network namespaces with a cable that can be pulled."""

import contextlib
import ctypes
import os
import subprocess
from pathlib import Path

CLONE_NEWNET = 0x40000000


def can_make_machines() -> bool:
    """Whether this process may make network namespaces (root with CAP_NET_ADMIN, and iproute2 installed)."""
    try:
        with contextlib.closing(Machine(250)):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


class Machine:
    """A network namespace: this side of its cable is 10.231.N.1, the other `address`."""

    def __init__(self, number: int):
        self.name = f"dp-{os.getpid()}-{number}"
        self.cable = f"dp{os.getpid() % 10**6}x{number}"
        self.address = f"10.231.{number}.2"
        ip("netns", "add", self.name)
        try:
            ip("link", "add", self.cable, "type", "veth", "peer", "name", "eth0", "netns", self.name)
            ip("addr", "add", f"10.231.{number}.1/30", "dev", self.cable)
            ip("link", "set", self.cable, "up")
            self.inside("addr", "add", f"{self.address}/30", "dev", "eth0")
            self.inside("link", "set", "eth0", "up")
            self.inside("link", "set", "lo", "up")
        except subprocess.CalledProcessError:
            self.close()
            raise

    def inside(self, *arguments: str) -> None:
        ip("-n", self.name, *arguments)

    def unplug(self) -> None:
        """Packets to it vanish; nobody refuses a connection."""
        self.inside("link", "set", "eth0", "down")

    def plug(self) -> None:
        self.inside("link", "set", "eth0", "up")

    @contextlib.contextmanager
    def entered(self):
        """What this thread starts meanwhile runs on that machine."""
        libc = ctypes.CDLL(None, use_errno=True)
        with Path("/proc/thread-self/ns/net").open() as own, Path(f"/run/netns/{self.name}").open() as other:
            if libc.setns(other.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            try:
                yield
            finally:
                libc.setns(own.fileno(), CLONE_NEWNET)

    def close(self) -> None:
        ip("netns", "del", self.name)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
