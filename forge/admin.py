from django.contrib import admin

from forge.models import Model


@admin.register(Model)
class ModelAdmin(admin.ModelAdmin):
    """What the nodes told; nothing here can be changed."""

    list_display = ["key", "node", "type", "loaded", "slots", "size_bytes", "gone_at"]
    list_filter = ["node", "type"]
    list_select_related = ["node"]
    search_fields = ["key", "name"]

    def has_add_permission(self, request):
        return False

    def has_change_permission(self, request, obj=None):
        return False
