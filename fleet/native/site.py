"""The DaemonPulse web server of this data folder, when it is running: its models, and its queue for chats.

Through the queue a chat never makes LM Studio throw out a model that is busy. How to reach the server, and with
which token, stands in a file that install-native-host writes.
"""

import json
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from daemonpulse.addresses import is_loopback
from fleet.daemons import http
from fleet.daemons.errors import DaemonError, Reason
from fleet.native.answers import Problem

LINK_NAME = "native-host.json"
PROBE_SECONDS = 2.0
CANCEL_SECONDS = 0.8  # the browser ends a host that takes longer than two to leave
GONE = {Reason.UNREACHABLE, Reason.TIMEOUT, Reason.CUT, Reason.BUSY, Reason.SERVER_ERROR, Reason.NOT_UNDERSTOOD}


def write_link(data_dir: Path, url: str, token: str) -> Path:
    """Keep where the web server is and the API token (scopes read and write) to use it with, in a file that only
    this user can read. Raises ValueError as `Site.of` does."""
    site = Site.of(url, token)
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = data_dir / LINK_NAME
    draft = path.with_suffix(f".{uuid.uuid4().hex}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump({"url": site.url, "token": site.token}, file)
    return draft.replace(path)


def _checked_address(url: str) -> str:
    parts = urlsplit(url.strip())
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.query:
        raise ValueError(f"{url!r} is not the address of a web server. It looks like http://127.0.0.1:8642.")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ValueError("Without https the token would cross the network readable. Use https://, or 127.0.0.1.")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def _checked_token(token: str) -> str:
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("The token is not one. Make one under Settings → Tokens, with the scopes read and write.")
    return token


@dataclass(frozen=True)
class Site:
    """The web server by its address and token. Methods raise DaemonError, and Problem where the link is wrong."""

    url: str
    token: str

    @classmethod
    def of(cls, url: str, token: str) -> "Site":
        """Raises ValueError for an address that would send the token in the clear, and for what is no address or
        token."""
        return cls(_checked_address(url), _checked_token(token))

    @classmethod
    def linked(cls, data_dir: Path) -> "Site | None":
        """The site that the data folder names, if it names one; whether it runs is for `models` to find out."""
        try:
            link = json.loads((data_dir / LINK_NAME).read_text(encoding="utf-8"))
            return cls.of(link["url"], link["token"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def models(self) -> list[dict] | None:
        """Every node's models, as docs/api.md says: {"key", "name", "is_loaded", "is_online", "nodes"}. None when
        the site does not run. Raises Problem when it refuses the token."""
        try:
            rows = self.call("GET", "/models", seconds=PROBE_SECONDS).get("models")
        except DaemonError as error:
            if error.reason in GONE:
                return None
            raise
        rows = rows if isinstance(rows, list) else []
        return [row for row in rows if isinstance(row, dict) and isinstance(row.get("key"), str)]

    def submit(self, prompt: dict) -> None:
        """Queue a prompt; `prompt` has the fields of docs/api.md with an id of our own, so repeating is safe."""
        self.call("POST", "/prompts", prompt)

    def cancel(self, prompt_id: str) -> None:
        self.call("POST", f"/prompts/{prompt_id}/cancel", {}, CANCEL_SECONDS)

    def events(self, prompt_id: str, seen: str | None) -> "Watch":
        """The prompt's events, from after the one whose id is `seen`."""
        return Watch(f"{self._api}/prompts/{prompt_id}/events", self.token, seen)

    def call(self, method: str, path: str, body: dict | None = None, seconds: float = http.ANSWER_SECONDS) -> dict:
        try:
            return http.call(method, self._api + path, self.token, body, seconds)
        except DaemonError as error:
            if error.reason is Reason.UNAUTHORIZED:
                raise _refused(error) from error
            raise

    @property
    def _api(self) -> str:
        return f"{self.url}/api/v1"


def _refused(error: DaemonError) -> Problem:
    return Problem(
        "link_refused",
        f"DaemonPulse refused the host's token: {error.detail}",
        "Make a token with the scopes read and write under Settings → Tokens, and run "
        "`daemonpulse install-native-host` again with --url and --token.",
    )


class Watch(http.Stream):
    """A GET whose answer is a stream of events."""

    def __init__(self, url: str, token: str, seen: str | None):
        super().__init__(url, token, {})
        if seen:
            self.headers["Last-Event-ID"] = seen

    def _request(self, connection):
        connection.request("GET", self.parts.path, headers=self.headers)
        return connection.getresponse()
