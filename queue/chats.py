"""What a daemon is asked for a prompt, with the chat that it continues."""

from django.conf import settings

from fleet.daemons.types import ChatRequest, Turn

from .models import Prompt


def chat_request(prompt: Prompt) -> ChatRequest:
    """A follow-up carries both forms of its chat; each kind of daemon takes the one it knows."""
    turns, previous = [], ""
    earlier = prompt.follows
    while earlier is not None and len(turns) < settings.MAX_CHAT_TURNS:
        attempt = earlier.attempt()
        previous = previous or (attempt.response_id if attempt else "")
        turns.append(Turn(earlier.text, attempt.answer if attempt else ""))
        earlier = earlier.follows
    return ChatRequest(
        model=prompt.model,
        text=prompt.text,
        system_prompt=prompt.system_prompt,
        settings=prompt.settings,
        previous_response_id=previous,
        history=tuple(reversed(turns)),
    )
