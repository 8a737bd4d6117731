from django.urls import path

from fleet import views
from fleet.consumers import FleetConsumer, NodeConsumer

urlpatterns = [
    path("", views.node_list, name="node_list"),
    path("add/", views.node_add, name="node_add"),
    path("offers/", views.node_offers, name="node_offers"),
    path("<int:pk>/", views.node_detail, name="node"),
    path("<int:pk>/edit/", views.node_edit, name="node_edit"),
    path("<int:pk>/look/", views.node_look, name="node_look"),
    path("<int:pk>/samples/", views.node_samples, name="node_samples"),
    path("<int:pk>/commands/", views.node_command, name="node_command"),
    path("<int:pk>/layout/", views.node_layout, name="node_layout"),
    path("<int:pk>/profile/", views.node_profile, name="node_profile"),
    path("<int:pk>/profile/<int:profile_pk>/removal/", views.node_profile_removal, name="node_profile_removal"),
    path("<int:pk>/enable/", views.node_enable, name="node_enable"),
    path("<int:pk>/disable/", views.node_disable, name="node_disable"),
    path("<int:pk>/removal/", views.node_removal, name="node_removal"),
]

socket_urlpatterns = [
    path("ws/nodes/", FleetConsumer.as_asgi()),
    path("ws/nodes/<int:pk>/", NodeConsumer.as_asgi()),
]
