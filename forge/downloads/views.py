"""The pages of downloads and of the hub."""

from django.contrib import messages
from django.contrib.auth.decorators import permission_required
from django.http import Http404
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_POST

from forge.downloads import disk
from forge.downloads.forms import DownloadForm, HubForm
from forge.downloads.pages import downloads_context, repository_context, results_context
from forge.models import Download

SECTION = {"section": "model_list"}


@require_GET
def download_list(request):
    initial = {name: request.GET.get(name, "") for name in ("node", "source", "quantization")}
    return render(request, "forge/download_list.html", _page(request, DownloadForm(initial=initial)))


def _page(request, form: DownloadForm) -> dict:
    return downloads_context(request.user) | SECTION | {"tab": "downloads", "form": form}


@require_POST
@permission_required("fleet.change_node", raise_exception=True)
def download_start(request):
    form = DownloadForm(request.POST)
    if not form.is_valid():
        return render(request, "forge/download_list.html", _page(request, form), status=422)
    row = form.save(request.user)
    messages.success(request, f"{row} is asked for. {disk.in_words(row.node, row.total_bytes)}".strip())
    return redirect("download_list")


@require_POST
@permission_required("fleet.change_node", raise_exception=True)
def download_cancel(request, pk):
    row = get_object_or_404(Download, pk=pk)
    if not row.cancel():
        messages.error(request, "It cannot be taken back from here any more. Stop it in LM Studio on its node.")
    return redirect("download_list")


@require_POST
@permission_required("fleet.change_node", raise_exception=True)
def download_retry(request, pk):
    row = get_object_or_404(Download, pk=pk)
    if not row.retry():
        messages.info(request, "It is under way already, or was not one that failed.")
    return redirect("download_list")


@require_POST
@permission_required("fleet.change_node", raise_exception=True)
def download_forget(request, pk):
    row = get_object_or_404(Download, pk=pk)
    if not row.forget():
        messages.error(request, "It has not ended, so it stays in the list.")
    return redirect("download_list")


@require_GET
def hub_search(request):
    """The page at once; what the hub answers comes as a fragment, or with it where a browser runs no scripts."""
    form = HubForm(request.GET)
    context = SECTION | {"tab": "hub", "form": form, "wanted": request.GET.urlencode()}
    if "results" in request.GET:
        context |= results_context(form)
    return render(request, "forge/hub.html", context)


@require_GET
def hub_results(request):
    return render(request, "forge/_hub_results.html", results_context(HubForm(request.GET)))


@require_GET
def hub_repository(request, owner, name):
    """What one repository has: a fragment of the results, or a page."""
    try:
        context = repository_context(f"{owner}/{name}", HubForm(request.GET))
    except ValueError as error:
        raise Http404 from error
    template = "forge/_hub_repository.html" if request.htmx else "forge/hub_repository.html"
    return render(request, template, context | SECTION | {"tab": "hub"})
