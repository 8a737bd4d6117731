"""Downloads for scripts, as JSON; documented in docs/api.md."""

from django.http import JsonResponse

from daemonpulse.api import ApiError, api_view, form_errors, json_body
from daemonpulse.models.access import Scope
from forge.downloads.forms import DownloadForm
from forge.models import Download
from forge.models.download import State

MOST = 200  # in one answer


@api_view(GET=Scope.READ, POST=Scope.OPERATE)
def downloads(request):
    return start(request) if request.method == "POST" else list_(request)


def list_(request):
    rows = Download.objects.select_related("node")
    if state := request.GET.get("state"):
        if state not in State.values:
            raise ApiError(422, f"state must be one of {', '.join(State.values)}.", "state", "invalid_choice")
        rows = rows.filter(state=state)
    return JsonResponse({"downloads": [described(row) for row in rows[:MOST]]})


def start(request):
    """201 with the download; the one that is open already, if it is the same."""
    _check_permission(request.user)
    data = json_body(request)
    if not isinstance(data, dict):
        raise ApiError(422, "Send a JSON object with node, source and, if you like, quantization.", "", "type")
    form = DownloadForm(data)
    if not form.is_valid():
        raise ApiError.of_fields(form_errors(form))
    return JsonResponse(described(form.save(request.user)), status=201)


@api_view(GET=Scope.READ)
def download(request, pk):
    return JsonResponse(described(_one(pk)))


@api_view(POST=Scope.OPERATE)
def cancel(request, pk):
    _check_permission(request.user)
    row = _one(pk)
    if not row.cancel() and row.state != State.CANCELLED:
        raise ApiError(409, f"It is {row.state}: only a waiting download can be taken back.", "state", "too_late")
    return JsonResponse(described(row))


def _one(pk: int) -> Download:
    row = Download.objects.select_related("node").filter(pk=pk).first()
    if row is None:
        raise ApiError(404, "There is no such download.")
    return row


def _check_permission(user) -> None:
    if not user.has_perm("fleet.change_node"):
        raise ApiError(403, "This user may not change nodes, and so not start or cancel downloads.")


def described(row: Download) -> dict:
    """A download as JSON; what is null is not known."""
    times = ("asked_at", "started_at", "finishes_at", "finished_at")
    return {
        "id": row.pk,
        "node": row.node.name,
        "source": row.source,
        "quantization": row.quantization or None,
        "state": row.state,
        "is_stalled": row.is_stalled,
        "total_bytes": row.total_bytes,
        "downloaded_bytes": row.downloaded_bytes,
        "bytes_per_second": row.bytes_per_second,
        "problem": row.problem or None,
        "caution": row.caution or None,
    } | {name: at.isoformat() if (at := getattr(row, name)) else None for name in times}
