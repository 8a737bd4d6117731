from django.contrib import admin
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied

from daemonpulse.models import ApiToken, Event, User

admin.site.site_header = admin.site.site_title = "DaemonPulse"
admin.site.index_title = "Operations"
# One door: its own form would not know of the throttle. A user who is signed in but no operator is refused.
admin.site.login = login_not_required(lambda request, extra_context=None: redirect_or_refuse(request))
admin.site.register(User, UserAdmin)


def redirect_or_refuse(request):
    if request.user.is_authenticated:
        raise PermissionDenied
    return redirect_to_login(request.GET.get("next", "/admin/"))


class ReadOnlyAdmin(admin.ModelAdmin):
    def has_add_permission(self, request):
        return False

    def has_change_permission(self, request, obj=None):
        return False

    def has_delete_permission(self, request, obj=None):
        return False


@admin.register(ApiToken)
class ApiTokenAdmin(ReadOnlyAdmin):
    """Tokens are made by their users, who are shown the secret once; operators can revoke them."""

    list_display = ["name", "hint", "user", "scopes", "created_at", "last_used_at", "expires_at", "revoked_at"]
    list_select_related = ["user"]
    list_filter = ["user"]
    exclude = ["secret_hash"]
    actions = ["revoke"]

    def has_revoke_permission(self, request):
        return request.user.has_perm("daemonpulse.delete_apitoken")

    @admin.action(description="Revoke", permissions=["revoke"])
    def revoke(self, request, queryset):
        for token in queryset:
            token.revoke()


@admin.register(Event)
class EventAdmin(ReadOnlyAdmin):
    """The event log."""

    list_display = ["id", "at", "kind", "subject", "owner", "data"]
    list_filter = ["kind"]
    list_select_related = ["owner"]
    search_fields = ["subject"]
    show_full_result_count = False
