"""What changed since a device asked last, and long texts in pieces."""

import json
from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple
from uuid import UUID

from django.db.models import F, Max, Q

from daemonpulse.models import Event
from pulse.thinking import Kind

from ..models import Attempt, Device, Prompt
from ..states import PRIORITY_NAMES
from . import cursors
from .about import TEXT_CHARACTERS
from .cursors import KINDS, Listing
from .errors import SyncError, wrong_field
from .schema import counted, fields_of, uuid_of

PAGE, MAX_PAGE = 200, 500
PAGE_BYTES = 700_000  # sealing makes a third more of it, and an answer is at most 1 MB
CUT_AFTER = 24_000  # characters of each text in a change
TEXTS = ("text", "system_prompt", "detail", "reasoning", "answer")


def pull(device: Device, data: object) -> dict:
    """The call `pull`."""
    told = fields_of(data, {"cursor": str, "limit": int}, required=("cursor",))
    limit = counted(told, "limit", PAGE, MAX_PAGE) or 1
    match cursors.read(told["cursor"]):
        case int(event_id):
            return _since(device, event_id, limit)
        case Listing() as place:
            return _listing(device, place, limit)
        case cursors.Rewound():
            return _listing(device, None, limit) | {"rewound": True}
        case _:
            return _listing(device, None, limit)


def _since(device: Device, event_id: int, limit: int) -> dict:
    """The prompts that changed after an event, each once, where its last change stands in the log."""
    until = cursors.newest_id()
    log = Event.objects.filter(id__gt=event_id, id__lte=until, owner=device.owner, kind__in=KINDS)
    touched = list(log.values_list("subject").annotate(last=Max("id")).order_by("last")[: limit + 1])
    is_all = len(touched) <= limit
    touched = touched[:limit]
    rows = {str(row.pk): row for row in _rows(device).filter(pk__in=[subject for subject, _ in touched])}
    changes, removed, size = [], [], 0
    described = _described([rows[subject] for subject, _ in touched if subject in rows])
    cursor = event_id
    for subject, last in touched:
        if subject in rows:
            change = next(described)
            size += change.size
            if changes and size > PAGE_BYTES:
                is_all = False
                break
            changes.append(change.told)
        else:
            removed.append(subject)
        cursor = last
    cursor = until if is_all else cursor
    told = cursors.text_of(cursor)
    return _page(changes, removed, told, told, more=not is_all)


def _listing(device: Device, place: Listing | None, limit: int) -> dict:
    """Every prompt, newest first; `live` is from before its first page."""
    live = place.live if place else cursors.newest_id()
    mark = place.mark if place else cursors.mark_of(live)
    rows = _rows(device).order_by("-enqueued_at", "-id")
    if place:
        at = place.enqueued_at
        rows = rows.filter(Q(enqueued_at__lt=at) | Q(enqueued_at=at, id__lt=place.prompt_id))
    page = list(rows[: limit + 1])
    changes, size = [], 0
    for change in islice(_described(page[:limit]), limit):
        size += change.size
        if changes and size > PAGE_BYTES:
            break
        changes.append(change.told)
    is_all = len(changes) == len(page)
    live_cursor = cursors.text_of(live, mark)
    if is_all:
        return _page(changes, [], live_cursor, live_cursor, more=False, reset=place is None)
    last = page[len(changes) - 1]
    cursor = cursors.text_of_listing(Listing(live, mark, last.enqueued_at, last.pk))
    return _page(changes, [], cursor, live_cursor, more=True, reset=place is None)


def _page(changes: list, removed: list, cursor: str, live: str, more: bool, reset: bool = False) -> dict:
    return {"changes": changes, "removed": removed, "cursor": cursor, "live": live, "more": more, "reset": reset}


def _rows(device: Device):
    return Prompt.objects.of(device.owner).select_related("lane")


class Change(NamedTuple):
    told: dict
    size: int  # bytes, as JSON


def _described(rows: list[Prompt]) -> Iterable[Change]:
    """A change for each prompt, in order; with one query for all their attempts, and one for each that runs."""
    last = Attempt.objects.filter(prompt__in=rows, number=F("prompt__attempt_number"))
    attempts = {attempt.prompt_id: attempt for attempt in last.order_by()}
    for row in rows:
        told = change_of(row, attempts.get(row.pk))
        yield Change(told, len(json.dumps(told, ensure_ascii=False).encode()))


def change_of(row: Prompt, attempt: Attempt | None) -> dict:
    """A prompt as it is now, its texts cut; `attempt` is its last."""
    texts = _texts(row, attempt)
    return {
        "id": str(row.pk),
        "model": row.model,
        "state": row.state,
        "priority": PRIORITY_NAMES.get(row.priority, "normal"),
        "settings": row.settings,
        "follows": str(row.follows_id) if row.follows_id else None,
        "attempts": row.attempt_number,
        "enqueued_at": row.enqueued_at.isoformat(),
        "started_at": row.started_at.isoformat() if row.started_at else None,
        "finished_at": row.finished_at.isoformat() if row.finished_at else None,
        "reason": row.reason or None,
        "explanation": row.reason_explanation or None,
        "stats": attempt.stats if attempt else {},
        "lengths": {name: len(value) for name, value in texts.items() if len(value) > CUT_AFTER},
    } | {name: value[:CUT_AFTER] for name, value in texts.items()}


def _texts(row: Prompt, attempt: Attempt | None) -> dict[str, str]:
    output = attempt.texts() if attempt else {Kind.REASONING: "", Kind.MESSAGE: ""}
    return {
        "text": row.text,
        "system_prompt": row.system_prompt,
        "detail": row.detail,
        "reasoning": output[Kind.REASONING],
        "answer": output[Kind.MESSAGE],
    }


def text(device: Device, data: object) -> dict:
    """The call `text`."""
    known = {"prompt": str, "field": str, "attempt": int, "offset": int}
    told = fields_of(data, known, required=("prompt", "field", "offset"))
    if told["field"] not in TEXTS:
        raise wrong_field("field", "invalid_choice", f"Must be one of {', '.join(TEXTS)}.")
    offset = counted(told, "offset", 0, 10**9)
    row = _rows(device).filter(pk=uuid_of(told["prompt"], "prompt")).first()
    if row is None:
        raise SyncError(404, "not_found", "There is no such prompt.")
    whole = _texts(row, row.attempts.filter(number=row.attempt_number).first())[told["field"]]
    piece = whole[offset : offset + TEXT_CHARACTERS]
    return {"text": piece, "offset": offset, "length": len(whole), "attempt": row.attempt_number}


def owned(device: Device, ids: list[UUID]) -> set[UUID]:
    """Of these prompts the device's owner's."""
    return set(Prompt.objects.of(device.owner).filter(pk__in=ids).values_list("pk", flat=True))
