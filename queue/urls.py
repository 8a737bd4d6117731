from django.urls import include, path

from . import api, views
from .consumers import BoardConsumer, ComposeConsumer, PromptConsumer
from .devices import urls as devices
from .sync import urls as sync

urlpatterns = [
    path("", views.board, name="board"),
    path("lanes/<int:pk>/pause/", views.lane_pause, name="lane_pause"),
    path("lanes/<int:pk>/resume/", views.lane_resume, name="lane_resume"),
    path("prompts/", views.prompt_list, name="prompt_list"),
    path("prompts/new/", views.prompt_new, name="prompt_new"),
    path("prompts/batch/", views.prompt_batch, name="prompt_batch"),
    path("prompts/<uuid:pk>/", views.prompt_detail, name="prompt"),
    path("prompts/<uuid:pk>/edit/", views.prompt_edit, name="prompt_edit"),
    path("prompts/<uuid:pk>/cancellation/", views.prompt_cancellation, name="prompt_cancellation"),
    path("prompts/<uuid:pk>/retry/", views.prompt_retry, name="prompt_retry"),
    path("prompts/<uuid:pk>/repeat/", views.prompt_repeat, name="prompt_repeat"),
    path("prompts/<uuid:pk>/position/", views.prompt_position, name="prompt_position"),
    path("prompts/<uuid:pk>/removal/", views.prompt_removal, name="prompt_removal"),
    path("devices/", include(devices)),
    path("api/v1/prompts", api.prompts, name="api_prompts"),
    path("api/v1/prompts/<uuid:pk>", api.prompt, name="api_prompt"),
    path("api/v1/prompts/<uuid:pk>/cancel", api.cancel, name="api_cancel"),
    path("api/v1/prompts/<uuid:pk>/retry", api.retry, name="api_retry"),
    path("api/v1/prompts/<uuid:pk>/events", api.events, name="api_events"),
    path("api/v1/models", api.models, name="api_models"),
    *sync.urlpatterns,
]

socket_urlpatterns = [
    path("ws/board/", BoardConsumer.as_asgi()),
    path("ws/compose/", ComposeConsumer.as_asgi()),
    path("ws/prompts/<uuid:pk>/", PromptConsumer.as_asgi()),
    *devices.socket_urlpatterns,
    *sync.socket_urlpatterns,
]
