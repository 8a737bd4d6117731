"""How a model is loaded on a node: one saved choice for pages, scripts and the queue."""

from django.conf import settings
from django.db import models

from daemonpulse.models.event import record, writing
from forge.models.model import Model

# The names of a daemon's load request (fleet.daemons.types.LoadRequest), None = the daemon decides.
OPTIONS = (
    "context_length",
    "parallel",
    "flash_attention",
    "offload_kv_cache_to_gpu",
    "eval_batch_size",
    "num_experts",
)
STAYS = 0  # of ttl_seconds: no idle time


class LoadProfile(models.Model):
    """`ttl_seconds`: how long a copy may be idle, 0 = it stays, None = as the settings say.

    `is_pinned`: its copies are never unloaded to make room, nor for being idle. The layout over GPUs is
    fleet.models.AllocationProfile's.
    """

    model = models.OneToOneField(Model, on_delete=models.CASCADE, primary_key=True, related_name="profile")
    context_length = models.PositiveIntegerField(null=True, blank=True)
    parallel = models.PositiveSmallIntegerField(null=True, blank=True)
    flash_attention = models.BooleanField(null=True, blank=True)
    offload_kv_cache_to_gpu = models.BooleanField(null=True, blank=True)
    eval_batch_size = models.PositiveIntegerField(null=True, blank=True)
    num_experts = models.PositiveSmallIntegerField(null=True, blank=True)
    ttl_seconds = models.PositiveIntegerField(null=True, blank=True)
    is_pinned = models.BooleanField(default=False)

    def __str__(self):
        return f"profile of {self.model}"

    @property
    def options(self) -> dict:
        """What is wished of a load; what the daemon decides is left out."""
        told = {name: getattr(self, name) for name in OPTIONS}
        return {name: value for name, value in told.items() if value is not None}

    @property
    def idle_seconds(self) -> int | None:
        """How long a copy that we load may be idle; None: it stays."""
        seconds = settings.MODEL_TTL_SECONDS if self.ttl_seconds is None else self.ttl_seconds
        return None if self.is_pinned else seconds or None

    @classmethod
    def of(cls, model: Model) -> "LoadProfile":
        """The saved one, or an unsaved one with nothing wished."""
        return cls.objects.filter(model=model).first() or cls(model=model)

    @classmethod
    def choose(cls, model: Model, **values) -> "LoadProfile":
        """Load the model so from now on; what it takes is worked out anew."""
        with writing():
            row, _ = cls.objects.update_or_create(model=model, defaults=values)
            Model.objects.filter(pk=model.pk).update(size_json=None)
            record("model.changed", model.node_id, keys=[model.key])
        return row
