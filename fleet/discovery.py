"""Finding the LM Studio of this machine."""

from pathlib import Path

from fleet.lms.home import configured_url
from fleet.lms.server import greets


def find_here(user_home: Path | None = None) -> str | None:
    """The base URL of the LM Studio server that runs on this machine, or None."""
    url = configured_url(user_home or Path.home())
    return url if greets(url) else None
