"""What is wrong with a node, and what to do about it. Pure: a node and what its machine told in, sentences out."""

from dataclasses import dataclass

from fleet.daemons.errors import Reason
from fleet.lms.actions import Action
from fleet.lms.manager import State as Managed
from fleet.models.node import Kind, Node, State


@dataclass(frozen=True, slots=True)
class Advice:
    """`text` for people; `action` is what a button beside it would do, None where only people can help."""

    text: str
    action: Action | None = None


def advise(node: Node, status: dict | None) -> Advice | None:
    """What to do about a node that is not all right, or None. `status` is LM Studio's own (Status.as_json())."""
    if not node.is_enabled:
        return Advice("It gets no new prompts. What runs there goes on to its end.")
    if node.state == State.ONLINE:
        told = status.get("advice") if node.can_be_managed and status else ""
        return Advice(str(told)) if told else None
    if node.state == State.STALLED:
        return Advice("It answers, but takes longer than 5 seconds. It may be overloaded, or the network slow.")
    if node.state == State.UNAUTHORIZED:
        return Advice(Reason.UNAUTHORIZED.explanation)
    if node.state == State.UNKNOWN:
        return Advice("It has not been looked at yet. This takes a few seconds.")
    if node.can_be_managed and status:
        return _managed(node, status)
    if node.can_be_managed or node.is_simulated:
        return Advice(node.reason_explanation)
    if node.kind != Kind.LMSTUDIO:
        return Advice(node.reason_explanation)
    return Advice(f"{node.reason_explanation} With an agent on its machine it could be started from here.")


def _managed(node: Node, status: dict) -> Advice:
    """LM Studio's own state says more than a port that does not answer."""
    state = status.get("state")
    if state == Managed.SERVER_DOWN:
        return Advice(Managed.SERVER_DOWN.explanation, Action.SERVER_START)
    if state == Managed.READY:
        return Advice(node.reason_explanation, Action.SERVER_RESTART)
    return Advice(f"{explain(status)} {status.get('advice') or ''}".strip())


def explain(status: dict) -> str:
    """LM Studio's own state in a sentence; an agent of another version may tell of one that is unknown here."""
    state = status.get("state")
    return Managed(state).explanation if state in list(Managed) else "Its state is unknown."


def in_short(status: dict) -> str:
    """The same in a word or two."""
    state = status.get("state")
    return state.replace("_", " ") if state in list(Managed) else "unknown"
