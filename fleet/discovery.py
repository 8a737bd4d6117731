"""Finding the LM Studio of this machine."""

from pathlib import Path

from fleet.daemons import http
from fleet.daemons.errors import DaemonError
from fleet.lms.home import configured_url

GREETING_SECONDS = 0.5  # what LM Studio's own command line allows (contract §1.2)


def find_here(user_home: Path | None = None) -> str | None:
    """The base URL of the LM Studio server that runs on this machine, or None."""
    url = configured_url(user_home or Path.home())
    try:
        greeting = http.call("GET", f"{url}/lmstudio-greeting", seconds=GREETING_SECONDS)
    except DaemonError:
        return None
    return url if greeting.get("lmstudio") is True else None
