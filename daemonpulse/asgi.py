"""The web process: HTTP through Django in a pool of threads, sockets through Channels."""

import os
from concurrent.futures import ThreadPoolExecutor

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "daemonpulse.settings")

import django

django.setup()

from asgiref.sync import sync_to_async
from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.signals import request_finished, request_started
from django.db import close_old_connections, reset_queries
from django.utils.module_loading import import_string

from daemonpulse.origins import SameOriginOnly

VIEW_THREADS = 4


class ThreadedDjango(ASGIHandler):
    """Django's ASGI handler with the middleware and the view run in one hop to a pool of lasting threads.

    As it comes, each request gets a thread of its own, every synchronous middleware and signal is a hop into it,
    and it opens a new database connection: three times the cost of the view that accepts a prompt. Streaming
    responses (async iterators) still run on the event loop.
    """

    pool = ThreadPoolExecutor(VIEW_THREADS, thread_name_prefix="view")

    def __init__(self):
        super().__init__()
        self.load_middleware(is_async=False)

    async def __call__(self, scope, receive, send):
        await self.handle(scope, receive, send)

    async def get_response_async(self, request):
        return await sync_to_async(self._respond, thread_sensitive=False, executor=self.pool)(request)

    def _respond(self, request):
        close_old_connections()  # what the signals below do for a thread that lives for one request
        return self.get_response(request)


for receiver in (close_old_connections, reset_queries):
    request_started.disconnect(receiver)
request_finished.disconnect(close_old_connections)


application = ProtocolTypeRouter(
    {
        "http": ThreadedDjango(),
        "websocket": SameOriginOnly(AuthMiddlewareStack(URLRouter(import_string(settings.SOCKET_ROUTES)))),
    }
)
