"""How models are laid out over a node's GPUs: one profile for the node, others for single models."""

from django.db import models

from daemonpulse.models.event import record, writing
from fleet.allocation.profile import Profile, Strategy
from fleet.models.node import Node


class AllocationProfile(models.Model):
    """A choice of people; fleet.allocation turns it into a plan. `model` "" = every model without a profile."""

    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="profiles")
    model = models.CharField(max_length=300, blank=True, default="")
    strategy = models.CharField(max_length=20, default=Strategy.AUTOMATIC.value)
    gpu_order = models.JSONField(default=list, blank=True)
    offload_ratio = models.FloatField(null=True, blank=True)
    strict_vram_limit = models.BooleanField(default=False)

    class Meta:
        ordering = ["model"]
        constraints = [models.UniqueConstraint(fields=["node", "model"], name="one_profile_per_model_and_node")]

    def __str__(self):
        return f"{self.model or 'every model'} on {self.node}"

    @property
    def profile(self) -> Profile:
        return Profile(Strategy(self.strategy), tuple(self.gpu_order), self.offload_ratio, self.strict_vram_limit)

    @property
    def dom_part(self) -> str:
        return str(self.pk)

    @property
    def words(self) -> str:
        return in_words(self.profile)

    @classmethod
    def choose(cls, node: Node, model: str, profile: Profile) -> "AllocationProfile":
        """Use this profile for a model on a node from its next load on."""
        values = {
            "strategy": profile.strategy.value,
            "gpu_order": list(profile.gpu_order),
            "offload_ratio": profile.offload_ratio,
            "strict_vram_limit": profile.strict_vram_limit,
        }
        with writing():
            row, _ = cls.objects.update_or_create(node=node, model=model, defaults=values)
            record("node.changed", node.pk)
        return row

    @classmethod
    def chosen(cls, node: Node, model: str) -> Profile:
        """The model's own profile, else the node's, else LM Studio's own ways."""
        rows = cls.objects.filter(node=node, model__in=["", model]).order_by("-model")
        row = rows.first()
        return row.profile if row else Profile()


def in_words(profile: Profile) -> str:
    """A profile in a sentence."""
    order = ", ".join(str(index) for index in profile.gpu_order)
    said = {
        Strategy.AUTOMATIC: "LM Studio decides where it goes",
        Strategy.PRIORITY: f"GPUs are filled in the order {order or 'they have'}",
        Strategy.EVEN: f"even parts on {f'GPUs {order}' if order else 'all GPUs'}",
        Strategy.DEDICATED: f"GPU {order} alone",
    }[profile.strategy]
    ratio = f", {profile.offload_ratio:.0%} of it on GPUs" if profile.offload_ratio is not None else ""
    strict = ", never beyond the GPUs\u2019 own memory" if profile.strict_vram_limit else ""
    return f"{said}{ratio}{strict}."
