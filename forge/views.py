"""Forge's pages: all models, one model on one node, and what can be done to it."""

from django.contrib import messages
from django.contrib.auth.decorators import permission_required
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from fleet.models import Command, Kind, Node
from fleet.models.command import LOAD, UNLOAD
from forge import pages, places, staying
from forge.forms import BudgetForm, LoadForm, StayForm
from forge.models import Instance, Model, NodePolicy
from forge.places import copies_of

SECTION = {"section": "model_list", "tab": "models"}
change_node = permission_required("fleet.change_node", raise_exception=True)


@require_GET
def model_list(request):
    context = pages.list_context(request.user, request.GET)
    return render(request, "forge/model_list.html", context | SECTION)


def _model(pk: int) -> Model:
    return get_object_or_404(Model.objects.select_related("node__reading"), pk=pk)


def _loadable(pk: int) -> Model:
    """One whose node can load it: an OpenAI-compatible server has no call for that."""
    found = Model.objects.present().select_related("node__reading").filter(node__kind=Kind.LMSTUDIO)
    return get_object_or_404(found, pk=pk)


@require_GET
def model_detail(request, pk):
    return _page(request, _model(pk))


def _page(request, model: Model, status: int = 200, **forms) -> HttpResponse:
    context = pages.model_context(model, request.user) | SECTION
    if context["can_load"]:
        form = forms.get("form") or LoadForm(model=model)
        context |= {"form": form, "stay_form": forms.get("stay_form") or StayForm(model=model)}
        wished = form.whole if form.is_bound and form.is_valid() else {"model": model.key}
        context |= pages.fit_context(model, wished)
    return render(request, "forge/model.html", context, status=status)


def _answer(request, model: Model) -> HttpResponse:
    """After a verb: what is live on its page for htmx, the page otherwise."""
    if request.htmx:
        return render(request, "forge/_model_answer.html", pages.model_context(_model(model.pk), request.user))
    if request.POST.get("where") == "node":
        return redirect("node", model.node_id)
    return redirect("model", model.pk)


@require_GET
def model_fit(request, pk):
    """Whether it would fit as the form has it: a fragment, asked for while somebody types."""
    model = _loadable(pk)
    form = LoadForm(request.GET, model=model)
    if not form.is_valid():
        return render(request, "forge/_model_fit.html", pages.unfit_context(model, form), status=422)
    return render(request, "forge/_model_fit.html", pages.fit_context(model, form.whole))


@require_GET
def model_estimate(request, pk):
    """What LM Studio says of it: asks the daemon, which takes a moment; the page asks for it when it is there."""
    model = _loadable(pk)
    form = LoadForm(request.GET, model=model)
    if not form.is_valid():
        return render(request, "forge/_model_estimate.html", {"model": model, "form": form}, status=422)
    return render(request, "forge/_model_estimate.html", pages.estimate_context(model, form.whole))


@require_POST
@change_node
def model_load(request, pk):
    """Load it; with the button "check" only show whether it fits, for a browser that runs no scripts."""
    model = _loadable(pk)
    form = LoadForm(request.POST, model=model)
    if not form.is_valid():
        return _form_answer(request, model, form, 422)
    if "check" in request.POST:
        return _page(request, model, form=form)
    anyway = {"anyway": True} if "anyway" in request.POST else {}
    is_again = bool({"again", "anyway"} & set(request.POST))
    _, refusal = places.ask_for_load(model, form.whole | anyway, request.user, is_again)
    if refusal:
        messages.info(request, refusal)
    return _form_answer(request, model, form)


@require_POST
@change_node
def model_profile(request, pk):
    """Load it so from now on."""
    model = _loadable(pk)
    form = LoadForm(request.POST, model=model)
    if not form.is_valid():
        return _form_answer(request, model, form, 422)
    form.save()
    messages.success(request, "Saved. It is loaded so from now on, by the queue too.")
    return _form_answer(request, model, LoadForm(model=model) if request.htmx else form)


def _form_answer(request, model: Model, form: LoadForm, status: int = 200) -> HttpResponse:
    """The form as it was filled in, so that nobody has to do it twice."""
    if request.htmx:
        context = pages.model_context(_model(model.pk), request.user) | {"form": form}
        return render(request, "forge/_load_answer.html", context, status=status)
    return _page(request, model, status, form=form) if status == 422 else redirect("model", model.pk)


@require_POST
@change_node
def load_cancel(request, pk, command_pk):
    model = _model(pk)
    command = get_object_or_404(Command, pk=command_pk, node=model.node_id, action=LOAD)
    if command.cancel():
        messages.info(request, "It is called off, if LM Studio lets itself be stopped.")
    else:
        messages.info(request, "It had ended already.")
    return _answer(request, model)


@require_POST
@change_node
def copy_eject(request, pk, copy_pk):
    model = _model(pk)
    get_object_or_404(Instance, pk=copy_pk, model=model)
    copy = next(one for one in copies_of([model])[model.pk] if one.instance.pk == copy_pk)
    if copy.why_it_stays:
        messages.error(request, f"{copy.instance} stays loaded. {copy.why_it_stays}")
    else:
        Command.ask(model.node, UNLOAD, request.user, instance=copy.instance.identifier, model=model.key)
    return _answer(request, model)


@require_POST
@change_node
def model_pin(request, pk):
    model = _model(pk)
    staying.pin(model)
    return _answer(request, model)


@require_POST
@change_node
def model_unpin(request, pk):
    model = _model(pk)
    staying.unpin(model)
    return _answer(request, model)


@require_POST
@change_node
def model_stay(request, pk):
    model = _loadable(pk)
    form = StayForm(request.POST, model=model)
    if not form.is_valid():
        return _page(request, model, 422, stay_form=form)
    staying.keep_for(model, form.seconds)
    messages.success(request, "Saved. It counts for what is loaded now, too.")
    return redirect("model", model.pk)


@require_http_methods(["GET", "POST"])
@change_node
def node_budget(request, pk):
    """How much all models of a node may hold together; the node's page has the same form."""
    node = get_object_or_404(Node, pk=pk, kind=Kind.LMSTUDIO)
    form = BudgetForm(request.POST or None, budget_bytes=NodePolicy.budget(node))
    if request.method == "POST" and form.is_valid():
        NodePolicy.set_budget(node, form.bytes)
        messages.success(request, "Saved. It counts from the next load on; nothing is unloaded for it.")
        return redirect("node", node.pk)
    context = SECTION | {"node": node, "budget_form": form}
    return render(request, "forge/node_budget.html", context, status=422 if form.errors else 200)


@require_POST
@change_node
def warning_dismiss(request, pk):
    """LM Studio unloaded something by itself, and somebody has seen that."""
    policy = get_object_or_404(NodePolicy, node=pk)
    policy.forgive()
    shown_on = request.POST.get("where", "")
    return redirect("model", int(shown_on)) if shown_on.isdecimal() else redirect("node", pk)
