"""Models, fits, loads and ejections for scripts, as JSON; documented in docs/api.md."""

from django.core.exceptions import ValidationError
from django.http import HttpRequest, JsonResponse

from daemonpulse.api import ApiError, api_view, form_errors, json_body
from daemonpulse.models.access import Scope
from fleet.models import Command
from fleet.models.command import LOAD, UNLOAD
from forge import api_forms, described
from forge.api_forms import EJECTION_TYPES, FIT_TYPES, LOAD_TYPES, EjectionForm, Refused, WishForm
from forge.forms import ListForm
from forge.preview import preview

ANOTHER_COPY = "Send “again”: true for another copy."


@api_view(GET=Scope.READ)
def inventory(request):
    """Every model with its nodes and copies; the same parameters as the page's narrow and order it."""
    form = ListForm(request.GET)
    _check(api_forms.query_errors(request.GET.dict(), dict.fromkeys(form.fields, api_forms.TEXT)))
    return JsonResponse(described.inventory(_valid(form).filters))


@api_view(GET=Scope.READ)
def fit(request):
    """Would it fit? From what was measured last; nothing is asked of the node."""
    data = api_forms.of_query(request.GET.dict(), FIT_TYPES)
    _check(api_forms.query_errors(data, FIT_TYPES))
    return JsonResponse(described.of_fit(preview(_valid(WishForm(data)).wish)))


@api_view(POST=Scope.OPERATE)
def loads(request):
    """202 with the load; 409 where the model is loaded, or being loaded, already."""
    form = _ordered(request, WishForm, LOAD_TYPES)
    try:
        command = form.save(request.user)
    except Refused as error:
        raise ApiError(409, f"{error.message} {ANOTHER_COPY}", error.field, error.rule) from error
    return JsonResponse(described.of_command(command), status=202)


@api_view(POST=Scope.OPERATE)
def ejections(request):
    """202 with the ejection; 409 where the copy has to stay."""
    form = _ordered(request, EjectionForm, EJECTION_TYPES)
    try:
        command = form.save(request.user)
    except Refused as error:
        raise ApiError(409, error.message, error.field, error.rule) from error
    return JsonResponse(described.of_command(command), status=202)


@api_view(GET=Scope.READ)
def load(request, pk):
    return JsonResponse(described.of_command(_one(pk)))


@api_view(POST=Scope.OPERATE)
def cancel(request, pk):
    _check_permission(request.user)
    command = _one(pk)
    if not command.cancel():
        raise ApiError(409, f"It has ended already: it is {command.state}.", "state", "ended")
    command.refresh_from_db()
    return JsonResponse(described.of_command(command))


def _ordered(request: HttpRequest, form_class: type, types: dict):
    """The valid form of what is wished. Raises ApiError."""
    _check_permission(request.user)
    data = json_body(request)
    _check(api_forms.type_errors(data, types))
    return _valid(form_class(data))


def _valid(form):
    if not form.is_valid():
        raise ApiError.of_fields(form_errors(form))
    return form


def _check(errors: dict[str, list[ValidationError]]) -> None:
    if errors:
        raise ApiError.of_fields(errors)


def _check_permission(user) -> None:
    if not user.has_perm("fleet.change_node"):
        raise ApiError(403, "This user may not change nodes, and so not load or eject models.")


def _one(pk) -> Command:
    command = Command.objects.select_related("node").filter(pk=pk, action__in=[LOAD, UNLOAD]).first()
    if command is None:
        raise ApiError(404, "There is no such load or ejection.")
    return command
