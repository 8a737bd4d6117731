"""The states of a prompt and of an attempt, the moves between them, and a prompt's priorities. Nothing else defines
them."""

from django.db.models import TextChoices


class State(TextChoices):
    QUEUED = "queued", "Queued"  # submitted, released by an attempt, or retried by hand; may have a due time
    SENDING = "sending", "Sending"  # claimed: an attempt runs it on a node
    DONE = "done", "Done"  # the answer is complete
    FAILED = "failed", "Failed"  # the last try failed, or the failure is one that no try mends
    CANCELLED = "cancelled", "Cancelled"  # its owner or an operator stopped it


MOVES: dict[State, set[State]] = {
    State.QUEUED: {State.SENDING, State.CANCELLED},
    State.SENDING: {State.QUEUED, State.DONE, State.FAILED, State.CANCELLED},
    State.DONE: set(),
    State.FAILED: {State.QUEUED},
    State.CANCELLED: {State.QUEUED},
}
OPEN = (State.QUEUED, State.SENDING)
ENDED = (State.DONE, State.FAILED, State.CANCELLED)

# What the event log calls arriving in a state.
EVENT_KINDS = {
    State.QUEUED: "prompt.queued",
    State.SENDING: "prompt.claimed",
    State.DONE: "prompt.finished",
    State.FAILED: "prompt.failed",
    State.CANCELLED: "prompt.cancelled",
}


PRIORITIES = {"low": -10, "normal": 0, "high": 10}
PRIORITY_NAMES = {value: name for name, value in PRIORITIES.items()}


class Outcome(TextChoices):
    RUNNING = "running", "Running"  # a runner holds it by a lease
    DONE = "done", "Done"  # gave the prompt its answer
    FAILED = "failed", "Failed"  # the daemon could not
    CANCELLED = "cancelled", "Cancelled"  # somebody stopped the prompt
    RELEASED = "released", "Put back"  # the node went away or the worker was stopped: not the prompt's fault
    LOST = "lost", "Lost"  # the worker died; found by its expired lease
