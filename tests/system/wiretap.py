"""Somebody on the network who reads along: a relay that keeps every byte, both ways."""

import contextlib
import socket
import threading
from urllib.parse import urlsplit


class Wiretap:
    def __init__(self, url: str):
        parts = urlsplit(url)
        self.there = (parts.hostname, parts.port)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.heard = bytearray()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(self.there)
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._relay, args=(one, other), daemon=True).start()

    def _relay(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while block := one.recv(65536):
                self.heard += block
                other.sendall(block)
            other.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.listener.close()
