"""A stand-in for a node that downloads: a local server whose answers the test sets (contract §2.1, §2.4, §2.5)."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

GIB = 2**30
FORGOTTEN = (404, {"error": {"type": "job_not_found", "code": "job_not_found", "message": "No such job."}})


def job(status: str = "downloading", **fields) -> tuple[int, dict]:
    """An answer about a download of 4 GiB."""
    told = {"job_id": "job_1", "status": status, "total_size_bytes": 4 * GIB, "started_at": "2026-11-20T08:00:00.000Z"}
    return 200, {name: value for name, value in (told | fields).items() if value is not None}


def going(got: float, speed: float | None = 2**20, **fields) -> tuple[int, dict]:
    """So many GiB are there."""
    return job(downloaded_bytes=int(got * GIB), bytes_per_second=speed, **fields)


class DownloadingNode:
    """`begun` answers POST /download, `status` a question how far it is, `models` are its models' keys."""

    def __init__(self):
        self.begun = job()
        self.status = going(1.0)
        self.models: list[dict] = []
        self.slow_seconds = 0.0  # of a download that begins, or until `go_on` is set
        self.go_on = threading.Event()
        self.asked: list[dict] = []  # the bodies of POST /download
        self.polled: list[str] = []  # the paths of questions

    def __enter__(self) -> "DownloadingNode":
        node = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                node.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                node.go_on.wait(node.slow_seconds)
                node.send(self, *node.begun)

            def do_GET(self):
                if self.path == "/api/v1/models":
                    node.send(self, 200, {"models": node.models})
                    return
                node.polled.append(self.path)
                node.send(self, *node.status)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.block_on_close = False
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def has(self, key: str, **fields) -> None:
        self.models.append({"key": key, "type": "llm", "display_name": key, "loaded_instances": []} | fields)

    def send(self, handler, status: int, body: dict) -> None:
        data = json.dumps(body).encode()
        try:
            handler.send_response(status)
            handler.send_header("Content-Type", "application/json")
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data)
        except OSError:  # whoever asked is gone
            pass
