"""The contexts of what the downloads page, its socket and the hub's pages render."""

from urllib.parse import urlencode

from django.urls import reverse

from forge.downloads import disk
from forge.downloads.forms import HubForm
from forge.hub import search as hub
from forge.hub.labels import basis, offers
from forge.hub.place import HubUnavailable, address
from forge.models import Download

ENDED_SHOWN = 30


def downloads_context(user) -> dict:
    """Open ones in the order in which they begin, then those that ended last."""
    rows = Download.objects.select_related("node", "user")
    ended = rows.ended().order_by("-finished_at", "-pk")[:ENDED_SHOWN]
    return {
        "open_downloads": list(rows.open().order_by("asked_at", "pk")),
        "ended_downloads": list(ended),
        "permissions": user.get_all_permissions(),
    }


def results_context(form: HubForm) -> dict:
    """One page of what the hub has, or why it has nothing to say. Asks the hub."""
    form.is_valid()
    query = form.query
    context = {"query": query, "node": form.cleaned_data.get("node"), "reload": _link(form, query["page"])}
    try:
        results = hub.search(**query)
    except HubUnavailable as error:
        return context | {"problem": str(error)}
    return context | {
        "results": results,
        "previous": _link(form, results.page - 1) if results.page > 1 else "",
        "next": _link(form, results.page + 1) if results.has_more else "",
    }


def _link(form: HubForm, page: int) -> str:
    """The query of a page of the same search."""
    node = form.cleaned_data.get("node")
    told = form.query | {"node": node.name if node else "", "page": page}
    return urlencode({name: value for name, value in told.items() if value} | _without_script(form))


def _without_script(form: HubForm) -> dict:
    return {"results": 1} if form.data.get("results") else {}


def repository_context(id: str, form: HubForm) -> dict:
    """What one repository has to download, and what of it fits. Asks the hub; ValueError for what is no name.

    Where only one node can download, it is the one.
    """
    form.is_valid()
    nodes = list(form.fields["node"].queryset.select_related("reading"))
    node = form.cleaned_data.get("node") or (nodes[0] if len(nodes) == 1 else None)
    here = reverse("hub_repository", args=id.split("/"))
    context = {"id": id, "node": node, "nodes": nodes, "address": address(id), "here": here}
    try:
        repository = hub.repository(id)
    except HubUnavailable as error:
        return context | {"problem": str(error)}
    free = disk.free_bytes(node) if node else None
    return context | {
        "repository": repository,
        "offers": offers(repository.files, node),
        "basis": basis(node),
        "disk_free_bytes": free,
    }
