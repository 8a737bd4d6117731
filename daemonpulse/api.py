"""What every JSON endpoint shares: the Bearer token, the methods, and errors as JSON with field and rule."""

import functools
import json

from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import RequestDataTooBig, ValidationError
from django.http import HttpRequest, JsonResponse
from django.http.request import UnreadablePostError
from django.views.decorators.csrf import csrf_exempt

from daemonpulse.models import ApiToken
from daemonpulse.models.access import Scope


class ApiError(Exception):
    """An answer that is an error: status, message, and the field and rule where there is one."""

    def __init__(self, status: int, message: str, field: str = "", rule: str = ""):
        super().__init__(message)
        self.status = status
        self.message = message
        self.fields = [{"field": field, "rule": rule, "message": message}] if field else []

    @classmethod
    def of_fields(cls, errors: dict[str, list[ValidationError]]) -> "ApiError":
        rows = [
            {"field": field, "rule": error.code or "invalid", "message": error.messages[0]}
            for field, of_field in errors.items()
            for error in of_field
        ]
        wording = "; ".join(f"{row['field']}: {row['message']}" if row["field"] else row["message"] for row in rows)
        made = cls(422, wording)
        made.fields = rows
        return made

    def response(self) -> JsonResponse:
        return JsonResponse({"error": {"message": self.message, "fields": self.fields}}, status=self.status)


def form_errors(form) -> dict[str, list[ValidationError]]:
    return {"" if name == "__all__" else name: errors for name, errors in form.errors.as_data().items()}


def api_view(**methods: Scope):
    """A JSON endpoint. `methods` names the scope each HTTP method needs; `request.user` is the token's user."""

    def decorate(view):
        @csrf_exempt
        @login_not_required
        @functools.wraps(view)
        def wrapper(request: HttpRequest, *args, **kwargs):
            try:
                _admit(request, methods)
                return view(request, *args, **kwargs)
            except ApiError as error:
                response = error.response()
                if error.status == 401:
                    response["WWW-Authenticate"] = "Bearer"
                if error.status == 405:
                    response["Allow"] = ", ".join(methods)
                return response

        return wrapper

    return decorate


def _admit(request: HttpRequest, methods: dict[str, Scope]) -> None:
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    token = ApiToken.find(secret.strip()) if scheme.lower() == "bearer" and secret else None
    if token is None:
        raise ApiError(401, "Send a valid token as “Authorization: Bearer dp_…”; make one under Settings.")
    if request.method not in methods:
        raise ApiError(405, f"Use {' or '.join(methods)} here.")
    scope = methods[request.method]
    if scope not in token.scopes:
        raise ApiError(403, f"This token lacks the scope “{scope}”: {scope.label.lower()}.")
    request.user = token.user


def json_body(request: HttpRequest) -> object:
    """The request's JSON. Raises ApiError for a body that is too large or no JSON."""
    try:
        return json.loads(request.body)
    except RequestDataTooBig as error:
        megabytes = settings.DATA_UPLOAD_MAX_MEMORY_SIZE // 1024**2
        raise ApiError(413, f"The request is larger than {megabytes} MB.", "", "max_size") from error
    except UnreadablePostError as error:
        raise ApiError(400, "The request broke off.") from error
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"The body is not valid JSON: {error}") from error
