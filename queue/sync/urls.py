from django.urls import path, re_path

from .socket import SyncConsumer
from .views import call

urlpatterns = [path("api/sync/v<int:version>/<slug:name>", call, name="sync")]
socket_urlpatterns = [re_path(r"^ws/sync/v(?P<version>\d{1,4})/$", SyncConsumer.as_asgi())]
