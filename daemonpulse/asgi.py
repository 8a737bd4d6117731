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
from django.utils.module_loading import import_string

from daemonpulse.origins import SameOriginOnly

VIEW_THREADS = 8


class ThreadedDjango(ASGIHandler):
    """Django's ASGI handler with the middleware and the view run in one hop to a pool of lasting threads.

    As it comes, every synchronous middleware is a hop of its own into a new thread for each request, which also
    opens a new database connection. Streaming responses (async iterators) still run on the event loop.
    """

    pool = ThreadPoolExecutor(VIEW_THREADS, thread_name_prefix="view")

    def __init__(self):
        super().__init__()
        self.load_middleware(is_async=False)

    async def get_response_async(self, request):
        return await sync_to_async(self.get_response, thread_sensitive=False, executor=self.pool)(request)


application = ProtocolTypeRouter(
    {
        "http": ThreadedDjango(),
        "websocket": SameOriginOnly(AuthMiddlewareStack(URLRouter(import_string(settings.SOCKET_ROUTES)))),
    }
)
