"""The one door to a client's outbox: verbs of prompts go through it (docs/sync.md, "Rules for the device").

What the server has, or may have, is the server's to change: the verb becomes a mutation on its way there, and here
nothing changes until the server has told of it. What it has never heard of is changed here.
"""

import json
from functools import wraps

from django.conf import settings

from daemonpulse.models.event import record, writing

from .models.remote import Mirror, Mutation, Remote
from .states import PRIORITY_NAMES, State

Kind = Mutation.Kind
SETTINGS = ("temperature", "top_p", "top_k", "min_p", "repeat_penalty", "max_output_tokens", "reasoning")
# Where the verb would do something, as far as we know; the server decides.
IS_POSSIBLE = {
    Kind.EDIT: lambda prompt: prompt.is_queued and Kind.CANCEL not in prompt.carried,
    Kind.CANCEL: lambda prompt: prompt.can_cancel,
    Kind.RETRY: lambda prompt: prompt.can_retry,
    Kind.DELETE: lambda prompt: True,
}


def carried(kind: Kind):
    """For a verb of Prompt: on a client it goes to the server, or is done here and the outbox made to fit."""

    def decorate(verb):
        @wraps(verb)
        def here_or_there(prompt, **fields):
            if not settings.IS_CLIENT:
                return verb(prompt, **fields)
            pk = prompt.pk  # a deleted prompt has none
            with writing():
                if is_there(pk):
                    is_put = _put(prompt, kind, fields)
                    if is_put and kind == Kind.EDIT and not Mirror.objects.filter(prompt=pk).exists():
                        verb(prompt, **fields)  # no server has told of it, so what it will be is shown
                    return is_put
                has_won = verb(prompt, **fields)
                if has_won is not False:
                    _settle(prompt, pk, kind)
            return has_won

        return here_or_there

    return decorate


def is_there(pk) -> bool:
    """Whether a server has this prompt, or may have it: its submit was in a push that nobody answered."""
    tried = Mutation.objects.filter(prompt=pk, kind=Kind.SUBMIT, is_tried=True, is_refused=False)
    return Mirror.objects.filter(prompt=pk).exists() or tried.exists()


def submit(prompts: list) -> None:
    """Put new prompts at the end of a client's outbox, in the transaction that stores them."""
    if settings.IS_CLIENT:
        Mutation.objects.bulk_create(
            Mutation(kind=Kind.SUBMIT, prompt=prompt, fields_json=json.dumps(submission(prompt))) for prompt in prompts
        )


def ask(prompts: list, refusal: dict) -> None:
    """Put prompts into the outbox as not accepted: a person says whether they are sent."""
    Mutation.objects.filter(prompt__in=[prompt.pk for prompt in prompts], kind=Kind.SUBMIT).delete()
    Mutation.objects.bulk_create(
        Mutation(kind=Kind.SUBMIT, prompt=prompt, is_tried=True, is_refused=True,
                 fields_json=json.dumps(submission(prompt)), refusal_json=json.dumps(refusal))
        for prompt in prompts
    )  # fmt: skip


def send_again(refused: Mutation, prompt) -> None:
    """A prompt that was not accepted goes to the end of the outbox, as a new entry: the old one has its receipt."""
    with writing():
        refused.delete()
        submit([prompt])
        record("prompt.carried", prompt.pk, owner_id=prompt.owner_id, lane=prompt.lane_id)


def submission(prompt) -> dict:
    """The fields of a submit, as docs/api.md has them; what is left to the model is missing."""
    told = {"model": prompt.model, "text": prompt.text, "priority": PRIORITY_NAMES.get(prompt.priority, "normal")}
    told |= {"system_prompt": prompt.system_prompt} if prompt.system_prompt else {}
    told |= {"follows": str(prompt.follows_id)} if prompt.follows_id else {}
    return told | prompt.settings


def change(fields: dict) -> dict:
    """The fields of an edit from those of Prompt.edit; null takes a setting away."""
    told = {name: fields[name] for name in ("model", "text", "system_prompt") if name in fields}
    if "priority" in fields:
        told["priority"] = PRIORITY_NAMES.get(fields["priority"], "normal")
    if "settings" in fields:
        told |= {name: fields["settings"].get(name) for name in SETTINGS}
    return told


def discard(refused: Mutation, prompt) -> None:
    """Give up what the server did not accept; a prompt that it never took goes with it."""
    if refused.is_submit and prompt is not None:
        prompt.remove()
        return
    with writing():
        refused.delete()
        if prompt is not None:
            record("prompt.carried", prompt.pk, owner_id=prompt.owner_id, lane=prompt.lane_id)


def take_back(mutations: list[Mutation]) -> None:
    """These were in a push of which nothing was sent, so they were not tried. What a person has asked of a new prompt
    meanwhile is done here, as if it had never been in one."""
    with writing():
        Mutation.objects.filter(pk__in=[one.pk for one in mutations]).update(is_tried=False)
        prompts = Mutation.prompt.get_queryset().select_related("lane").in_bulk([one.prompt_id for one in mutations])
        for one in mutations:
            prompt = prompts.get(one.prompt_id)
            if one.is_submit and not is_there(one.prompt_id):
                _merge(one, prompt)
            if prompt is not None:
                record("prompt.carried", prompt.pk, owner_id=prompt.owner_id, lane=prompt.lane_id)


def _merge(submit: Mutation, prompt) -> None:
    """What came after an unsent submit becomes part of it. `prompt` is None where it was deleted."""
    later = Mutation.objects.filter(prompt=submit.prompt_id, is_refused=False).exclude(pk=submit.pk)
    kinds = set(later.values_list("kind", flat=True))
    if prompt is None:
        Mutation.objects.filter(prompt=submit.prompt_id).delete()
    elif Kind.CANCEL in kinds:
        prompt.cancel()
    elif Kind.EDIT in kinds:
        later.delete()
        Mutation.objects.filter(pk=submit.pk).update(fields_json=json.dumps(submission(prompt)))


def _put(prompt, kind: Kind, fields: dict) -> bool:
    """Into the outbox; False where the verb would do nothing there, or the prompt is another server's."""
    prompt.refresh_from_db(fields=["state"])
    mirror = Mirror.objects.filter(prompt=prompt.pk).first()
    is_elsewhere = mirror is not None and not Remote.objects.filter(server=mirror.server).exists()
    if not IS_POSSIBLE[kind](prompt) or (is_elsewhere and kind != Kind.DELETE):
        return False
    Mutation.objects.filter(prompt=prompt.pk, kind=kind, is_refused=True).delete()  # this comes in its place
    if kind == Kind.DELETE:
        Mutation.objects.filter(prompt=prompt.pk, is_tried=False).delete()
    _append(prompt, kind, mirror.server if mirror else "", json.dumps(change(fields)))
    event = "prompt.removed" if kind == Kind.DELETE else "prompt.carried"
    record(event, prompt.pk, owner_id=prompt.owner_id, lane=prompt.lane_id)
    if kind == Kind.DELETE:
        prompt.delete()
    return True


def _append(prompt, kind: Kind, server: str, fields_json: str) -> None:
    """At the end, or in place of the prompt's last entry where that is of the same kind and was not sent yet."""
    last = Mutation.objects.filter(prompt=prompt.pk, is_refused=False).order_by("-order").first()
    if last is not None and last.kind == kind and not last.is_tried:
        Mutation.objects.filter(pk=last.pk).update(fields_json=fields_json)
    elif last is None or last.kind != kind or kind == Kind.EDIT:
        Mutation.objects.create(kind=kind, prompt=prompt, server=server, fields_json=fields_json)


def _settle(prompt, pk, kind: Kind) -> None:
    """After a change of a prompt that only this client knows: its submit says what it is now, or is gone."""
    own = Mutation.objects.filter(prompt=pk)
    if kind == Kind.DELETE or prompt.state != State.QUEUED:
        own.delete()
    elif not own.filter(is_refused=False).update(fields_json=json.dumps(submission(prompt))):
        own.delete()  # what was refused has its receipt there: this is a new one
        submit([prompt])
