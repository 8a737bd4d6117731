"""How the worker's main process tells the runners in django-q2's pool to put back what they hold.

The event is made before the pool is forked, so the pool has it. Elsewhere (a platform that spawns, a test) it is
never set, and expired leases do the same a few seconds later.
"""

import multiprocessing

_stopping = None


def prepare() -> None:
    """Make the event; call it before the pool starts."""
    global _stopping
    _stopping = multiprocessing.Event()


def stop() -> None:
    _stopping.set()


def is_stopping() -> bool:
    return _stopping is not None and _stopping.is_set()
