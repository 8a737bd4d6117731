"""Where in the log of changes a device is. Devices keep cursors as they are told; only this module reads them."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from daemonpulse.models import Event

from ..states import EVENT_KINDS

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
REMOVED = "prompt.removed"
KINDS = [*EVENT_KINDS.values(), "prompt.edited", REMOVED]


class Listing(NamedTuple):
    """In the middle of a listing, newest first: what comes behind this prompt; afterwards go on with `live`."""

    live: int
    enqueued_at: datetime
    prompt_id: UUID


def text_of(event_id: int) -> str:
    return f"e.{event_id}"


def newest_id() -> int:
    """Of what the log keeps: the cursor must still be in it when what is transient has been tidied away."""
    return Event.objects.lasting().last_id()


def newest() -> str:
    return text_of(newest_id())


def text_of_listing(listing: Listing) -> str:
    microseconds = (listing.enqueued_at - EPOCH) // timedelta(microseconds=1)
    return f"l.{listing.live}.{microseconds}.{listing.prompt_id.hex}"


def read(text: str) -> int | Listing | None:
    """An event's id, the middle of a listing, or None: begin with a listing. What is none of ours is None too."""
    try:
        match text.split("."):
            case ["e", number]:
                return event_id if is_complete_since(event_id := int(number)) else None
            case ["l", live, microseconds, prompt_id]:
                return Listing(int(live), EPOCH + timedelta(microseconds=int(microseconds)), UUID(prompt_id))
    except (ValueError, OverflowError):
        pass
    return None


def is_complete_since(event_id: int) -> bool:
    """Whether the log still has everything after this event, and has ever come so far."""
    oldest = Event.objects.lasting().order_by("id").values_list("id", flat=True).first()
    if oldest is None:  # nothing has ever happened here: the newest entry is never tidied away
        return event_id == 0
    return oldest - 1 <= event_id <= Event.objects.last_id()
