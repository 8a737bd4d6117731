"""What every page of a client says of its server: whether it is there, and when both last agreed."""

from dataclasses import dataclass

from django.conf import settings

from ..models import Mutation, Prompt, Remote

MOST_SHOWN = 50  # refusals on one page; the header counts them all


@dataclass(slots=True)
class ServerState:
    """`waiting` and `refused` count entries of the outbox. `remote` is None before the first pairing."""

    remote: Remote | None
    waiting: int
    refused: int

    @property
    def word(self) -> str:
        """unpaired, shut_out, problem, gone, unknown or online."""
        remote = self.remote
        if remote is None or not remote.is_paired:
            return "unpaired"
        if remote.is_shut_out:
            return "shut_out"
        if remote.problem and not remote.has_notice:
            return "problem"
        if remote.gone_since:
            return "gone"
        return "online" if remote.is_online else "unknown"

    @property
    def refusals(self) -> list[Mutation]:
        """What was not accepted; `excerpt` of its prompt, where that is still there."""
        refusals = list(Mutation.objects.refused()[:MOST_SHOWN])
        prompts = Prompt.objects.in_bulk([one.prompt_id for one in refusals])
        for one in refusals:
            one.excerpt = prompts[one.prompt_id].excerpt if one.prompt_id in prompts else ""
        return refusals


def current() -> ServerState:
    remote = Remote.current()
    waiting = Mutation.objects.to_send(remote.server if remote else "").count()
    return ServerState(remote, waiting, Mutation.objects.refused().count())


def server(request) -> dict:
    """A template's `server`, for people who are signed in to a client; None on a server itself."""
    user = getattr(request, "user", None)
    is_shown = settings.IS_CLIENT and user is not None and user.is_authenticated
    return {"server": current() if is_shown else None, "is_client": settings.IS_CLIENT}
