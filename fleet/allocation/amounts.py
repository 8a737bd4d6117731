"""Amounts of memory in words."""

STEP = 1024
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def amount(count: int) -> str:
    """Bytes as people read them, in the binary units of `lms`: "3.1 GiB", "512 MiB"."""
    value, unit = float(count), 0
    while abs(value) >= STEP and unit < len(UNITS) - 1:
        value, unit = value / STEP, unit + 1
    return f"{value:.1f} {UNITS[unit]}" if unit >= UNITS.index("GiB") else f"{value:.0f} {UNITS[unit]}"
