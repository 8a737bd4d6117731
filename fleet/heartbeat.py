"""How often a node is looked at. Pure: what is known of it in, seconds out.

Scouting costs a sleeping machine next to nothing; an active look keeps a page or a running prompt true.
"""

from dataclasses import dataclass

SCOUT_SECONDS = 12.0  # nobody looks and nothing runs: a node that vanishes is known to be away within 15 s
ACTIVE_SECONDS = 2.0  # a page shows it, or work runs on it
AWAY_SECONDS = 5.0  # it does not answer: its return is seen within 10 s
AWAITED_SECONDS = 0.5  # it does not answer, and prompts wait for it
LINGER_SECONDS = 15.0  # from active back to scouting

STATUS_SECONDS = 60.0  # between two looks at LM Studio's own state while all is well
STATUS_AWAY_SECONDS = 10.0  # and while it does not answer: what to do about it may have changed


@dataclass(frozen=True, slots=True)
class Interest:
    """Why a node matters right now. `since_active`: seconds since a page showed it or work ran on it."""

    is_wanted: bool = False  # somebody asked for a look
    is_watched: bool = False
    is_working: bool = False
    is_awaited: bool = False  # prompts wait that it could run
    is_answering: bool = True
    since_active: float = float("inf")


def period(interest: Interest) -> float:
    """Seconds between two looks.

    1. Somebody wants to know: now. 2. Prompts wait for its return: many times a second. 3. A page shows it, work
    runs on it, or did so a moment ago: actively. 4. It is away: often enough to see it return. 5. Otherwise scout.
    """
    if interest.is_wanted:  # 1
        return 0.0
    if interest.is_awaited and not interest.is_answering:  # 2
        return AWAITED_SECONDS
    if interest.is_watched or interest.is_working or interest.since_active < LINGER_SECONDS:  # 3
        return ACTIVE_SECONDS
    if not interest.is_answering:  # 4
        return AWAY_SECONDS
    return SCOUT_SECONDS  # 5


def status_period(is_answering: bool, is_watched: bool) -> float:
    """Seconds between two looks at the LM Studio of a node's machine: each starts a program or two there."""
    if is_answering:
        return STATUS_SECONDS if is_watched else 10 * STATUS_SECONDS
    return STATUS_AWAY_SECONDS if is_watched else STATUS_SECONDS
