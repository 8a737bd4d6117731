"""The bodies of calls: which fields, of which JSON type. What more a field must be, its call checks."""

import uuid

from .errors import SyncError, wrong_field

WORDS = {str: "a string", int: "a whole number", list: "a list", dict: "an object"}


def fields_of(data: object, known: dict[str, type], required: tuple[str, ...] = (), where: str = "") -> dict:
    """The body, checked. Raises SyncError: malformed when it is no object, else invalid with the first wrong field."""
    if not isinstance(data, dict):
        if where:
            raise wrong_field(where, "type", "Must be an object.")
        raise SyncError(400, "malformed", "Send a JSON object.")
    prefix = f"{where}." if where else ""
    for name, value in data.items():
        if name not in known:
            raise wrong_field(prefix + name, "unknown_field", f"There is no such field. Known: {', '.join(known)}.")
        if isinstance(value, str):
            whole_text(value, prefix + name)
        is_bool_for_number = isinstance(value, bool) and known[name] is int
        if not isinstance(value, known[name]) or is_bool_for_number:
            raise wrong_field(prefix + name, "type", f"Must be {WORDS[known[name]]}.")
    for name in required:
        if name not in data:
            raise wrong_field(prefix + name, "required", "This field is required.")
    return data


def whole_text(text: str, where: str) -> None:
    """Raises SyncError for what cannot be stored or sent: half characters and NUL."""
    if "\0" in text or text != text.encode(errors="replace").decode():
        raise wrong_field(where, "characters", "It has characters that cannot be stored.")


def uuid_of(text: object, where: str) -> uuid.UUID:
    """In the one spelling that answers have, by which a device finds them."""
    try:
        made = uuid.UUID(text)
    except (ValueError, AttributeError, TypeError) as error:
        raise wrong_field(where, "invalid", "Must be a UUID.") from error
    if str(made) != text:
        raise wrong_field(where, "invalid", "Must be a UUID in lower case with dashes.")
    return made


def counted(data: dict, name: str, default: int | None, most: int) -> int | None:
    """A number from 0 to `most`. Raises SyncError."""
    value = data.get(name, default)
    if value is not None and not 0 <= value <= most:
        raise wrong_field(name, "range", f"Must be from 0 to {most}.")
    return value
