"""What a device wants changed: applied in its order, once, all in one transaction with its receipts."""

from functools import partial
from itertools import groupby
from typing import NamedTuple
from uuid import UUID

from django.db import transaction

from daemonpulse.api import form_errors
from daemonpulse.models.event import writing
from forge.models import Model

from ..forms import EditForm, SubmissionForm, type_errors
from ..models import Device, Prompt, Receipt
from ..states import State
from .about import MUTATIONS
from .cursors import newest
from .errors import MOST_FIELDS, SyncError, invalid, wrong_field
from .schema import fields_of, uuid_of

SUBMIT, EDIT, CANCEL, RETRY, DELETE = "submit", "edit", "cancel", "retry", "delete"
KINDS = (SUBMIT, EDIT, CANCEL, RETRY, DELETE)
WITH_FIELDS = (SUBMIT, EDIT)
NOT_HERE = {"id", "stream"}  # of a submission's fields in docs/api.md


class Mutation(NamedTuple):
    id: UUID
    kind: str
    prompt_id: UUID
    fields: dict


class Refused(Exception):
    """This mutation is refused; the others go on."""

    def __init__(self, error: SyncError, state: str | None = None):
        super().__init__(error.code)
        self.error, self.state = error, state


def push(device: Device, data: object) -> dict:
    """The call `push`. Raises SyncError when the list itself is wrong; then nothing of it was done."""
    told = fields_of(data, {"mutations": list}, required=("mutations",))
    mutations = [_read(number, item) for number, item in enumerate(told["mutations"])]
    if len(mutations) > MUTATIONS:
        raise wrong_field("mutations", "too_many", f"At most {MUTATIONS} at once; these are {len(mutations)}.")
    with transaction.atomic(), writing():
        if not Device.objects.paired().filter(pk=device.pk).exists():  # since it came in by the door
            raise SyncError(401, "revoked", "The device was shut out. Pair it again if it should come back.")
        results = _known(device, mutations)
        new = list({one.id: one for one in mutations if one.id not in results}.values())
        for is_submit, group in groupby(new, lambda one: one.kind == SUBMIT):
            apply = _submit_all if is_submit else _change_all
            results |= apply(device, list(group))
        Receipt.objects.bulk_create(Receipt(device=device, mutation_id=one.id, result=results[one.id]) for one in new)
    return {"results": [{"id": str(one.id)} | results[one.id] for one in mutations], "cursor": newest()}


def _read(number: int, item: object) -> Mutation:
    where = f"mutations[{number}]"
    told = fields_of(item, {"id": str, "kind": str, "prompt": str, "fields": dict}, ("id", "kind", "prompt"), where)
    if told["kind"] not in KINDS:
        raise wrong_field(f"{where}.kind", "invalid_choice", f"Must be one of {', '.join(KINDS)}.")
    fields = told.get("fields", {})
    if fields and told["kind"] not in WITH_FIELDS:
        raise wrong_field(f"{where}.fields", "unknown_field", f"A {told['kind']} has no fields.")
    ids = [uuid_of(told[name], f"{where}.{name}") for name in ("id", "prompt")]
    return Mutation(ids[0], told["kind"], ids[1], fields)


def _known(device: Device, mutations: list[Mutation]) -> dict[UUID, dict]:
    """Results of what this person's devices had done before: an outbox outlives a pairing."""
    receipts = Receipt.objects.filter(device__owner=device.owner_id, mutation_id__in=[one.id for one in mutations])
    return dict(receipts.values_list("mutation_id", "result"))


def applied(state: str | None) -> dict:
    return {"status": "applied"} | ({"state": state} if state else {})


def refused(error: SyncError, state: str | None = None) -> dict:
    return {"status": "refused", "error": error.told} | ({"state": state} if state else {})


def _submit_all(device: Device, mutations: list[Mutation]) -> dict[UUID, dict]:
    """Results by mutation. What is right is stored together, in order."""
    there = dict(Prompt.objects.filter(pk__in=[one.prompt_id for one in mutations]).values_list("pk", "owner_id"))
    known_models = Model.objects.usable().keys()
    drafts: dict[UUID, dict] = {}
    results: dict[UUID, dict] = {}
    for one in mutations:
        try:
            if there.get(one.prompt_id, device.owner_id) != device.owner_id:
                raise Refused(SyncError(409, "taken", "This id belongs to another prompt. Make a new one."))
            if one.prompt_id not in there and one.prompt_id not in drafts:
                drafts[one.prompt_id] = _draft(device, one, known_models)
            results[one.id] = applied(None)
        except Refused as refusal:
            results[one.id] = refused(refusal.error)
    Prompt.submit_many(owner=device.owner, drafts=list(drafts.values()))
    accepted = [one for one in mutations if results[one.id]["status"] == "applied"]
    states = _states(accepted)
    return results | {one.id: applied(states.get(one.prompt_id)) for one in accepted}


def _states(mutations: list[Mutation]) -> dict[UUID, str]:
    return dict(Prompt.objects.filter(pk__in=[one.prompt_id for one in mutations]).values_list("pk", "state"))


def _draft(device: Device, one: Mutation, known_models: list[str]) -> dict:
    form = SubmissionForm(
        _checked(one.fields) | {"id": str(one.prompt_id)}, owner=device.owner, known_models=known_models
    )
    if not form.is_valid():
        raise Refused(invalid(form_errors(form)))
    return form.draft()


def _checked(fields: dict) -> dict:
    """Fields of the right JSON types. Raises Refused."""
    if len(fields) > MOST_FIELDS:
        raise Refused(wrong_field("fields", "too_many", "These are more fields than there are."))
    if errors := type_errors(fields):
        raise Refused(invalid(errors))
    if wrong := NOT_HERE & fields.keys():
        raise Refused(wrong_field(min(wrong), "unknown_field", "There is no such field here."))
    return fields


def _change_all(device: Device, mutations: list[Mutation]) -> dict[UUID, dict]:
    edit = partial(
        _edit, known_models=Model.objects.usable().keys() if any(one.kind == EDIT for one in mutations) else []
    )
    verbs = {EDIT: edit, CANCEL: _cancel, RETRY: _retry, DELETE: _delete}
    results = {}
    for one in mutations:
        prompt = Prompt.objects.of(device.owner).select_related("lane").filter(pk=one.prompt_id).first()
        try:
            if prompt is None and one.kind != DELETE:
                raise Refused(SyncError(404, "not_found", "The server does not have this prompt."))
            results[one.id] = applied(verbs[one.kind](prompt, one))
        except Refused as refusal:
            results[one.id] = refused(refusal.error, refusal.state)
    return results


def _edit(prompt: Prompt, one: Mutation, known_models: list[str]) -> str:
    not_queued = Refused(
        SyncError(409, "not_queued", f"It does not wait any more: it is {prompt.state}."), prompt.state
    )
    if not prompt.is_queued:
        raise not_queued
    initial = EditForm.initial_of(prompt)
    fields = _checked(one.fields)
    if "follows" in fields:
        raise Refused(wrong_field("follows", "unknown_field", "What a prompt follows cannot be changed."))
    form = EditForm(initial | fields, owner=prompt.owner, initial=initial, known_models=known_models)
    if not form.is_valid():
        raise Refused(invalid(form_errors(form)), prompt.state)
    draft = form.draft()
    draft.pop("follows")
    if not prompt.edit(**draft):
        raise not_queued
    return State.QUEUED


def _cancel(prompt: Prompt, one: Mutation) -> str:
    prompt.cancel()
    return prompt.state


def _retry(prompt: Prompt, one: Mutation) -> str:
    if not prompt.retry() and prompt.state == State.DONE:
        error = SyncError(409, "not_possible", "It is done. Repeat it as a new prompt.")
        raise Refused(error, prompt.state)
    return prompt.state


def _delete(prompt: Prompt | None, one: Mutation) -> None:
    if prompt is not None:
        prompt.remove()
