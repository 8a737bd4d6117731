"""Downloads and the hub, below models/; sockets and the API's paths are whole."""

from django.urls import path

from forge.downloads import api, views
from forge.downloads.consumers import DownloadsConsumer

urlpatterns = [
    path("downloads/", views.download_list, name="download_list"),
    path("downloads/start/", views.download_start, name="download_start"),
    path("downloads/<int:pk>/cancellation/", views.download_cancel, name="download_cancel"),
    path("downloads/<int:pk>/retry/", views.download_retry, name="download_retry"),
    path("downloads/<int:pk>/removal/", views.download_forget, name="download_forget"),
    path("hub/", views.hub_search, name="hub_search"),
    path("hub/results/", views.hub_results, name="hub_results"),
    path("hub/<str:owner>/<str:name>/", views.hub_repository, name="hub_repository"),
]

urlpatterns_api = [
    path("api/v1/downloads", api.downloads, name="api_downloads"),
    path("api/v1/downloads/<int:pk>", api.download, name="api_download"),
    path("api/v1/downloads/<int:pk>/cancel", api.cancel, name="api_download_cancel"),
]

socket_urlpatterns = [path("ws/downloads/", DownloadsConsumer.as_asgi())]
