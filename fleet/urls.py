from django.urls import path

from fleet import views
from fleet.consumers import NodesConsumer

urlpatterns = [
    path("", views.node_list, name="node_list"),
    path("add/", views.node_add, name="node_add"),
    path("<int:pk>/enable/", views.node_enable, name="node_enable"),
    path("<int:pk>/disable/", views.node_disable, name="node_disable"),
    path("<int:pk>/token/", views.node_token, name="node_token"),
    path("<int:pk>/removal/", views.node_removal, name="node_removal"),
]

socket_urlpatterns = [path("ws/nodes/", NodesConsumer.as_asgi())]
