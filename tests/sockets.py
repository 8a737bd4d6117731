"""Sockets and streams inside a test's own event loop."""

import asyncio
from contextlib import asynccontextmanager, contextmanager

from channels.testing import WebsocketCommunicator
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.sessions.backends.db import SessionStore

from daemonpulse import tail
from daemonpulse.consumers import in_thread

HOST = "127.0.0.1:8642"
SECONDS = 30  # for what must come


@contextmanager
def own_tail():
    """A tail belongs to the event loop that runs it, and each test has its own."""
    tail._tail = None
    try:
        yield
    finally:
        if tail._tail and tail._tail.task:
            tail._tail.task.cancel()
        tail._tail = None


def signed_in(user) -> str:
    """The cookie of a browser in which this user has signed in."""
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.save()
    return f"{settings.SESSION_COOKIE_NAME}={session.session_key}"


class Browser:
    """One page's socket."""

    def __init__(self, path: str, cookie: str = "", origin: str = f"http://{HOST}"):
        from daemonpulse.asgi import application

        headers = [(b"host", HOST.encode()), (b"origin", origin.encode()), (b"cookie", cookie.encode())]
        self.socket = WebsocketCommunicator(application, path, headers=headers)

    async def open(self) -> bool:
        return (await self.socket.connect(timeout=SECONDS))[0]

    async def refused(self) -> tuple[int, str]:
        """The code with which an opened socket is closed, which a browser is told, and what it heard before."""
        assert await self.open()
        heard = ""
        while (output := await self.socket.receive_output(timeout=SECONDS))["type"] != "websocket.close":
            heard += output["text"]
        return output["code"], heard

    async def hears(self) -> str:
        return await self.socket.receive_from(timeout=SECONDS)

    async def hears_nothing(self) -> bool:
        return await self.socket.receive_nothing(timeout=0.4, interval=0.05)

    async def hears_until(self, words: str) -> str:
        """Skip what comes until something has these words."""
        async with asyncio.timeout(SECONDS):
            while words not in (html := await self.hears()):
                pass
        return html


@asynccontextmanager
async def browser(path: str, user):
    """A signed-in user's socket, open for as long as the block lasts."""
    page = Browser(path, await in_thread(signed_in)(user))
    assert await page.open()
    try:
        yield page
    finally:
        await page.socket.disconnect(timeout=SECONDS)
