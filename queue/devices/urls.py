from django.urls import path

from . import views
from .consumers import DevicesConsumer, PairingConsumer

urlpatterns = [
    path("", views.device_list, name="device_list"),
    path("pairing/", views.device_pair, name="device_pair"),
    path("<uuid:pk>/rename/", views.device_rename, name="device_rename"),
    path("<uuid:pk>/revocation/", views.device_revocation, name="device_revocation"),
]

socket_urlpatterns = [
    path("ws/devices/", DevicesConsumer.as_asgi()),
    path("ws/pairings/<int:pk>/", PairingConsumer.as_asgi()),
]
