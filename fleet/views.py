"""The fleet's pages: all nodes, one node, and what can be done to it."""

from django.contrib import messages
from django.contrib.auth.decorators import permission_required
from django.http import JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from fleet import offers, pages
from fleet.forms import CommandForm, NodeForm
from fleet.layout_forms import LayoutForm, ProfileForm
from fleet.models import AllocationProfile, Command, Node, Sample
from fleet.models.command import LABELS, LOAD, PLAN

RANGES = {"1h": 3600, "24h": 24 * 3600, "30d": 30 * 24 * 3600}  # seconds


@require_GET
def node_list(request):
    return render(request, "fleet/node_list.html", {"section": "node_list"} | pages.list_context(request.user))


@require_http_methods(["GET", "POST"])
@permission_required("fleet.add_node", raise_exception=True)
def node_add(request):
    """Add a node; with the button "Test" only find out what is there."""
    if request.method == "GET":
        form = NodeForm(initial={name: request.GET.get(name, "") for name in ("name", "base_url", "agent_url")})
        return _node_form(request, form)
    form = NodeForm(request.POST, is_test="test" in request.POST)
    if not form.is_valid() or form.is_test:
        return _node_form(request, form)
    node = form.save()
    node.want_look()
    messages.success(request, f"{node} is added. Its models show up as soon as it was looked at.")
    return redirect("node", node.pk)


@require_http_methods(["GET", "POST"])
@permission_required("fleet.change_node", raise_exception=True)
def node_edit(request, pk):
    node = get_object_or_404(Node, pk=pk)
    form = NodeForm(request.POST or None, instance=node, is_test="test" in request.POST)
    if request.method == "POST" and form.is_valid() and not form.is_test:
        form.save()
        messages.success(request, f"{node} is changed.")
        return redirect("node", node.pk)
    return _node_form(request, form)


def _node_form(request, form: NodeForm):
    node = Node.objects.filter(pk=form.instance.pk).first()  # the form's own already has what was written
    context = {"section": "node_list", "form": form, "node": node}
    return render(request, "fleet/node_form.html", context, status=422 if form.errors else 200)


@require_GET
@permission_required("fleet.add_node", raise_exception=True)
def node_offers(request):
    """What could be added: looks around, which takes a moment; the page asks for it when it is there."""
    return render(request, "fleet/_node_offers.html", {"offers": offers.look_around()})


@require_GET
def node_detail(request, pk):
    node = get_object_or_404(Node.objects.select_related("reading"), pk=pk)
    return render(request, "fleet/node.html", _node_page(request, node))


def _node_page(request, node: Node, **forms) -> dict:
    context = pages.node_context(node, request.user) | {"section": "node_list", "profiles": node.profiles.all()}
    gpus = context["machine"].gpus if context["machine"] else None
    fresh = {"layout_form": LayoutForm(node=node), "profile_form": ProfileForm(node=node, gpus=gpus)}
    return context | fresh | forms


@require_GET
def node_samples(request, pk):
    """The figures of a node's graphs as JSON columns: see Sample.series()."""
    node = get_object_or_404(Node, pk=pk)
    seconds = RANGES.get(request.GET.get("range", "1h"))
    if seconds is None:
        return JsonResponse({"error": f"The range is one of {', '.join(RANGES)}."}, status=400)
    return JsonResponse(Sample.series(node, seconds))


@require_POST
@permission_required("fleet.change_node", raise_exception=True)
def node_look(request, pk):
    """Test a node now; its page shows what comes of it."""
    node = get_object_or_404(Node, pk=pk)
    node.want_look()
    messages.info(request, f"{node} is being looked at. What it answers shows here within seconds.")
    return redirect("node", node.pk)


@require_POST
@permission_required("fleet.change_node", raise_exception=True)
def node_command(request, pk):
    node = get_object_or_404(Node, pk=pk)
    form = CommandForm(request.POST)
    if not form.is_valid():
        messages.error(request, "There is no such command.")
    elif not node.can_be_managed:
        messages.error(request, f"{node} cannot be managed from here. Set up an agent on its machine first.")
    else:
        Command.ask_once(node, form.cleaned_data["action"], request.user)
        messages.info(request, f"“{LABELS[form.cleaned_data['action']]}” is under way. Its output shows below.")
    return redirect("node", node.pk)


@require_POST
@permission_required("fleet.change_node", raise_exception=True)
def node_layout(request, pk):
    """Plan where a model would go, or load it so (button "load")."""
    node = get_object_or_404(Node.objects.select_related("reading"), pk=pk)
    form = LayoutForm(request.POST, node=node)
    if not form.is_valid():
        return render(request, "fleet/node.html", _node_page(request, node, layout_form=form), status=422)
    if "load" in request.POST:
        Command.ask(node, LOAD, request.user, **form.parameters, only_copy=True)
    else:
        Command.ask(node, PLAN, request.user, **form.parameters)
    return redirect(f"{reverse('node', args=[node.pk])}#layout")  # where the plan shows


@require_POST
@permission_required("fleet.change_node", raise_exception=True)
def node_profile(request, pk):
    node = get_object_or_404(Node.objects.select_related("reading"), pk=pk)
    machine = node.reading.machine if hasattr(node, "reading") else None
    form = ProfileForm(request.POST, node=node, gpus=machine.gpus if machine else None)
    if not form.is_valid():
        return render(request, "fleet/node.html", _node_page(request, node, profile_form=form), status=422)
    AllocationProfile.choose(node, form.cleaned_data["model"], form.profile)
    messages.success(request, "The profile is saved. It counts from the next load on.")
    return redirect("node", node.pk)


@require_POST
@permission_required("fleet.change_node", raise_exception=True)
def node_profile_removal(request, pk, profile_pk):
    profile = get_object_or_404(AllocationProfile, pk=profile_pk, node=pk)
    profile.delete()
    messages.success(request, "The profile is removed.")
    return redirect("node", pk)


@require_POST
@permission_required("fleet.change_node", raise_exception=True)
def node_enable(request, pk):
    node = get_object_or_404(Node, pk=pk)
    node.enable()
    node.want_look()
    messages.success(request, f"{node} is switched on. It gets prompts as soon as it answers.")
    return redirect("node", pk)


@require_POST
@permission_required("fleet.change_node", raise_exception=True)
def node_disable(request, pk):
    node = get_object_or_404(Node, pk=pk)
    node.disable()
    messages.success(request, f"{node} is switched off. It gets no new prompts.")
    return redirect("node", pk)


@require_POST
@permission_required("fleet.delete_node", raise_exception=True)
def node_removal(request, pk):
    node = get_object_or_404(Node, pk=pk)
    node.remove()
    messages.success(request, f"{node.name} is removed. Its prompts stay in the history.")
    return redirect("node_list")
