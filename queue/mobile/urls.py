from django.urls import path

from . import views

urlpatterns = [
    path("m/", views.shell, name="mobile"),
    path("m/sw.js", views.worker, name="mobile_worker"),
    path("m/manifest.webmanifest", views.manifest, name="mobile_manifest"),
    path("m/share", views.share, name="mobile_share"),
]
