"""Lengths of time in words, as static/daemonpulse/app.js writes them while they run."""

from datetime import datetime, timedelta

from django import template

register = template.Library()

MINUTE, HOUR = 60, 3600
STEP_SECONDS = 5  # an estimate is not more exact than this


@register.filter
def since(end: datetime | None, start: datetime | None) -> timedelta | None:
    """The time between two moments; None when one of them is unknown."""
    return end - start if end and start else None


@register.filter
def duration(value: timedelta | float | None) -> str:
    """A timedelta or seconds as "0.4 s", "12 s", "3 min 05 s" or "1 h 02 min"; unknown without a value."""
    if value is None or value == "":
        return "unknown"
    seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)
    if seconds < 0.095:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    seconds = round(seconds)
    if seconds < MINUTE:
        return f"{seconds} s"
    if seconds < HOUR:
        return f"{seconds // MINUTE} min {seconds % MINUTE:02} s"
    return f"{seconds // HOUR} h {seconds % HOUR // MINUTE:02} min"


@register.filter
def about(value: timedelta) -> str:
    """An expected wait in round words: "in a few seconds", "in about 40 s", "in about 3 min"."""
    seconds = value.total_seconds()
    if seconds < 2 * STEP_SECONDS:
        return "in a few seconds"
    if seconds < MINUTE:
        return f"in about {round(seconds / STEP_SECONDS) * STEP_SECONDS} s"
    if seconds < HOUR:
        return f"in about {round(seconds / MINUTE)} min"
    return f"in about {round(seconds / HOUR)} h"
