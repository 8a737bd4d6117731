"""A prompt that was tied to one node must not run on another when that node is removed."""

from django.db.models.signals import pre_delete
from django.dispatch import receiver

from fleet.models import Node

from .models import Prompt


@receiver(pre_delete, sender=Node)
def cancel_pinned(sender, instance: Node, **kwargs) -> None:
    """Its owner may have pinned it for a reason, such as where its text may go: better not at all than elsewhere."""
    for prompt in Prompt.objects.open().filter(node_pin=instance).without_texts():
        prompt.cancel()
