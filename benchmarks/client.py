"""A small asyncio client, light enough not to be what is measured: one connection, one POST, one SSE answer."""

import asyncio
import json
import time
from urllib.parse import urlsplit


async def post(url: str, body: dict, token: str = "", on_event=None) -> tuple[int, bytes]:
    """POST JSON. With `on_event(name, data, seconds since the call)` the answer is read as SSE until it ends."""
    parts = urlsplit(url)
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    payload = json.dumps(body).encode()
    authorization = f"Authorization: Bearer {token}\r\n" if token else ""
    head = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n{authorization}Content-Type: application/json\r\n"
        f"Content-Length: {len(payload)}\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode() + payload)
    try:
        header = await reader.readuntil(b"\r\n\r\n")
        status = int(header.split(b" ", 2)[1])
        is_chunked = b"chunked" in header.lower()
        blocks = _chunks(reader) if is_chunked else _rest(reader)
        if on_event is None or status >= 300:
            return status, b"".join([block async for block in blocks])
        buffer = b""
        async for block in blocks:
            buffer += block
            *events, buffer = buffer.split(b"\n\n")
            for event in events:
                name, _, data = event.partition(b"\ndata: ")
                name = name.rpartition(b"event: ")[2].decode()
                on_event(name, data, time.perf_counter() - started)
        return status, b""
    finally:
        writer.close()


async def get(url: str, cookie: str) -> tuple[int, bytes]:
    """GET a page as a browser that is signed in."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(
        f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n".encode()
    )
    try:
        header = await reader.readuntil(b"\r\n\r\n")
        blocks = _chunks(reader) if b"chunked" in header.lower() else _rest(reader)
        return int(header.split(b" ", 2)[1]), b"".join([block async for block in blocks])
    finally:
        writer.close()


async def _chunks(reader):
    while size := int(await reader.readline() or b"0", 16):
        yield await reader.readexactly(size)
        await reader.readexactly(2)


async def _rest(reader):
    while block := await reader.read(65536):
        yield block


async def first_and_last(url: str, body: dict, token: str = "") -> tuple[float, float]:
    """Seconds from the call to the first and the last event with a piece of answer."""
    seen: list[float] = []

    def note(name, data, seconds):
        if name == "message.delta":
            seen.append(seconds)

    status, answer = await post(url, body, token, note)
    if status >= 300 or not seen:
        raise RuntimeError(f"{url}: {status} {answer[:300]!r}")
    return seen[0], seen[-1]
