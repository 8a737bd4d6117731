"""Pages of the queue: HTTP to one verb, and the verb's result to a partial or a redirect."""

from django.contrib import messages
from django.contrib.auth.decorators import permission_required
from django.core.exceptions import ValidationError
from django.core.paginator import Paginator
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_POST

from .forms import SETTINGS, BatchForm, EditForm, HistoryForm, PromptForm, ReorderForm
from .models import Lane, Prompt
from .pages import board_context, has_nodes, lane_context, model_choices, prompt_context
from .search import search

PAGE_SIZE = 30


def _own_prompt(request, pk) -> Prompt:
    prompts = Prompt.objects.of(request.user).select_related("lane", "node", "node_pin", "follows")
    try:
        return get_object_or_404(prompts, pk=pk)
    except ValidationError as error:  # `?follows=` need not be an id
        raise Http404 from error


def _answer(request, prompt: Prompt) -> HttpResponse:
    """After a verb: the prompt's partial for htmx, its page otherwise."""
    if request.htmx:
        return render(request, "queue/_prompt.html", prompt_context(prompt))
    return redirect("prompt", pk=prompt.pk)


@require_GET
def board(request):
    context = board_context(request.user) | {"section": "board", "has_nodes": has_nodes()}
    return render(request, "queue/board.html", context)


@require_GET
def prompt_detail(request, pk):
    prompt = _own_prompt(request, pk)
    return render(request, "queue/prompt.html", prompt_context(prompt) | {"section": "prompt_list"})


def prompt_new(request):
    """The form; `?follows=` continues a chat."""
    follows = request.POST.get("follows") or request.GET.get("follows")
    earlier = _own_prompt(request, follows) if follows else None
    initial = {"model": request.GET.get("model", "")}
    if earlier is not None:
        initial = EditForm.initial_of(earlier) | {"text": "", "follows": earlier.pk}
    form = PromptForm(request.POST or None, owner=request.user, initial=initial)
    if request.method == "POST" and form.is_valid():
        prompt, _ = Prompt.submit(owner=request.user, **form.draft())
        if "another" in request.POST:
            messages.success(request, "Queued. Write the next one.")
            return redirect(f"{request.path}?model={prompt.model}")
        return redirect("prompt", pk=prompt.pk)
    return _compose(request, form, {"earlier": earlier})


def prompt_edit(request, pk):
    prompt = _own_prompt(request, pk)
    form = EditForm(request.POST or None, owner=request.user, initial=EditForm.initial_of(prompt))
    if request.method == "POST" and form.is_valid():
        draft = form.draft()
        draft.pop("follows")
        if not prompt.edit(**draft):
            messages.error(request, "It was not changed: it does not wait any more.")
        return redirect("prompt", pk=prompt.pk)
    if not prompt.is_queued:
        messages.error(request, "Only a waiting prompt can be changed. Repeat this one instead.")
        return redirect("prompt", pk=prompt.pk)
    return _compose(request, form, {"prompt": prompt})


def _compose(request, form, extra: dict) -> HttpResponse:
    chosen = form["model"].value() or ""
    choices = model_choices(chosen)
    context = {"section": "prompt_new", "form": form, "choices": choices, "chosen": chosen, "has_nodes": has_nodes()}
    folded = [form[name] for name in ("system_prompt", "node", *SETTINGS)]
    context["is_more_open"] = any(field.errors or field.value() not in (None, "") for field in folded)
    if not form.errors:
        form.fields["text"].widget.attrs["autofocus"] = True
    status = 422 if form.errors else 200
    return render(request, "queue/prompt_form.html", context | extra, status=status)


def prompt_batch(request):
    form = BatchForm(request.POST or None, request.FILES or None, owner=request.user)
    if request.method == "POST" and form.is_valid():
        drafts = form.cleaned_data["drafts"]
        prompts = Prompt.submit_many(owner=request.user, drafts=drafts)
        known = len(drafts) - len(prompts)
        messages.success(
            request, f"{len(prompts)} prompts queued." + (f" {known} were there already." if known else "")
        )
        return redirect("board")
    chosen = form["model"].value() or ""
    context = {"section": "prompt_new", "form": form, "choices": model_choices(chosen), "chosen": chosen}
    return render(request, "queue/batch_form.html", context, status=422 if form.errors else 200)


@require_GET
def prompt_list(request):
    form = HistoryForm(request.GET)
    form.is_valid()
    data = form.cleaned_data
    prompts = Prompt.objects.of(request.user).select_related("lane", "node")
    if data.get("model"):
        prompts = prompts.filter(lane=data["model"])
    if data.get("state"):
        prompts = prompts.filter(state=data["state"])
    found = search(prompts, data["q"]) if data.get("q") else None
    rows = found.prompts if found else prompts.without_texts()
    page = Paginator(rows, PAGE_SIZE).get_page(request.GET.get("page"))
    filters = request.GET.copy()
    filters.pop("page", None)
    context = {"section": "prompt_list", "form": form, "page": page, "found": found, "filters": filters.urlencode()}
    return render(request, "queue/prompt_list.html", context)


@require_POST
def prompt_cancellation(request, pk):
    prompt = _own_prompt(request, pk)
    prompt.cancel()
    if request.headers.get("HX-Target", "").startswith("lane-"):
        return render(request, "queue/_lane.html", lane_context(request.user, prompt.lane_id))
    return _answer(request, prompt)


@require_POST
def prompt_retry(request, pk):
    prompt = _own_prompt(request, pk)
    prompt.retry()
    return _answer(request, prompt)


@require_POST
def prompt_repeat(request, pk):
    repeated = _own_prompt(request, pk).repeat()
    return redirect("prompt", pk=repeated.pk)


@require_POST
def prompt_removal(request, pk):
    """Back to the history, with the filters that the address has."""
    prompt = _own_prompt(request, pk)
    if not prompt.is_ended:
        messages.error(request, "It has not ended, so it was not deleted. Cancel it first.")
        return redirect("prompt", pk=prompt.pk)
    prompt.remove()
    messages.success(request, "The prompt and its answer are deleted.")
    return redirect(f"{reverse('prompt_list')}?{request.GET.urlencode()}".rstrip("?"))


@require_POST
def prompt_position(request, pk):
    prompt = _own_prompt(request, pk)
    form = ReorderForm(request.POST)
    if form.is_valid():
        prompt.reorder(form.cleaned_data["where"])
    return _answer(request, prompt)


@require_POST
@permission_required("queue.change_lane", raise_exception=True)
def lane_pause(request, pk):
    return _lane_verb(request, pk, Lane.pause)


@require_POST
@permission_required("queue.change_lane", raise_exception=True)
def lane_resume(request, pk):
    return _lane_verb(request, pk, Lane.resume)


def _lane_verb(request, pk, verb) -> HttpResponse:
    verb(get_object_or_404(Lane, pk=pk))
    if request.htmx:
        return render(request, "queue/_lane.html", lane_context(request.user, pk))
    return redirect("board")
