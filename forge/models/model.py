"""Models on the nodes' disks, as each node last told."""

from django.db import models

from fleet.models import Node


class ModelQuerySet(models.QuerySet):
    def present(self):
        """On a disk, as far as the node's last answer tells."""
        return self.filter(gone_at=None)

    def chat(self):
        return self.filter(type="llm")

    def usable(self):
        """Chat models that some enabled node has; the node may be offline at the moment."""
        return self.present().chat().filter(node__is_enabled=True)

    def keys(self) -> list[str]:
        return list(self.order_by("key").values_list("key", flat=True).distinct())


class Model(models.Model):
    """One model on one node. `loaded` holds its instances' ids; None = this kind of node does not tell."""

    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="models")
    key = models.CharField(max_length=300)
    name = models.CharField(max_length=300)
    type = models.CharField(max_length=20)
    loaded = models.JSONField(null=True)
    slots = models.PositiveSmallIntegerField(null=True)
    size_bytes = models.BigIntegerField(null=True)
    context_length = models.PositiveIntegerField(null=True)
    reasoning_options = models.JSONField(default=list)
    gone_at = models.DateTimeField(null=True, blank=True)

    objects = ModelQuerySet.as_manager()

    class Meta:
        ordering = ["key"]
        constraints = [models.UniqueConstraint(fields=["node", "key"], name="one_row_per_model_and_node")]

    def __str__(self):
        return f"{self.key} on {self.node}"

    @property
    def is_loaded(self) -> bool | None:
        return None if self.loaded is None else bool(self.loaded)

    @property
    def is_available(self) -> bool:
        return self.gone_at is None and self.node.is_online
