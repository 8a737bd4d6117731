"""The contexts of what both a page and its socket render."""

from fleet.models import Node
from forge.models import Model
from pulse.markdown import render
from pulse.thinking import Kind

from .board import lane_statuses, outlooks
from .live import Position, last_attempt_with_texts
from .models import Prompt


def prompt_context(prompt: Prompt) -> dict:
    """Everything `_prompt.html` shows of one prompt. `seen` names this state of it; `position` how much text it has."""
    attempt, texts = last_attempt_with_texts(prompt.pk)
    position = Position.of(attempt, texts)
    reasoning, answer = texts[Kind.REASONING], texts[Kind.MESSAGE]
    is_streaming = prompt.is_running
    status = outlooks([prompt.lane])[prompt.lane_id] if prompt.is_queued else None
    place = prompt.place()
    earlier = prompt.attempts.select_related("node")
    if attempt and not prompt.is_queued:
        earlier = earlier.exclude(pk=attempt.pk)
    return {
        "prompt": prompt,
        "attempt": attempt,
        "earlier_attempts": list(earlier),
        "reasoning": reasoning,
        "answer": answer,
        "answer_html": "" if is_streaming else render(answer),
        "place": place,
        "wait": prompt.expected_wait(place, status.slots) if status and place else None,
        "why": status.why if status else "",
        "blocker": status.blocker if status else "",
        "reasoning_tokens": attempt.reasoning_tokens_so_far() if is_streaming and reasoning else 0,
        "position": position,
        "seen": f"{prompt.state}.{prompt.attempt_number}.{len(reasoning)}.{len(answer)}.{place}.{prompt.reason}",
    }


def board_context(user) -> dict:
    """The lanes, and whether this user may pause them."""
    return {"statuses": lane_statuses(user), "may_pause": user.has_perm("queue.change_lane")}


def lane_context(user, lane_id: int) -> dict:
    """One lane of the board."""
    context = board_context(user)
    return context | {"status": next((s for s in context["statuses"] if s.lane.pk == lane_id), None)}


def model_choices(chosen: str = "") -> list[dict]:
    """The models to choose from: key, name, whether it can run now, and in words where it stands.

    `chosen` is listed even when no node has it any more, and then said to be gone.
    """
    rows = Model.objects.usable().select_related("node").order_by("key", "node__name")
    choices: dict[str, dict] = {}
    for row in rows:
        flags = {"is_loaded": False, "is_online": False, "is_gone": False, "is_simulated": True}
        choice = choices.setdefault(row.key, {"key": row.key, "name": row.name, "nodes": []} | flags)
        choice["is_loaded"] |= bool(row.is_loaded) and row.is_available
        choice["is_online"] |= row.is_available
        choice["is_simulated"] &= row.node.is_simulated
        choice["nodes"].append(row.node.name)
    if chosen and chosen not in choices:
        choices[chosen] = {"key": chosen, "name": chosen, "is_gone": True, "nodes": []}
    for choice in choices.values():
        choice["note"] = _note(choice)
    return list(choices.values())


def _note(choice: dict) -> str:
    if choice["is_gone"]:
        return "no longer on any node"
    state = "loaded" if choice["is_loaded"] else "" if choice["is_online"] else "node offline, waits for it"
    return ", ".join(filter(None, [state, "simulated" if choice["is_simulated"] else ""]))


def has_nodes() -> bool:
    return Node.objects.enabled().exists()
