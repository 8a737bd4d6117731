"""The browser's side of a native messaging host, for tests."""

import json
import os
import queue
import struct
import subprocess
import sys
import threading
from pathlib import Path

ANSWER_SECONDS = 60
FINAL = {"success", "error"}


class BrowserPort:
    """`connectNative` to a real host process: `send`, `receive`, `ask`, `close`."""

    def __init__(self, home: Path, data_dir: Path, *argv: str, code: str = "", **environment: str):
        started = [sys.executable, "-P", *(["-c", code] if code else ["-m", "fleet.native"])]
        kept = {name: value for name, value in os.environ.items() if name != "LM_API_TOKEN"}
        self.process = subprocess.Popen(
            [*started, *argv], cwd=home, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=kept | {"HOME": str(home), "DAEMONPULSE_DATA_DIR": str(data_dir)} | environment,
        )  # fmt: skip
        self.sizes: list[int] = []
        self._received: queue.Queue[dict | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while head := self.process.stdout.read(4):
            (length,) = struct.unpack("=I", head)
            self.sizes.append(length)
            self._received.put(json.loads(self.process.stdout.read(length).decode()))
        self._received.put(None)

    def send(self, **request) -> None:
        self.send_body(json.dumps(request).encode())

    def send_body(self, body: bytes) -> None:
        self.send_bytes(struct.pack("=I", len(body)) + body)

    def send_bytes(self, content: bytes) -> None:
        self.process.stdin.write(content)
        self.process.stdin.flush()

    def receive(self) -> dict | None:
        """The next message; None when the host has closed its end."""
        return self._received.get(timeout=ANSWER_SECONDS)

    def ask(self, **request) -> dict:
        self.send(**request)
        return self.receive()

    def until_final(self) -> list[dict]:
        """The messages up to the one that ends an answer."""
        messages = [self.receive()]
        while messages[-1]["status"] not in FINAL:
            messages.append(self.receive())
        return messages

    def chat(self, text: str, **request) -> list[dict]:
        self.send(action="chat_completion", messages=[{"role": "user", "content": text}], **request)
        return self.until_final()

    def close(self) -> tuple[int, str]:
        """The browser closes the port: the host's exit code and what it logged."""
        if not self.process.stdin.closed:
            self.process.stdin.close()
        code = self.process.wait(ANSWER_SECONDS)
        self._reader.join(ANSWER_SECONDS)
        with self.process.stdout, self.process.stderr:
            return code, self.process.stderr.read().decode()

    def __enter__(self) -> "BrowserPort":
        return self

    def __exit__(self, *error) -> None:
        if self.process.poll() is None:
            self.process.kill()
        if not self.process.stderr.closed:
            self.close()


def text_of(messages: list[dict], kind: str = "answer") -> str:
    """What an extension has after these messages."""
    text = ""
    for message in messages:
        if message["status"] == "chunk" and message["payload"]["kind"] == kind:
            text = (
                message["payload"]["text"] if message["payload"].get("restart") else text + message["payload"]["text"]
            )
    return text
