"""Every way in which the daemon says no, each with its body in both dialects (contract §2.0, §4.1)."""


class ApiError(Exception):
    """A refusal with an HTTP status; `type`, `code` and `param` are those of the v1 error envelope."""

    def __init__(self, status: int, type: str, message: str, code: str | None = None, param: str | None = None):
        super().__init__(message)
        self.status, self.type, self.message, self.code, self.param = status, type, message, code, param

    def native(self) -> tuple[int, dict]:
        """(status, body) on the native v1 routes."""
        error = {"type": self.type, "message": self.message, "code": self.code, "param": self.param}
        return self.status, {"error": {name: value for name, value in error.items() if value is not None}}

    def openai(self) -> tuple[int, dict]:
        """(status, body) on the OpenAI and v0 routes."""
        kind = "invalid_request_error" if self.status < 500 else self.type
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return self.status, {"error": error}


class Unauthorized(ApiError):
    """No token or a wrong one; the same body on every route (contract §1.3)."""

    def __init__(self):
        message = "This server wants a Bearer token in the Authorization header."
        super().__init__(401, "invalid_request", message, code="invalid_api_key")

    def openai(self) -> tuple[int, dict]:
        return self.native()


class UnknownModel(ApiError):
    def __init__(self, name: str):
        super().__init__(404, "model_not_found", f'Invalid model identifier "{name}"', "model_not_found", "model")


class LoadFailed(ApiError):
    """A model could not be brought into memory."""

    def __init__(self, key: str, reason: str):
        super().__init__(500, "internal_error", f'Failed to load model "{key}": {reason}')


class InstanceLost(ApiError):
    """The instance was unloaded while the request waited for it or generated on it (contract §12, item 2)."""

    def __init__(self, instance_id: str, why: str):
        super().__init__(500, "internal_error", f'Model instance "{instance_id}" is gone: {why}')

    def openai(self) -> tuple[int, dict]:
        """A model that died under a request is a 400 with a string on these routes (contract §4.1)."""
        return 400, {"error": self.message}


class ConnectionCut(Exception):
    """Close the connection after what was sent so far."""


class ConnectionRefused(Exception):
    """Reset the connection without an answer."""
