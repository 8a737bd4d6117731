"""The JSON API for scripts; documented in docs/api.md."""

import uuid

from django.core.paginator import Paginator
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse

from daemonpulse.api import ApiError, api_view, form_errors, json_body
from daemonpulse.models.access import Scope
from pulse.thinking import Kind

from .forms import SubmissionForm, type_errors
from .models import Prompt
from .pages import model_choices
from .states import State
from .streaming import last_seen, prompt_stream

PAGE_SIZE, MAX_PAGE_SIZE = 50, 200


def _own(request, pk) -> Prompt:
    prompt = Prompt.objects.of(request.user).select_related("lane", "node").filter(pk=pk).first()
    if prompt is None:
        raise ApiError(404, "There is no such prompt.")
    return prompt


@api_view(GET=Scope.READ, POST=Scope.WRITE)
def prompts(request):
    return submit(request) if request.method == "POST" else list_(request)


def submit(request):
    """201 with the new prompt; 200 with the earlier one when the id was used before; SSE with "stream": true."""
    data = json_body(request)
    if errors := type_errors(data):
        raise ApiError.of_fields(errors)
    if known := _known(request.user, data.get("id")):  # a repeat is safe, whatever has changed since
        return _stream(known, None) if data.get("stream") else JsonResponse(described(known))
    form = SubmissionForm(data, owner=request.user)
    if not form.is_valid():
        raise ApiError.of_fields(form_errors(form))
    try:
        prompt, is_new = Prompt.submit(owner=request.user, **form.draft())
    except PermissionError as error:
        raise ApiError(409, "This id belongs to another user's prompt. Make a new one.", "id", "taken") from error
    if form.cleaned_data.get("stream"):
        return _stream(prompt, None, is_new)
    return JsonResponse(described(prompt), status=201 if is_new else 200)


def _known(user, id: str | None) -> Prompt | None:
    """The user's prompt with this id, if it is one."""
    try:
        return Prompt.objects.of(user).select_related("lane", "node").filter(pk=uuid.UUID(id)).first() if id else None
    except ValueError:
        return None


def list_(request):
    rows = Prompt.objects.of(request.user).select_related("lane", "node").without_texts()
    if model := request.GET.get("model"):
        rows = rows.filter(lane__model=model)
    if state := request.GET.get("state"):
        if state not in State.values:
            raise ApiError(422, f"state must be one of {', '.join(State.values)}.", "state", "invalid_choice")
        rows = rows.filter(state=state)
    page = Paginator(rows, _page_size(request)).get_page(request.GET.get("page"))
    return JsonResponse(
        {"prompts": [summary(row) for row in page], "page": page.number, "pages": page.paginator.num_pages,
         "count": page.paginator.count}
    )  # fmt: skip


def _page_size(request) -> int:
    try:
        return min(max(int(request.GET.get("page_size", PAGE_SIZE)), 1), MAX_PAGE_SIZE)
    except ValueError as error:
        raise ApiError(422, "page_size must be a whole number.", "page_size", "type") from error


@api_view(GET=Scope.READ, DELETE=Scope.WRITE)
def prompt(request, pk):
    return remove(request, pk) if request.method == "DELETE" else JsonResponse(described(_own(request, pk)))


def remove(request, pk):
    """204, whatever state it was in; what runs is stopped first."""
    _own(request, pk).remove()
    return HttpResponse(status=204)


@api_view(POST=Scope.WRITE)
def cancel(request, pk):
    row = _own(request, pk)
    if not row.cancel() and row.state != State.CANCELLED:
        raise ApiError(409, f"It has ended already: it is {row.state}.", "state", "ended")
    return JsonResponse(described(row))


@api_view(POST=Scope.WRITE)
def retry(request, pk):
    row = _own(request, pk)
    if not row.retry() and row.state not in {State.QUEUED, State.SENDING}:
        raise ApiError(409, "Only a failed or cancelled prompt can be retried.", "state", "not_retriable")
    return JsonResponse(described(row))


@api_view(GET=Scope.READ)
def events(request, pk):
    """The prompt's events as SSE, from the beginning or from after `Last-Event-ID`."""
    try:
        seen = last_seen(request.headers.get("Last-Event-ID", ""))
    except ValueError as error:
        raise ApiError(422, "Last-Event-ID is not one of this stream's ids.", "Last-Event-ID", "invalid") from error
    return _stream(_own(request, pk), seen)


@api_view(GET=Scope.READ)
def models(request):
    keys = ("key", "name", "is_loaded", "is_online", "nodes")
    return JsonResponse({"models": [{key: choice[key] for key in keys} for choice in model_choices()]})


def _stream(prompt: Prompt, seen, is_new: bool = False) -> StreamingHttpResponse:
    response = StreamingHttpResponse(prompt_stream(prompt, seen, is_new), content_type="text/event-stream")
    response["Cache-Control"] = "no-store"
    response["X-Accel-Buffering"] = "no"  # nginx would hold the pieces back
    response["Prompt-Id"] = str(prompt.pk)
    return response


def summary(row: Prompt) -> dict:
    """A prompt without its long texts."""
    return {
        "id": str(row.pk),
        "model": row.model,
        "state": row.state,
        "priority": row.get_priority_display().lower(),
        "node": row.node.name if row.node else None,
        "attempts": row.attempt_number,
        "reason": row.reason or None,
        "excerpt": row.excerpt,
        "enqueued_at": row.enqueued_at.isoformat(),
        "started_at": row.started_at.isoformat() if row.started_at else None,
        "finished_at": row.finished_at.isoformat() if row.finished_at else None,
    }


def described(row: Prompt) -> dict:
    """A prompt with everything. `place` is its place in the lane while it waits."""
    attempt = row.attempt() if row.attempt_number else None
    texts = attempt.texts() if attempt else {Kind.REASONING: "", Kind.MESSAGE: ""}
    return summary(row) | {
        "text": row.text,
        "system_prompt": row.system_prompt,
        "settings": row.settings,
        "follows": str(row.follows_id) if row.follows_id else None,
        "place": row.place(),
        "explanation": row.reason_explanation or None,
        "detail": row.detail or None,
        "answer": texts[Kind.MESSAGE],
        "reasoning": texts[Kind.REASONING],
        "stats": attempt.stats if attempt else {},
    }
