"""What loads really took, so that the next estimate is better."""

from django.db import models
from django.utils import timezone

from fleet.models import Node
from forge.fit.learning import Learned, Load, learn

KEPT = 20  # for each model and backend


class Measurement(models.Model):
    """One load: what it was estimated to take, without a correction, and what the GPUs then held more."""

    key = models.CharField(max_length=300)  # of the model, wherever it is
    quantization = models.CharField(max_length=40, blank=True, default="")
    backend = models.CharField(max_length=20)
    source = models.CharField(max_length=20, default="")  # how the estimate was made
    node = models.ForeignKey(Node, null=True, on_delete=models.SET_NULL, related_name="+")
    at = models.DateTimeField(default=timezone.now)
    context_length = models.PositiveIntegerField(null=True)
    estimated_bytes = models.BigIntegerField()
    measured_bytes = models.BigIntegerField()

    class Meta:
        ordering = ["-at"]
        indexes = [models.Index(fields=["key", "backend", "-at"], name="measurements_by_model")]

    def __str__(self):
        return f"{self.key} took {self.measured_bytes} bytes"

    @classmethod
    def learned(cls, key: str, quantization: str, backend: str, source: str) -> Learned:
        """What the loads of this model on such a backend teach."""
        rows = cls.objects.filter(key=key, quantization=quantization, backend=backend, source=source)[:KEPT]
        return learn([Load(row.estimated_bytes, row.measured_bytes, row.context_length) for row in rows])

    @classmethod
    def keep(cls, **fields) -> "Measurement":
        row = cls.objects.create(**fields)
        alike = cls.objects.filter(key=row.key, quantization=row.quantization, backend=row.backend, source=row.source)
        alike.exclude(pk__in=list(alike.values_list("pk", flat=True)[:KEPT])).delete()
        return row
