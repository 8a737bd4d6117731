from django.contrib import admin

from daemonpulse.admin import ReadOnlyAdmin
from fleet.models import AllocationProfile, Command, Node


@admin.register(Node)
class NodeAdmin(admin.ModelAdmin):
    """Nodes for operators. They are added, and their secrets set, on the Fleet pages, which ask the daemon."""

    list_display = ["name", "kind", "base_url", "is_enabled", "is_simulated", "state", "reason", "last_seen_at"]
    list_filter = ["kind", "state", "is_enabled", "is_simulated"]
    search_fields = ["name", "base_url"]
    readonly_fields = [
        "base_url",
        "agent_url",
        "kind",
        "state",
        "reason",
        "latency_seconds",
        "checked_at",
        "last_seen_at",
        "added_at",
    ]
    exclude = ["token", "agent_key"]
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


@admin.register(Command)
class CommandAdmin(ReadOnlyAdmin):
    """The audit trail: a line for each command, and the whole of it inside."""

    list_display = ["asked_at", "node", "label", "state", "user", "problem"]
    list_filter = ["state", "action", "node"]
    list_select_related = ["node", "user"]
    fields = ["node", "user", "action", "state", "asked_at", "started_at", "finished_at", "problem",
              "parameters", "output", "result", "envelope"]  # fmt: skip


@admin.register(AllocationProfile)
class AllocationProfileAdmin(ReadOnlyAdmin):
    list_display = ["node", "model", "strategy", "gpu_order", "offload_ratio", "strict_vram_limit"]
    list_filter = ["node"]
    list_select_related = ["node"]
