"""How the hub is spoken to: with its own library, which otherwise waits without end and tries again for half a minute.

Importing this takes a quarter of a second and 20 MB: forge.hub.search does it when somebody searches.
"""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import HfApi, constants, set_client_factory

import daemonpulse
from forge.hub.place import HubUnavailable, endpoint

CONNECT_SECONDS = 5.0
TOTAL_SECONDS = 10.0  # for all requests of one call; an answer that stops half way may take once more as long
MAX_BYTES = 16 * 2**20  # a page of results has some hundred kilobytes

# It tells of each request at INFO, with the words that were searched for.
logging.getLogger("httpx2").setLevel(logging.WARNING)
# Else the library asks the hub for a list of programs that may run it, and keeps it in a file.
constants.HF_HUB_DISABLE_TELEMETRY = True

SENTENCES = {
    401: (
        "The hub does not show this to everybody: it does not exist, or is private. For what your own account may see, "
        "set HF_TOKEN in the server’s environment."
    ),
    403: "The hub wants its terms accepted first. Do that on the model’s page, and set HF_TOKEN for the server.",
    404: "The hub does not have this repository any more, or never had.",
    429: "The hub has been asked too often from here. Wait a few minutes, then search again.",
}
SENTENCES[410] = SENTENCES[451] = SENTENCES[404]
NO_WAY = (
    "The hub cannot be reached from this server. Everything else works; to download, write a model’s name "
    "under Downloads, if its node has a way to the internet."
)
SLOW = "The hub takes too long to answer. Try again in a moment."
TROUBLE = "The hub has trouble of its own (it answered {status}). Try again in a few minutes."
REFUSED = "The hub did not accept the request (it answered {status}). Try other words."
ODD = "What answers at the hub’s address is not the hub. Check HF_ENDPOINT, or the proxy of this network."
SWITCHED_OFF = "The hub is switched off by HF_HUB_OFFLINE in the server’s environment."

_until: ContextVar[float] = ContextVar("until")  # time.monotonic() at which the call must be over


@contextmanager
def asking() -> Iterator[HfApi]:
    """The hub's library for one call: with a deadline, without tries of its own, and every failure HubUnavailable.

    No token is sent but the environment's. What the library cannot read makes it raise whatever comes.
    """
    if constants.is_offline_mode():
        raise HubUnavailable(SWITCHED_OFF)
    before = _until.set(time.monotonic() + TOTAL_SECONDS)
    token = os.environ.get("HF_TOKEN") or False
    try:
        yield HfApi(endpoint(), token=token, library_name="daemonpulse", library_version=daemonpulse.__version__)
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:  # of what the library reads
        raise HubUnavailable(ODD) from error
    finally:
        _until.reset(before)


class Client(httpx2.Client):
    """The library's connection, with our patience. It raises what the library does not take for a reason to retry."""

    def send(self, request: httpx2.Request, **options) -> httpx2.Response:
        try:
            response = super().send(request, **options)
        except httpx2.ConnectTimeout as error:
            raise HubUnavailable(NO_WAY) from error
        except httpx2.TimeoutException as error:
            raise HubUnavailable(SLOW) from error
        except httpx2.NetworkError as error:
            raise HubUnavailable(NO_WAY) from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise HubUnavailable(ODD) from error
        if response.is_error:
            raise HubUnavailable(_sentence(response.status_code))
        return response


def _before(request: httpx2.Request) -> None:
    """Of each request, those after a redirect too."""
    if _place(str(request.url)) != _place(endpoint()):  # a token must not follow the next page elsewhere
        raise HubUnavailable(ODD)
    left = max(0.01, _until.get() - time.monotonic())
    request.extensions["timeout"] = httpx2.Timeout(left, connect=min(CONNECT_SECONDS, left)).as_dict()


def _bound(response: httpx2.Response) -> None:
    response.stream = Bounded(response.stream)


class Bounded(httpx2.SyncByteStream):
    """An answer that has to come in time, and not without end."""

    def __init__(self, stream: httpx2.SyncByteStream):
        self.stream = stream

    def __iter__(self) -> Iterator[bytes]:
        count = 0
        for block in self.stream:
            count += len(block)
            if time.monotonic() > _until.get():
                raise HubUnavailable(SLOW)
            if count > MAX_BYTES:
                raise HubUnavailable(ODD)
            yield block

    def close(self) -> None:
        self.stream.close()


def _sentence(status: int) -> str:
    if status in SENTENCES:
        return SENTENCES[status]
    return (TROUBLE if status >= 500 else REFUSED).format(status=status)


def _place(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.rpartition("@")[2].lower()


set_client_factory(lambda: Client(follow_redirects=True, event_hooks={"request": [_before], "response": [_bound]}))
