"""When and whether a failed prompt is tried again. Pure."""

import random
from datetime import timedelta

from fleet.daemons.errors import Reason

MAX_TRIES = 5
FIRST_DELAY_SECONDS = 2.0
MAX_DELAY_SECONDS = 300.0
LONGEST = timedelta(seconds=2 * MAX_DELAY_SECONDS)  # no pause is as long, whoever asked for it
SPREAD = 0.2  # ± this part, so that prompts that failed together do not come back together
MAX_LOST = 10  # attempts whose worker died: a prompt that kills its worker must end somewhere


def delay(tries: int, chance: float | None = None) -> timedelta:
    """How long to wait after `tries` failed tries (from 1): 2, 4, 8 … s ± 20 %, at most 5 min.

    `chance` in 0..1 replaces the random number.
    """
    seconds = min(FIRST_DELAY_SECONDS * 2 ** (tries - 1), MAX_DELAY_SECONDS)
    chance = random.random() if chance is None else chance  # noqa: S311 - spreads load, guards nothing
    return timedelta(seconds=min(seconds * (1 - SPREAD + 2 * SPREAD * chance), MAX_DELAY_SECONDS))


def may_try_again(reason: Reason, tries: int) -> bool:
    """`tries` counts the one that just failed."""
    return reason.can_retry and tries < MAX_TRIES
