"""What can be wrong with a device's call, as docs/sync.md has it."""

from django.core.exceptions import ValidationError

from daemonpulse.api import ApiError


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
    api = ApiError.of_fields(errors)
    return SyncError(422, "invalid", api.message, fields=api.fields)


def wrong_field(field: str, rule: str, message: str) -> SyncError:
    return invalid({field: [ValidationError(message, code=rule)]})
