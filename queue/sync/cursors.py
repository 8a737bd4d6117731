"""Where in the log of changes a device is. Devices keep cursors as they are told; only this module reads them."""

from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from daemonpulse.models import Event
from daemonpulse.models.event import EPOCH

from ..states import EVENT_KINDS

REMOVED = "prompt.removed"
KINDS = [*EVENT_KINDS.values(), "prompt.edited", REMOVED]


class Rewound(NamedTuple):
    """A cursor of a log that is not this one: the server was put back to an earlier state after it was told."""


class Listing(NamedTuple):
    """In the middle of a listing, newest first: what comes behind this prompt; afterwards go on with `live`."""

    live: int
    mark: str  # of the event `live`
    enqueued_at: datetime
    prompt_id: UUID


def text_of(event_id: int, mark: str | None = None) -> str:
    """With the event's mark: as given, or as the log has it; there is none when it was tidied away."""
    mark = mark_of(event_id) if mark is None else mark
    return f"e.{event_id}.{mark}" if mark else f"e.{event_id}"


def mark_of(event_id: int) -> str:
    event = Event.objects.filter(pk=event_id).only("at").first()
    return event.mark if event else ""


def newest_id() -> int:
    """Of what the log keeps: the cursor must still be in it when what is transient has been tidied away."""
    return Event.objects.lasting().last_id()


def newest() -> str:
    return text_of(newest_id())


def text_of_listing(listing: Listing) -> str:
    microseconds = (listing.enqueued_at - EPOCH) // timedelta(microseconds=1)
    return f"l.{listing.live}.{listing.mark}.{microseconds}.{listing.prompt_id.hex}"


def read(text: str) -> int | Listing | Rewound | None:
    """An event's id, the middle of a listing, or else: begin with a listing. What is none of ours is None."""
    try:
        match text.split("."):
            case ["e", number, *marks] if len(marks) < 2:
                event_id = int(number)
                if is_of_another_log(event_id, marks):
                    return Rewound()
                return event_id if is_complete_since(event_id) else None
            case ["l", live, mark, microseconds, prompt_id]:
                if is_of_another_log(int(live), [mark]):
                    return Rewound()
                at = EPOCH + timedelta(microseconds=int(microseconds))
                return Listing(int(live), mark, at, UUID(prompt_id))
    except (ValueError, OverflowError):
        pass
    return None


def is_of_another_log(event_id: int, marks: list[str]) -> bool:
    """Whether this log never came so far, or came there in another way."""
    if event_id > Event.objects.last_id():
        return True
    own = mark_of(event_id)
    return bool(marks and own and marks[0] != own)


def is_complete_since(event_id: int) -> bool:
    """Whether the log still has everything after this event, and has ever come so far."""
    oldest = Event.objects.lasting().order_by("id").values_list("id", flat=True).first()
    if oldest is None:  # nothing has ever happened here: the newest entry is never tidied away
        return event_id == 0
    return oldest - 1 <= event_id <= Event.objects.last_id()
