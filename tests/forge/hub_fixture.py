"""A stand-in for the hub: a local server that answers /api/models and /api/models/<id> as the hub does."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlencode, urlsplit

GIB = 2**30
SHARD_BYTES = 20 * GIB


def listed(id: str, **fields) -> dict:
    """A repository as a list of them tells it."""
    told = {"id": id, "author": id.partition("/")[0], "downloads": 1000, "likes": 10, "gated": False, "tags": ["gguf"],
            "lastModified": "2026-10-01T12:00:00.000Z", "trendingScore": 1}  # fmt: skip
    return told | fields


OTTER = listed("acme/Otter-8B-GGUF", downloads=90_000) | {
    "siblings": [
        {"rfilename": "README.md", "size": 4_000},
        {"rfilename": "Otter-8B-Q4_K_M.gguf", "size": 5 * GIB},
        {"rfilename": "Otter-8B-Q8_0.gguf", "size": 9 * GIB},
        {"rfilename": "BF16/Otter-8B-BF16-00001-of-00002.gguf", "size": SHARD_BYTES},
        {"rfilename": "BF16/Otter-8B-BF16-00002-of-00002.gguf", "size": SHARD_BYTES // 2},
        {"rfilename": "mmproj-F16.gguf", "size": GIB},
    ]
}
HERON = listed("acme/heron-mlx-4bit", tags=["mlx"], likes=99) | {
    "siblings": [
        {"rfilename": "model-00001-of-00002.safetensors", "size": 2 * GIB},
        {"rfilename": "model-00002-of-00002.safetensors", "size": GIB},
        {"rfilename": "tokenizer.json", "size": 1_000},
    ]
}


class Hub:
    """`repositories` are what it has. `trouble`: a status to answer with, or "slow", "garbage", "odd", "endless"."""

    PER_PAGE = 3  # it gives no more at once, whatever is asked for

    def __init__(self):
        self.repositories = [OTTER, HERON]
        self.trouble: int | str = ""
        self.next_host = ""  # where the link to the next page points, instead of here
        self.requests: list[tuple[str, dict]] = []  # path with query, headers in small letters

    def __enter__(self) -> "Hub":
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                hub.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                hub.answer(self)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.block_on_close = False
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """From now on nothing answers there."""
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, handler) -> None:
        if isinstance(self.trouble, int):
            self.send(handler, self.trouble, {"error": "as the test wants it"}, {"Retry-After": "30"})
        elif self.trouble == "garbage":
            self.send(handler, 200, "<html>Sign in to this network</html>")
        elif self.trouble == "odd":
            self.send(handler, 200, [17, {"likes": "many"}, None])
        elif self.trouble == "endless":
            self.endless(handler)
        else:
            time.sleep(2.0 if self.trouble == "slow" else 0)
            parts = urlsplit(handler.path)
            name = parts.path.removeprefix("/api/models").strip("/")
            query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
            self.one(handler, name, query) if name else self.list(handler, query)

    def list(self, handler, query: dict) -> None:
        wanted = [row for row in self.repositories if query["filter"] in row["tags"]]
        wanted = [row for row in wanted if query.get("search", "").lower() in str(row["id"]).lower()]
        wanted.sort(key=lambda row: -row[query["sort"]])
        first = int(query.get("cursor", 0))
        count = min(self.PER_PAGE, int(query["limit"]))
        headers = {}
        if len(wanted) > first + count:
            more = urlencode(query | {"cursor": first + count})
            headers["Link"] = f'<{self.next_host or self.url}/api/models?{more}>; rel="next"'
        rows = [{key: value for key, value in row.items() if key != "siblings"} for row in wanted]
        self.send(handler, 200, rows[first : first + count], headers)

    def one(self, handler, name: str, query: dict) -> None:
        row = next((row for row in self.repositories if row["id"] == name), None)
        if row is None:  # it does not say whether there is one that only others may see
            self.send(handler, 401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return
        keys = ("rfilename", "size") if query.get("blobs") == "true" else ("rfilename",)
        siblings = [{key: one[key] for key in keys if key in one} for one in row["siblings"]]
        self.send(handler, 200, row | {"siblings": siblings})

    def endless(self, handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        with contextlib.suppress(OSError):
            while True:
                handler.wfile.write(b" " * 1_000)
                time.sleep(0.01)

    def send(self, handler, status: int, body: object, headers: dict | None = None) -> None:
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        handler.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | (headers or {})).items():
            handler.send_header(name, value)
        handler.end_headers()
        with contextlib.suppress(OSError):
            handler.wfile.write(data)
