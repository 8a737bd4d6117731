"""The queue for operators: no text of other people's prompts unless the account may read it."""

from django.contrib import admin

from daemonpulse.admin import ReadOnlyAdmin

from .models import Attempt, Device, Lane, Prompt

PROMPT_TEXTS = ("text", "system_prompt", "detail")
ATTEMPT_TEXTS = ("reasoning", "answer", "detail")


class TextGuard:
    """Leaves the texts out for those who may not read them; one's own prompts are on one's own pages."""

    texts: tuple[str, ...] = ()

    def get_exclude(self, request, obj=None):
        return () if request.user.has_perm("queue.view_prompt_text") else self.texts


class AttemptInline(TextGuard, admin.StackedInline):
    model = Attempt
    texts = ATTEMPT_TEXTS
    extra = 0
    can_delete = False

    def has_add_permission(self, request, obj=None):
        return False

    def has_change_permission(self, request, obj=None):
        return False


@admin.register(Prompt)
class PromptAdmin(TextGuard, ReadOnlyAdmin):
    texts = PROMPT_TEXTS
    list_display = [
        "id",
        "owner",
        "lane",
        "state",
        "priority",
        "attempt_number",
        "tries",
        "reason",
        "node",
        "enqueued_at",
    ]
    list_filter = ["state", "lane", "owner", "node"]
    list_select_related = ["owner", "lane", "node"]
    search_fields = ["=id"]
    inlines = [AttemptInline]
    actions = ["cancel", "retry", "requeue"]

    def get_queryset(self, request):
        return super().get_queryset(request).defer(*PROMPT_TEXTS)

    def has_queue_permission(self, request):
        return request.user.has_perm("queue.change_prompt")

    @admin.action(description="Cancel", permissions=["queue"])
    def cancel(self, request, queryset):
        done = sum(prompt.cancel() for prompt in queryset)
        self.message_user(request, f"{done} cancelled.")

    @admin.action(description="Retry (failed and cancelled)", permissions=["queue"])
    def retry(self, request, queryset):
        done = sum(prompt.retry() for prompt in queryset)
        self.message_user(request, f"{done} queued again.")

    @admin.action(description="Requeue (running: put back, to run again at once)", permissions=["queue"])
    def requeue(self, request, queryset):
        done = sum(prompt.requeue() for prompt in queryset.select_related("lane"))
        self.message_user(request, f"{done} put back.")


@admin.register(Attempt)
class AttemptAdmin(TextGuard, ReadOnlyAdmin):
    texts = ATTEMPT_TEXTS
    list_display = ["prompt_id", "number", "outcome", "node", "reason", "started_at", "first_token_at", "finished_at"]
    list_filter = ["outcome", "node", "reason"]
    list_select_related = ["node"]
    search_fields = ["=prompt__id"]

    def get_queryset(self, request):
        return super().get_queryset(request).defer(*ATTEMPT_TEXTS)


@admin.register(Lane)
class LaneAdmin(admin.ModelAdmin):
    list_display = ["model", "is_paused", "limit", "mean_seconds", "served_at"]
    readonly_fields = ["is_paused", "mean_seconds", "served_at"]
    search_fields = ["model"]
    actions = ["pause", "resume"]

    def has_delete_permission(self, request, obj=None):
        return False

    @admin.action(description="Pause", permissions=["change"])
    def pause(self, request, queryset):
        for lane in queryset:
            lane.pause()

    @admin.action(description="Resume", permissions=["change"])
    def resume(self, request, queryset):
        for lane in queryset:
            lane.resume()


@admin.register(Device)
class DeviceAdmin(ReadOnlyAdmin):
    """Devices are paired and named by their owners; operators can revoke them. Nothing here lets anybody in."""

    list_display = ["name", "owner", "kind", "app", "is_sealed", "pending", "paired_at", "last_heard_at", "revoked_at"]
    list_select_related = ["owner"]
    list_filter = ["kind", "owner"]
    search_fields = ["name", "=id"]
    fields = ["id", *list_display[:6], "is_connected", *list_display[6:]]
    readonly_fields = ["id", "is_sealed"]
    actions = ["revoke"]

    def has_revoke_permission(self, request):
        return request.user.has_perm("queue.delete_device")

    @admin.display(boolean=True, description="Sealed")
    def is_sealed(self, device):
        return device.is_sealed

    @admin.action(description="Revoke", permissions=["revoke"])
    def revoke(self, request, queryset):
        done = sum(device.revoke() for device in queryset)
        self.message_user(request, f"{done} revoked.")
