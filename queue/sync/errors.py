"""What can be wrong with a device's call, as docs/sync.md has it."""

from itertools import islice

from django.core.exceptions import ValidationError

from daemonpulse.api import ApiError

MOST_FIELDS, MOST_CHARACTERS = 20, 1000


class SyncError(Exception):
    """An answer that is an error: HTTP status, code for programs, a sentence for people, and more for some codes."""

    def __init__(self, status: int, code: str, message: str, **more):
        super().__init__(code)
        self.status, self.code = status, code
        self.told = {"code": code, "message": message} | more

    def as_json(self) -> dict:
        return {"error": self.told}


def invalid(errors: dict[str, list[ValidationError]]) -> SyncError:
    """422 with the fields and their rules."""
    api = ApiError.of_fields(dict(islice(errors.items(), MOST_FIELDS)))
    fields = [{name: quotable(value) for name, value in row.items()} for row in api.fields]
    return SyncError(422, "invalid", quotable(api.message), fields=fields)


def quotable(text: str) -> str:
    """What a client sent, as an answer may repeat it: no half characters, no NUL, not at any length."""
    return text[:MOST_CHARACTERS].encode(errors="replace").decode().replace("\0", "?")


def wrong_field(field: str, rule: str, message: str) -> SyncError:
    return invalid({field: [ValidationError(message, code=rule)]})
