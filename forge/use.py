"""Who uses models right now. The app that runs prompts tells it; it is reached by the name in settings.MODEL_USE."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from django.conf import settings
from django.utils.module_loading import import_string


@dataclass(frozen=True, slots=True)
class Use:
    """Prompts of one model on one node: those that run there, and those that wait and could."""

    running: int = 0
    waiting: int = 0

    @property
    def is_working(self) -> bool:
        return self.running > 0


NONE = Use()


def of(node_ids: Collection[int]) -> dict[tuple[int, str], Use]:
    """(node id, model key) → its use; models without prompts are left out. Inside writing() it cannot grow old."""
    return import_string(f"{settings.MODEL_USE}.of")(node_ids)


def last_ended(node_id: int, key: str, since: datetime) -> datetime | None:
    """When a prompt of this model last ended there, if that was after `since`."""
    return import_string(f"{settings.MODEL_USE}.last_ended")(node_id, key, since)
