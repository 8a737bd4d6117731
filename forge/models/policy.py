"""What a node's memory may be used for, and what its LM Studio was seen to do with it."""

from django.db import models
from django.utils import timezone

from daemonpulse.models.event import record, writing
from fleet.models import Node


class NodePolicy(models.Model):
    """One row for each node that needs one. `vram_budget_bytes`: all models together may hold so much, None = all.

    `auto_evict_seen_at`: LM Studio unloaded a model by itself to make room for another one (contract §12.2).
    """

    node = models.OneToOneField(Node, on_delete=models.CASCADE, primary_key=True, related_name="policy")
    vram_budget_bytes = models.BigIntegerField(null=True, blank=True)
    auto_evict_seen_at = models.DateTimeField(null=True, editable=False)
    auto_evict_gone = models.CharField(max_length=300, blank=True, default="", editable=False)
    auto_evict_came = models.CharField(max_length=300, blank=True, default="", editable=False)

    def __str__(self):
        return f"policy of {self.node}"

    @classmethod
    def budget(cls, node: Node) -> int | None:
        """Bytes that all models together may hold on the node's GPUs."""
        return cls.objects.filter(node=node).values_list("vram_budget_bytes", flat=True).first()

    @classmethod
    def set_budget(cls, node: Node, budget: int | None) -> None:
        with writing():
            cls.objects.update_or_create(node=node, defaults={"vram_budget_bytes": budget})
            record("model.changed", node.pk, keys=[])

    @classmethod
    def note_auto_evict(cls, node: Node, gone: str, came: str) -> None:
        """LM Studio let go of one copy for another, and nobody here had a part in it."""
        seen = {"auto_evict_seen_at": timezone.now(), "auto_evict_gone": gone, "auto_evict_came": came}
        cls.objects.update_or_create(node=node, defaults=seen)

    def forgive(self) -> None:
        """A person has seen the warning; it comes back when it is seen to happen again."""
        with writing():
            NodePolicy.objects.filter(pk=self.pk).update(auto_evict_seen_at=None)
            record("model.changed", self.pk, keys=[])
        self.auto_evict_seen_at = None
