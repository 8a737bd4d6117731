"""The pages that only a client has: HTTP to one verb."""

from django.conf import settings
from django.contrib import messages
from django.http import Http404
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST

from ..models import Mutation, Prompt, Remote
from ..outbox import discard, send_again
from .forms import PairForm


def only_client(view):
    def on_client(request, *args, **kwargs):
        if not settings.IS_CLIENT:
            raise Http404
        return view(request, *args, **kwargs)

    return on_client


@only_client
def server_pairing(request):
    from .pairing import CannotPair, own_name, pair  # its library takes 5 MB, which a server's pages never need

    remote = Remote.current()
    form = PairForm(request.POST or None, initial={"server": remote.url if remote else "", "name": own_name()})
    if request.method == "POST" and form.is_valid():
        told = form.cleaned_data
        try:
            remote = pair(request.user, told["server"], told["code"], name=told["name"],
                          fingerprint=told["fingerprint"])  # fmt: skip
        except CannotPair as problem:
            form.add_error(None, str(problem))
        else:
            messages.success(request, f"Paired with {remote}. What waited here is on its way.")
            return redirect("settings")
    context = {"section": "settings", "form": form}
    return render(request, "queue/client_pairing.html", context, status=422 if form.errors else 200)


@only_client
@require_POST
def server_sync(request):
    Remote.call()
    messages.success(request, "Looking now. The line at the top says when it was done.")
    return redirect("settings")


@only_client
@require_POST
def server_leaving(request):
    Remote.ask_to_leave()
    messages.success(request, "Leaving the server. What waits here and your history stay.")
    return redirect("settings")


@only_client
@require_POST
def server_dismissal(request):
    Remote.dismiss()
    return redirect("settings")


def own_refusal(request, pk: int) -> tuple[Mutation, Prompt | None]:
    """What was not accepted and its prompt, which may be gone. Raises Http404 for another person's."""
    refused = get_object_or_404(Mutation.objects.refused(), pk=pk)
    prompt = Prompt.objects.filter(pk=refused.prompt_id).first()
    if prompt is not None and prompt.owner_id != request.user.pk:
        raise Http404
    return refused, prompt


@only_client
@require_POST
def refusal_sending(request, pk):
    refused, prompt = own_refusal(request, pk)
    if prompt is None or not refused.is_submit:
        raise Http404
    send_again(refused, prompt)
    messages.success(request, "It is on its way again.")
    return redirect("prompt", pk=prompt.pk)


@only_client
@require_POST
def refusal_discarding(request, pk):
    refused, prompt = own_refusal(request, pk)
    discard(refused, prompt)
    messages.success(request, "Discarded.")
    is_gone = prompt is None or refused.is_submit
    return redirect("settings") if is_gone else redirect("prompt", pk=refused.prompt_id)
