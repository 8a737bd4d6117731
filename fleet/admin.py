from django.contrib import admin

from fleet.models import Node


@admin.register(Node)
class NodeAdmin(admin.ModelAdmin):
    """Nodes for operators. They are added, and their tokens set, on the Nodes page, which asks the daemon."""

    list_display = ["name", "kind", "base_url", "is_enabled", "is_simulated", "state", "reason", "last_seen_at"]
    list_filter = ["kind", "state", "is_enabled", "is_simulated"]
    search_fields = ["name", "base_url"]
    readonly_fields = [
        "base_url",
        "kind",
        "state",
        "reason",
        "latency_seconds",
        "checked_at",
        "last_seen_at",
        "added_at",
    ]
    exclude = ["token"]
    actions = ["enable", "disable"]

    def has_add_permission(self, request):
        return False

    def has_delete_permission(self, request, obj=None):
        return False

    @admin.action(description="Enable", permissions=["change"])
    def enable(self, request, queryset):
        for node in queryset:
            node.enable()

    @admin.action(description="Disable (what runs goes on)", permissions=["change"])
    def disable(self, request, queryset):
        for node in queryset:
            node.disable()
