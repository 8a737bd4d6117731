"""The contexts of what both a page and its socket render."""

from django.conf import settings

from fleet.models import Node
from forge.models import Model
from pulse.markdown import render
from pulse.thinking import Kind

from .board import lane_statuses, outlooks
from .live import Position, last_attempt_with_texts
from .models import Prompt, Remote, RemoteModel, Runner


def prompt_context(prompt: Prompt) -> dict:
    """Everything `_prompt.html` shows of one prompt. `seen` names this state of it; `position` how much text it has."""
    attempt, texts = last_attempt_with_texts(prompt.pk)
    position = Position.of(attempt, texts)
    reasoning, answer = texts[Kind.REASONING], texts[Kind.MESSAGE]
    is_streaming = prompt.is_running
    is_client = settings.IS_CLIENT
    status = outlooks([prompt.lane])[prompt.lane_id] if prompt.is_queued else None
    place = None if is_client else prompt.place()  # its lane is on the server
    earlier = prompt.attempts.select_related("node")
    if attempt and not prompt.is_queued:
        earlier = earlier.exclude(pk=attempt.pk)
    return {
        "prompt": prompt,
        "model_name": _name_of(prompt.model),
        "attempt": attempt,
        "earlier_attempts": list(earlier),
        "reasoning": reasoning,
        "answer": answer,
        "answer_html": "" if is_streaming else render(answer),
        "place": place,
        "wait": status.wait_of(prompt, place) if status and place else None,
        "why": status.why if status else "",
        "blocker": status.blocker if status else "",
        "reasoning_tokens": attempt.reasoning_tokens_so_far() if is_streaming and reasoning else 0,
        "position": position,
        "seen": f"{prompt.state}.{prompt.attempt_number}.{len(reasoning)}.{len(answer)}.{place}.{prompt.reason}",
    } | (_carriage(prompt) if is_client else {"is_executing": not prompt.is_queued or Runner.has_worker()})


def _name_of(key: str) -> str:
    """What a model is called where it is known; else its key."""
    known = RemoteModel if settings.IS_CLIENT else Model
    return known.objects.filter(key=key).order_by("pk").values_list("name", flat=True).first() or key


def _carriage(prompt: Prompt) -> dict:
    """What a client's page says of the way to the server. `is_elsewhere`: an earlier server has it."""
    remote = Remote.current()
    is_elsewhere = prompt.is_on_server and (remote is None or prompt.mirror.server != remote.server)
    mutations = list(prompt.mutations.all())
    seen = ",".join(f"{one.order}{one.is_tried:d}{one.is_refused:d}" for one in mutations)
    state = f"{prompt.state}.{prompt.attempt_number}.{prompt.reason}.{is_elsewhere}.{prompt.is_on_server}.{seen}"
    return {"is_client": True, "remote": remote, "is_elsewhere": is_elsewhere, "seen": state, "mutations": mutations}


def board_context(user) -> dict:
    """The lanes, and whether this user may pause them."""
    may_pause = user.has_perm("queue.change_lane") and not settings.IS_CLIENT
    parts = {"is_client": settings.IS_CLIENT, "has_worker": settings.IS_CLIENT or Runner.has_worker()}
    return {"statuses": lane_statuses(user), "may_pause": may_pause} | parts


def lane_context(user, lane_id: int) -> dict:
    """One lane of the board."""
    context = board_context(user)
    return context | {"status": next((s for s in context["statuses"] if s.lane.pk == lane_id), None)}


def model_choices(chosen: str = "") -> list[dict]:
    """The models to choose from: key, name, whether it can run now, and in words where it stands.

    `chosen` is listed even when no node has it any more, and then said to be gone.
    """
    if settings.IS_CLIENT:
        return _choices_of_server(chosen)
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


def _choices_of_server(chosen: str) -> list[dict]:
    """On a client: what its server has named."""
    rows = {row.key: row for row in RemoteModel.objects.all()}
    choices = [
        {"key": row.key, "name": row.name, "is_gone": False, "is_loaded": None, "is_online": row.is_usable, "nodes": [],
         "note": "" if row.is_usable else "its node is offline, waits for it"}
        for row in rows.values()
    ]  # fmt: skip
    if chosen and chosen not in rows:
        choices.append({"key": chosen, "name": chosen, "is_gone": True, "nodes": [], "note": "not on the server"})
    return choices


def _note(choice: dict) -> str:
    if choice["is_gone"]:
        return "no longer on any node"
    state = "loaded" if choice["is_loaded"] else "" if choice["is_online"] else "node offline, waits for it"
    return ", ".join(filter(None, [state, "simulated" if choice["is_simulated"] else ""]))


def has_nodes() -> bool:
    """Whether something could run here; a client never asks for nodes."""
    return settings.IS_CLIENT or Node.objects.enabled().exists()
