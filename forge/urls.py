"""Models, below models/; the sockets' paths are whole."""

from django.urls import path

from forge import views
from forge.consumers import ModelConsumer, ModelsConsumer

urlpatterns = [
    path("", views.model_list, name="model_list"),
    path("<int:pk>/", views.model_detail, name="model"),
    path("<int:pk>/fit/", views.model_fit, name="model_fit"),
    path("<int:pk>/estimate/", views.model_estimate, name="model_estimate"),
    path("<int:pk>/loads/", views.model_load, name="model_load"),
    path("<int:pk>/loads/<uuid:command_pk>/cancellation/", views.load_cancel, name="load_cancel"),
    path("<int:pk>/profile/", views.model_profile, name="model_profile"),
    path("<int:pk>/copies/<int:copy_pk>/ejection/", views.copy_eject, name="copy_eject"),
    path("<int:pk>/pin/", views.model_pin, name="model_pin"),
    path("<int:pk>/unpin/", views.model_unpin, name="model_unpin"),
    path("<int:pk>/stay/", views.model_stay, name="model_stay"),
    path("nodes/<int:pk>/budget/", views.node_budget, name="node_budget"),
    path("nodes/<int:pk>/warning/dismissal/", views.warning_dismiss, name="warning_dismiss"),
]

socket_urlpatterns = [
    path("ws/models/", ModelsConsumer.as_asgi()),
    path("ws/models/<int:pk>/", ModelConsumer.as_asgi()),
]
