"""Models for operators. What nodes told is read-only; what was chosen goes through the same verbs as on the pages."""

from django.contrib import admin

from daemonpulse.admin import ReadOnlyAdmin
from forge.models import Download, Instance, LoadProfile, Measurement, Model, NodePolicy
from forge.models.profile import OPTIONS


@admin.register(Model)
class ModelAdmin(ReadOnlyAdmin):
    list_display = ["key", "node", "type", "quantization", "loaded", "slots", "size_bytes", "gone_at"]
    list_filter = ["node", "type", "format"]
    list_select_related = ["node"]
    search_fields = ["key", "name", "publisher"]


@admin.register(Instance)
class InstanceAdmin(ReadOnlyAdmin):
    list_display = ["identifier", "model", "origin", "state", "context_length", "loaded_at", "used_at", "unload_at"]
    list_filter = ["model__node", "origin"]
    list_select_related = ["model__node"]
    search_fields = ["identifier", "model__key"]


@admin.register(LoadProfile)
class LoadProfileAdmin(admin.ModelAdmin):
    list_display = ["model", *OPTIONS, "ttl_seconds", "is_pinned"]
    list_filter = ["model__node", "is_pinned"]
    list_select_related = ["model__node"]
    search_fields = ["model__key"]

    def has_add_permission(self, request):
        return False

    def get_readonly_fields(self, request, obj=None):
        return ["model"]

    def save_model(self, request, obj, form, change):
        """What it takes is worked out anew, as after a change on the model's page."""
        LoadProfile.choose(obj.model, **{name: getattr(obj, name) for name in (*OPTIONS, "ttl_seconds", "is_pinned")})
        Model.objects.filter(pk=obj.model_id).update(size_json=None)


@admin.register(NodePolicy)
class NodePolicyAdmin(admin.ModelAdmin):
    list_display = ["node", "vram_budget_bytes", "auto_evict_seen_at"]
    list_select_related = ["node"]

    def get_readonly_fields(self, request, obj=None):
        return ["auto_evict_seen_at", "auto_evict_gone", "auto_evict_came", *(["node"] if obj else [])]

    def save_model(self, request, obj, form, change):
        NodePolicy.set_budget(obj.node, obj.vram_budget_bytes)
        obj.pk = obj.node_id


@admin.register(Measurement)
class MeasurementAdmin(ReadOnlyAdmin):
    list_display = ["at", "key", "quantization", "backend", "node", "context_length", "estimated_bytes",
                    "measured_bytes"]  # fmt: skip
    list_filter = ["backend", "node"]
    list_select_related = ["node"]
    search_fields = ["key"]


@admin.register(Download)
class DownloadAdmin(ReadOnlyAdmin):
    list_display = ["asked_at", "source", "quantization", "node", "state", "user", "problem"]
    list_filter = ["state", "node"]
    list_select_related = ["node", "user"]
