"""What django-q2 runs."""

from .runner import LaneRunner
from .stopping import is_stopping


def work() -> None:
    """Work the lanes; see runner.py. A second call while a runner is alive returns at once."""
    LaneRunner(is_stopping).run()
