"""Text that somebody else wrote, made fit to be shown in a page, a terminal and a log, and to be kept in a database.

A driver, a program's name or another machine may give texts that nothing can encode (a lone surrogate), that
PostgreSQL cannot keep (NUL), or that steer the terminal they are shown in. Imports no Django.
"""

import math
import re

SURROGATE = re.compile(r"[\ud800-\udfff]")
SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[PX^_][^\x1b]*\x1b\\|[0-Z\\`-~])")
BREAKS = re.compile(r"[\t-\r\x85\u2028\u2029]+")
# Beside control characters those that change the direction of the text around them.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
SLACK = 4  # so many times what is kept is looked at: the rest may be terminal codes


def clean(text: str, most: int) -> str:
    """One line of at most `most` characters: without terminal codes and control characters, U+FFFD for surrogates."""
    line = BREAKS.sub(" ", SEQUENCE.sub("", text[: most * SLACK]))
    return SURROGATE.sub("\ufffd", CONTROL.sub("", line))[:most]


def cleaned_json(value: object) -> object:
    """The JSON with its texts clean, keys too (line ends and tabs stay), and None for numbers that JSON has not.

    Raises RecursionError for what is nested too deeply.
    """
    if isinstance(value, str):
        return SURROGATE.sub("\ufffd", CONTROL.sub("", SEQUENCE.sub("", value)))
    if isinstance(value, dict):
        return {cleaned_json(name): cleaned_json(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [cleaned_json(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
