"""Models for scripts, below api/v1/."""

from django.urls import path

from forge import api

urlpatterns = [
    path("inventory", api.inventory, name="api_inventory"),
    path("fit", api.fit, name="api_fit"),
    path("loads", api.loads, name="api_loads"),
    path("loads/<uuid:pk>", api.load, name="api_load"),
    path("loads/<uuid:pk>/cancel", api.cancel, name="api_load_cancel"),
    path("ejections", api.ejections, name="api_ejections"),
]
