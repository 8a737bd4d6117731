from django.urls import path

from . import views
from .consumers import PartsConsumer, ServerConsumer

urlpatterns = [
    path("server/pairing/", views.server_pairing, name="server_pairing"),
    path("server/sync/", views.server_sync, name="server_sync"),
    path("server/leaving/", views.server_leaving, name="server_leaving"),
    path("server/dismissal/", views.server_dismissal, name="server_dismissal"),
    path("server/refusals/<int:pk>/sending/", views.refusal_sending, name="refusal_sending"),
    path("server/refusals/<int:pk>/discarding/", views.refusal_discarding, name="refusal_discarding"),
]

socket_urlpatterns = [
    path("ws/server/", ServerConsumer.as_asgi()),
    path("ws/parts/", PartsConsumer.as_asgi()),
]
