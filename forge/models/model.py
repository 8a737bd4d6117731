"""Models on the nodes' disks, as each node last told."""

from django.db import models

from fleet.models import Node
from fleet.weights.architecture import Architecture
from forge.fit.size import Size


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
    """One model on one node. `loaded` holds its instances' ids; None = this kind of node does not tell.

    `metadata` is what its file says of the memory it takes (fleet.weights), None while that is not known, and
    `size_json` what a load with its profile is estimated to take (forge.fit.size.Size), for the queue.
    """

    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="models")
    key = models.CharField(max_length=300)
    name = models.CharField(max_length=300)
    type = models.CharField(max_length=20)
    publisher = models.CharField(max_length=100, blank=True, default="")
    architecture_name = models.CharField(max_length=100, blank=True, default="")
    parameters = models.CharField(max_length=40, blank=True, default="")  # "8B", "26B-A4B"
    quantization = models.CharField(max_length=40, blank=True, default="")
    format = models.CharField(max_length=20, blank=True, default="")  # "gguf", "mlx"
    vision = models.BooleanField(null=True)
    tools = models.BooleanField(null=True)
    variants = models.JSONField(default=list)
    selected_variant = models.CharField(max_length=300, blank=True, default="")
    loaded = models.JSONField(null=True)
    slots = models.PositiveSmallIntegerField(null=True)
    size_bytes = models.BigIntegerField(null=True)
    context_length = models.PositiveIntegerField(null=True)  # the most it was made for
    reasoning_options = models.JSONField(default=list)
    metadata = models.JSONField(null=True)
    metadata_problem = models.CharField(max_length=300, blank=True, default="")  # why there is none
    metadata_at = models.DateTimeField(null=True)  # of the last try to read it
    size_json = models.JSONField(null=True)
    gone_at = models.DateTimeField(null=True, blank=True)

    objects = ModelQuerySet.as_manager()

    class Meta:
        ordering = ["key"]
        constraints = [models.UniqueConstraint(fields=["node", "key"], name="one_row_per_model_and_node")]

    def __str__(self):
        return f"{self.key} on {self.node}"

    @property
    def dom_id(self) -> str:
        return f"model-{self.pk}"

    @property
    def is_loaded(self) -> bool | None:
        return None if self.loaded is None else bool(self.loaded)

    @property
    def is_available(self) -> bool:
        return self.gone_at is None and self.node.is_online

    @property
    def architecture(self) -> Architecture | None:
        try:
            return Architecture.from_json(self.metadata) if self.metadata else None
        except ValueError:  # of an older version of this program
            return None

    @property
    def size(self) -> Size | None:
        """What a load with its profile is estimated to take; None while nobody has worked it out."""
        try:
            return Size(**self.size_json) if self.size_json else None
        except TypeError:  # of an older version of this program
            return None
