"""The nodes as a list with an add form."""

from django.contrib import messages
from django.contrib.auth.decorators import permission_required
from django.db.models import Count, Q
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_POST

from fleet.forms import NodeForm, TokenForm
from fleet.models import Node


def nodes_with_counts():
    """Nodes with the number of models they have and have loaded."""
    present = Q(models__gone_at=None)
    return Node.objects.annotate(
        model_count=Count("models", filter=present),
        loaded_count=Count("models", filter=present & ~Q(models__loaded=None) & ~Q(models__loaded=[])),
    )


def _page(request, form: NodeForm, status: int = 200):
    context = {"section": "node_list", "nodes": nodes_with_counts(), "form": form}
    return render(request, "fleet/node_list.html", context, status=status)


@require_GET
def node_list(request):
    return _page(request, NodeForm())


@require_POST
@permission_required("fleet.add_node", raise_exception=True)
def node_add(request):
    form = NodeForm(request.POST)
    if not form.is_valid():
        return _page(request, form, 422)
    node = form.save()
    messages.success(request, f"{node} is added. Its models show up as soon as it was looked at.")
    return redirect("node_list")


@require_POST
@permission_required("fleet.change_node", raise_exception=True)
def node_enable(request, pk):
    get_object_or_404(Node, pk=pk).enable()
    return redirect("node_list")


@require_POST
@permission_required("fleet.change_node", raise_exception=True)
def node_disable(request, pk):
    get_object_or_404(Node, pk=pk).disable()
    return redirect("node_list")


@require_POST
@permission_required("fleet.change_node", raise_exception=True)
def node_token(request, pk):
    """Give a node another token, or none; the next look tells whether it fits."""
    node = get_object_or_404(Node, pk=pk)
    form = TokenForm(request.POST)
    if form.is_valid():
        node.set_token(form.cleaned_data["token"])
        messages.success(request, f"The token of {node} is set.")
    else:
        messages.error(request, form.errors["token"][0])
    return redirect("node_list")


@require_POST
@permission_required("fleet.delete_node", raise_exception=True)
def node_removal(request, pk):
    node = get_object_or_404(Node, pk=pk)
    node.remove()
    messages.success(request, f"{node.name} is removed. Its prompts stay in the history.")
    return redirect("node_list")
