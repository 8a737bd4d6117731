"""Every page, endpoint and socket; the apps' own lists are included by name."""

from django.contrib import admin
from django.urls import include, path
from django.utils.module_loading import import_string

from daemonpulse import ca_views, views

urlpatterns = [
    path("sign-in/", views.SignIn.as_view(), name="sign_in"),
    path("sign-in/<str:secret>/", views.sign_in_by_link, name="sign_in_by_link"),
    path("sign-out/", views.SignOut.as_view(), name="sign_out"),
    path("settings/", views.settings_page, name="settings"),
    path("settings/tokens/", views.token_create, name="token_create"),
    path("settings/tokens/<int:pk>/revocation/", views.token_revocation, name="token_revocation"),
    path("settings/password/", views.password_change, name="password_change"),
    path("styleguide/", views.styleguide, name="styleguide"),
    path("ca/", ca_views.ca_page, name="ca"),
    path("ca/daemonpulse-ca.crt", ca_views.ca_certificate, name="ca_certificate"),
    path("admin/", admin.site.urls),
    path("nodes/", include("fleet.urls")),
    path("models/", include("forge.urls")),
    path("models/", include("forge.downloads.urls")),
    *import_string("forge.downloads.urls.urlpatterns_api"),
    path("api/v1/", include("forge.api_urls")),
    path("", include("daemonpulse.queue.mobile.urls")),
    path("", include("daemonpulse.queue.urls")),
    path("", include("daemonpulse.queue.client.urls")),
]

handler400 = "daemonpulse.views.bad_request"
handler403 = "daemonpulse.views.forbidden"
handler404 = "daemonpulse.views.not_found"
handler500 = "daemonpulse.views.server_error"

sockets = [
    *import_string("fleet.urls.socket_urlpatterns"),
    *import_string("forge.urls.socket_urlpatterns"),
    *import_string("forge.downloads.urls.socket_urlpatterns"),
    *import_string("daemonpulse.queue.urls.socket_urlpatterns"),
    *import_string("daemonpulse.queue.client.urls.socket_urlpatterns"),
]
