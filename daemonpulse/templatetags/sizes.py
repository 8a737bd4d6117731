"""Sizes and shares in words; unknown stays "unknown"."""

from django import template

register = template.Library()

GIB = 2**30


@register.filter
def gib(value: int | None) -> str:
    """Bytes as "17.6 GiB" or "640 MiB" (binary units, as graphics drivers count)."""
    if value is None:
        return "unknown"
    if abs(value) < GIB:
        return f"{value / 2**20:.0f} MiB"
    return f"{value / GIB:.1f} GiB"


@register.filter
def gib_number(value: int | None) -> str:
    """Bytes as the bare number of GiB, "17.6"."""
    return "?" if value is None else f"{value / GIB:.1f}"


@register.filter
def rounded(value: float | None) -> str:
    """A figure without decimals, "94"; "?" when unknown."""
    return "?" if value is None else f"{value:.0f}"
