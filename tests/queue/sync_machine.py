"""Devices that follow docs/sync.md, the network between, and a server that works, forgets, is killed and has its clock
set: a state machine for test_sync_protocol.py.

There are few prompts and several phones of one person, so that changes meet; pages are small, so that things change
between them; and whatever was sent once may come again. What a push may do is checked at every push, what devices know
after quiet.
"""

import itertools
import json
import uuid
from collections import Counter
from contextlib import contextmanager, nullcontext
from datetime import timedelta

from django.db import connection, transaction
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from daemonpulse import sealing
from daemonpulse.models import Event
from daemonpulse.queue.models import Prompt, Receipt
from daemonpulse.queue.sync import door
from fleet.daemons.errors import DaemonError, Reason

from .sync_phones import Person, Phone

JSON = "application/json"
MODELS = ("otter", "heron")
KINDS = ("cancel", "retry", "delete", "edit")
MOST_PROMPTS = 6  # of one person
MOST_JUMPED = timedelta(days=40)  # receipts are kept for 90 days
PHONES = 4
WHO = st.sampled_from([0, 0, 1, 1, 2, 3])  # three phones of Alice, one of Bob
AT = st.integers(0, 99)  # one of a list, by its number modulo the list's length
LIMIT = st.integers(1, 3)

EFFECTS: Counter[tuple[str, str]] = Counter()  # how often a verb did something to a prompt


def counted(kind: str):
    """The verb of Prompt, counting its effects."""
    verb = getattr(Prompt, kind)

    def run(prompt, **fields):
        has_effect = verb(prompt, **fields)
        EFFECTS[kind, str(prompt.pk)] += has_effect
        return has_effect

    return run


class Killed(Exception):
    """The server's process ended in the middle of a request."""


@contextmanager
def killed_at(place: int | str):
    """Ends with Killed at the so-manieth statement, or at the first that writes into the table of this name."""
    number, is_dead = itertools.count(1), False

    def execute(run, sql, *args):
        nonlocal is_dead
        is_here = sql.startswith(f'INSERT INTO "{place}"') if isinstance(place, str) else next(number) == place
        if is_here and not is_dead and "SAVEPOINT" not in sql:
            is_dead = True
            raise Killed
        return run(sql, *args)

    with connection.execute_wrapper(execute):
        yield


class Sync(RuleBasedStateMachine):
    node = cast = None  # of the test: a node that serves MODELS; [(owner, devices)], paired once for all examples
    jumped = timedelta()  # how far the clock is off
    around_push = nullcontext  # what happens to the server during a push

    def __init__(self):
        super().__init__()
        self.savepoint = transaction.savepoint()
        self.phones = []
        for owner, devices in self.cast:
            person = Person(owner)
            self.phones += [Phone(person, device) for device in devices]
        self.requests: list[dict] = []
        self.answers: list[dict] = []
        self.history: list[dict] = []
        self.accepted_seqs: set[tuple[str, int]] = set()
        self.wanted: Counter[tuple[str, str]] = Counter()
        self.number = itertools.count(1)
        door.PACE.spent.clear()
        EFFECTS.clear()

    def teardown(self):
        try:
            self.quiet()
            self.check()
        finally:
            transaction.savepoint_rollback(self.savepoint)
            type(self).jumped = timedelta()

    @initialize(models=st.lists(st.sampled_from(MODELS), min_size=1, max_size=3), who=WHO)
    def it_does_not_begin_at_nothing(self, models, who):
        self.somebody_writes(who, models)
        self.ask(self.phones[who], "push", 50)
        for phone in self.phones[:2]:
            self.catch_up(phone, 50)

    # People

    @rule(who=WHO, models=st.lists(st.sampled_from(MODELS), min_size=1, max_size=3))
    def somebody_writes(self, who, models):
        phone = self.phones[who]
        for model in models[: max(0, MOST_PROMPTS - len(phone.person.prompts))]:
            phone.outbox.append(self.draft(phone, model))

    def draft(self, phone: Phone, model: str) -> dict:
        prompt_id = str(uuid.UUID(int=next(self.number)))
        phone.person.prompts.append(prompt_id)
        return self.mutation("submit", prompt_id, model)

    @rule(who=WHO, kind=st.sampled_from(KINDS), at=AT)
    def somebody_changes(self, who, kind, at):
        phone = self.phones[who]
        if known := phone.known():
            self.change(phone, kind, known[at % len(known)])

    @rule(who=WHO, kinds=st.lists(st.sampled_from(KINDS), min_size=2, max_size=4), at=AT)
    def somebody_cannot_decide(self, who, kinds, at):
        phone = self.phones[who]
        if known := phone.known():
            for kind in kinds:
                self.change(phone, kind, known[at % len(known)])

    @rule(who=WHO, other=st.sampled_from([0, 1, 2]), kind=st.sampled_from(KINDS), at=AT, limit=LIMIT)
    def one_changes_what_another_shows(self, who, other, kind, at, limit):
        self.a_phone_catches_up(other, limit)
        self.somebody_changes(who, kind, at)
        if not self.phones[who].is_revoked:
            self.phones[who].waits_for.clear()
            self.ask(self.phones[who], "push", 50)
            self.a_phone_catches_up(other, limit)

    def change(self, phone: Phone, kind: str, prompt_id: str) -> None:
        phone.change(self.mutation(kind, prompt_id))
        self.wanted[kind, prompt_id] += 1
        if kind == "delete":
            phone.person.deleted.add(prompt_id)

    def mutation(self, kind: str, prompt_id: str, model: str | None = None) -> dict:
        number = next(self.number)
        fields = {"fields": {"text": f"{kind} {number}"}} if kind in {"submit", "edit"} else {}
        if model:
            fields["fields"]["model"] = model
        return {"id": str(uuid.UUID(int=number)), "kind": kind, "prompt": prompt_id} | fields

    # The network

    @rule(who=WHO, call=st.sampled_from(["push", "pull"]), limit=LIMIT)
    def a_phone_has_a_good_moment(self, who, call, limit):
        phone = self.phones[who]
        if call not in phone.waits_for and not phone.is_revoked:
            self.ask(phone, call, limit)

    @rule(who=WHO, limit=LIMIT)
    def a_phone_catches_up(self, who, limit):
        phone = self.phones[who]
        if not phone.is_revoked:
            phone.waits_for.pop("pull", None)
            self.catch_up(phone, limit)

    def catch_up(self, phone: Phone, limit: int) -> None:
        """It asks until there is nothing more, and then knows what the server knows."""
        phone.is_behind = True
        for _ in range(60):
            if phone.is_behind:
                self.ask(phone, "pull", limit)
        assert not phone.is_behind, "a phone pulled and pulled"
        told = {key: (one["state"], one["text"]) for key, one in phone.mirror.items()}
        stored = phone.person.stored()
        if phone.is_partial:
            stored = {key: value for key, value in stored.items() if key in told}
        assert told == stored, "a phone was told everything, and knows something else"

    @rule(who=WHO, call=st.sampled_from(["push", "push", "pull"]), limit=LIMIT)
    def a_phone_sends(self, who, call, limit):
        phone = self.phones[who]
        if call in phone.waits_for or phone.is_revoked or (call == "push" and not phone.outbox):
            return
        phone.waits_for[call] = number = next(self.number)
        self.requests.append(phone.request(call, limit) | {"number": number})

    @precondition(lambda self: self.requests)
    @rule(at=AT, stays=st.booleans())
    def the_server_gets_something(self, at, stays):
        """Any request on its way, in any order; it may come once more."""
        request = self.requests[at % len(self.requests)]
        if not stays:
            self.requests.remove(request)
        self.answers.append(request | {"answer": self.serve(request)})

    @precondition(lambda self: self.answers)
    @rule(at=AT)
    def a_phone_hears(self, at):
        answer = self.answers.pop(at % len(self.answers))
        phone, call = answer["phone"], answer["call"]
        if phone.waits_for.get(call) == answer["number"]:
            del phone.waits_for[call]
            phone.hear(call, *answer["answer"])

    @precondition(lambda self: self.requests or self.answers)
    @rule(at=AT)
    def something_is_lost(self, at):
        things = self.requests or self.answers
        things.pop(at % len(things))

    @precondition(lambda self: self.history)
    @rule(at=AT)
    def an_old_request_comes_again(self, at):
        self.serve(self.history[at % len(self.history)])

    # Phones

    @rule(who=WHO)
    def a_phone_waits_no_more(self, who):
        """A time-out, or the app was killed: what is on its disk is all it knows."""
        self.phones[who].waits_for.clear()

    @rule(who=WHO, keeps=st.booleans())
    def a_phone_has_a_backup(self, who, keeps):
        """It makes one, or is set back to the last."""
        phone = self.phones[who]
        if keeps:
            phone.backup = phone.disk()
        elif not phone.is_revoked:
            phone.restore()

    @rule(
        who=WHO,
        limit=LIMIT,
        pages=st.integers(0, 3),
        other=WHO,
        kind=st.sampled_from([*KINDS, None]),
        stops=st.booleans(),
    )
    def a_phone_lists_while_things_change(self, who, limit, pages, other, kind, stops):
        phone, other = self.phones[who], self.phones[other]
        if phone.is_revoked or other.is_revoked:
            return
        phone.waits_for.clear()
        phone.cursor, phone.listed = "", None
        self.ask(phone, "pull", limit)
        if kind and phone.listed:
            self.change(phone, kind, min(phone.listed))
            phone.waits_for.clear()
            self.ask(phone, "push", 50)
        elif other.outbox:
            other.waits_for.clear()
            self.ask(other, "push", 50)
        for _ in range(pages):
            if phone.listed is not None:
                self.ask(phone, "pull", limit)
        if stops and phone.listed is not None:
            phone.end_listing(is_partial=True)
        if stops or pages:
            self.catch_up(phone, limit)

    @rule(who=WHO, in_mid_push=st.booleans(), comes_back=st.booleans(), is_sure=st.sampled_from([True, False, False]))
    def a_phone_is_shut_out(self, who, in_mid_push, comes_back, is_sure):
        phone = self.phones[who]
        if not is_sure or phone.is_revoked:
            return
        if in_mid_push:
            phone.outbox.append(self.draft(phone, MODELS[0]))
            phone.is_revoked = True
            _, told = self.serve_during(revoking, phone.request("push", 50))
            assert "error" in told, "a push was done for a phone that was shut out"
        phone.device.row.revoke()
        phone.is_revoked = True
        if comes_back:
            phone.pair_anew()

    # The server

    @rule(who=WHO, limit=LIMIT, place=st.one_of(st.just("queue_receipt"), st.integers(1, 30)))
    def the_server_is_killed_during_a_push(self, who, limit, place):
        phone = self.phones[who]
        if not phone.is_revoked:
            if known := phone.known():
                self.change(phone, "edit", known[0])
            phone.waits_for.clear()
            self.serve_during(lambda _: killed_at(place), phone.request("push", limit))
            door.PACE.spent.clear()  # it starts again

    @rule(fails=st.booleans(), many=st.integers(1, 3))
    def the_server_works(self, fails, many):
        for prompt in Prompt.objects.queued().order_by("position")[:many]:
            attempt = Prompt.claim_next(prompt.lane_id, self.node.pk, "runner/1")
            if attempt and fails:
                attempt.prompt.fail(attempt, DaemonError(Reason.BAD_REQUEST, "no"))
            elif attempt:
                attempt.prompt.finish(attempt, [("message", f"answer to {attempt.prompt.text}")])

    @rule(keeps=st.sampled_from([1, 1, 2, 3]), who=WHO, limit=LIMIT)
    def the_server_forgets_its_log(self, keeps, who, limit):
        kept = Event.objects.lasting().order_by("-id").values_list("id", flat=True)[:keeps]
        Event.objects.filter(id__lt=min(kept, default=0)).delete()
        self.a_phone_catches_up(who, limit)

    @rule(hours=st.integers(-120, 120))
    def its_clock_is_set(self, hours):
        jumped = self.jumped + timedelta(hours=hours)
        if abs(jumped) <= MOST_JUMPED:
            type(self).jumped = jumped
        Receipt.forget_old()

    # What a push may do

    def serve_during(self, around, request: dict) -> tuple[int, dict] | None:
        type(self).around_push = staticmethod(around)
        try:
            return self.serve(request)
        finally:
            type(self).around_push = nullcontext

    def serve(self, request: dict) -> tuple[int, dict] | None:
        """(status, answer); None when the server was killed over it."""
        self.history.append(request)
        if request["call"] != "push":
            return self.answer_to(request)
        person, mutations = request["phone"].person, request["data"]["mutations"]
        ids = [one["id"] for one in mutations]
        person.sent |= {one["id"]: one for one in mutations}
        receipts = Receipt.objects.filter(device__owner=person.owner, mutation_id__in=ids)
        before, had, effects = person.stored(), receipts.count(), EFFECTS.copy()
        answer = self.answer_to(request)
        after, has = person.stored(), receipts.count()
        if has == had or answer is None or answer[0] != 200:
            assert after == before or (answer is None and has == len(ids)), "half of a push was done"
        if after == before and has == had:
            EFFECTS.clear(), EFFECTS.update(effects)
        if answer and answer[0] == 200:
            self.check_results(person, ids, answer[1]["results"])
        self.check_order(person, mutations, before, after)
        person.accepted |= {one["prompt"] for one in mutations if one["kind"] == "submit" and one["prompt"] in after}
        return answer

    def answer_to(self, request: dict) -> tuple[int, dict] | None:
        device, call, body = request["device"], request["call"], request["body"]
        was_revoked = device.row.revoked_at is not None
        door.PACE.spent.clear()
        try:
            answer = device.post(call, body, sealing.CONTENT_TYPE if device.key else JSON)
            status, content = answer.status_code, answer.content
        except Killed:
            connection.needs_rollback = False
            return self.note_seq(request)
        assert status == 401 or not was_revoked
        if answer["Content-Type"] == sealing.CONTENT_TYPE:
            header, content = sealing.open_sealed(device.key, content.decode())
            assert header["re"] == sealing.header_of(body)["seq"]
        told = json.loads(content)
        if device.key and status == 200:
            self.note_seq(request)
        return status, told

    def note_seq(self, request: dict) -> None:
        if request["device"].key:
            used = request["device"].id, sealing.header_of(request["body"])["seq"]
            assert used not in self.accepted_seqs, "a copy of a request was let in"
            self.accepted_seqs.add(used)

    def check_results(self, person: Person, ids: list[str], results: list[dict]) -> None:
        assert [one["id"] for one in results] == ids
        for one in results:
            assert person.results.setdefault(one["id"], one) == one, "a repeat got another result"

    def check_order(self, person: Person, mutations: list[dict], before: dict, after: dict) -> None:
        """What is new stands in the lane in the order in which it was written, behind what was there."""
        moved = {one["prompt"] for one in mutations if one["kind"] == "retry"}
        new = [
            one["prompt"]
            for one in mutations
            if one["kind"] == "submit" and one["prompt"] in after.keys() - before.keys() - moved
        ]
        new = list(dict.fromkeys(new))
        lanes: dict[int, list[str]] = {}
        for row in Prompt.objects.of(person.owner).queued().order_by("position"):
            lanes.setdefault(row.lane_id, []).append(str(row.pk))
        for rows in lanes.values():
            here = [row for row in new if row in rows]
            assert [row for row in rows if row in new] == here, "prompts arrived in another order"
            if here:
                behind = rows[rows.index(here[0]) :]
                assert set(behind) <= {*here, *moved}, "a prompt passed those that were there"

    # Quiet

    def quiet(self) -> None:
        """Everything that is still on its way arrives, late. Everybody sends until nothing is left, and once more all
        that they ever sent. Then they ask."""
        for request in self.requests:
            self.serve(request)
        usable = [phone for phone in self.phones if not phone.is_revoked]
        for phone in usable:
            phone.waits_for.clear()
            for _ in range(20):
                if phone.outbox:
                    self.ask(phone, "push", 50)
        for phone in usable:
            data = {"mutations": list(phone.person.sent.values())[::-1][:100]}
            request = {"phone": phone, "device": phone.device, "call": "push", "data": data}
            self.serve(request | {"body": phone.body("push", data)})
        for phone in usable:
            self.catch_up(phone, 2)

    def ask(self, phone: Phone, call: str, limit: int) -> None:
        phone.hear(call, *self.serve(phone.request(call, limit)))

    def check(self) -> None:
        for phone in self.phones:
            assert phone.outbox == [] or phone.is_revoked
            assert phone.person.accepted <= phone.person.stored().keys() | phone.person.deleted, "a prompt was lost"
        self.check_each_once()

    def check_each_once(self) -> None:
        deleted = set().union(*(phone.person.deleted for phone in self.phones))
        for row in Prompt.objects.all():
            done = row.attempts.filter(outcome="done").count()
            assert done == (row.state == "done"), "a prompt ran twice, or is done without an answer"
        for (kind, prompt_id), times in EFFECTS.items():
            may_be_deleted = kind == "cancel" and prompt_id in deleted  # which cancels first
            assert times <= self.wanted[kind, prompt_id] + may_be_deleted, f"one {kind} had two effects"


@contextmanager
def revoking(device):
    """Its owner shuts it out while the server has its request in hand."""
    device.revoke()
    yield
