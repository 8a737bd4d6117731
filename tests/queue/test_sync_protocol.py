"""The protocol as a whole, by model checking: devices that follow docs/sync.md, a network that loses, repeats and
reorders, a server that works, forgets its log and is restarted. After quiet all agree, nothing is lost, nothing ran
twice."""

import copy
import json
from collections import Counter
from datetime import timedelta

import pytest
from django.db import transaction
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from daemonpulse import sealing
from daemonpulse.models import Event, User
from daemonpulse.queue.models import Prompt, Receipt
from daemonpulse.queue.sync import door
from fleet.daemons.errors import DaemonError, Reason

from .devices import TestDevice, mutation, submission

pytestmark = pytest.mark.django_db
JSON = "application/json"
MODELS = ("otter", "heron")


EFFECTS: Counter[tuple[str, str]] = Counter()  # how often a verb did something to a prompt


def counted(kind: str):
    """The verb of Prompt, counting its effects."""
    verb = getattr(Prompt, kind)

    def run(prompt, **fields):
        has_effect = verb(prompt, **fields)
        EFFECTS[kind, str(prompt.pk)] += has_effect
        return has_effect

    return run


class Client:
    """A device by the rules. `outbox`, `mirror`, `cursor` are its disk; `waits_for` is its memory."""

    def __init__(self, owner, sealed: bool):
        self.device = TestDevice(owner, sealed=sealed)
        self.owner = owner
        self.outbox: list[dict] = []
        self.tried: set[str] = set()
        self.mirror: dict[str, dict] = {}
        self.cursor = ""
        self.listed: set[str] | None = None  # what the listing that is under way has told so far
        self.waits_for: dict[str, int] = {}
        self.submitted: list[str] = []
        self.is_revoked = False

    # What its user does

    def submit(self, text: str, model: str) -> None:
        draft = submission(text, model)
        self.outbox.append(draft)
        self.submitted.append(draft["prompt"])

    def unsent(self, prompt_id: str) -> dict | None:
        """Its submission, while that was in no push."""
        return next((one for one in self.outbox if one["kind"] == "submit" and one["prompt"] == prompt_id
                     and one["id"] not in self.tried), None)  # fmt: skip

    def change(self, kind: str, prompt_id: str, **fields) -> None:
        draft = self.unsent(prompt_id)
        if draft and kind == "edit":
            draft["fields"] |= fields
        elif draft and kind in {"delete", "cancel"}:
            self.outbox.remove(draft)
            self.submitted.remove(prompt_id)
        else:
            self.outbox.append(mutation(kind, prompt_id, **fields))

    def known(self) -> list[str]:
        return sorted({*self.mirror, *[one["prompt"] for one in self.outbox]})

    # What it sends, and what it makes of the answers

    def request(self, call: str) -> str:
        """The body, as it goes over the network."""
        if call == "push":
            data = {"mutations": copy.deepcopy(self.outbox[:5])}
            self.tried |= {one["id"] for one in data["mutations"]}
        else:
            data = {"cursor": self.cursor, "limit": 2}
        return self.device.sealed(call, data) if self.device.key else json.dumps(data)

    def hear(self, call: str, status: int, told: dict) -> None:
        if status != 200:
            assert told["error"]["code"] in {"replayed", "revoked"}, told
            self.is_revoked |= told["error"]["code"] == "revoked"
            return
        if call == "push":
            for result in told["results"]:
                one = next((one for one in self.outbox if one["id"] == result["id"]), None)
                if one is not None:
                    self.outbox.remove(one)
            return
        if told["reset"]:
            self.listed = set()
        for change in told["changes"]:
            self.mirror[change["id"]] = change
            if self.listed is not None:
                self.listed.add(change["id"])
        for prompt_id in told["removed"]:
            self.mirror.pop(prompt_id, None)
        self.cursor = told["cursor"]
        if self.listed is not None and not told["more"]:
            self.mirror = {key: value for key, value in self.mirror.items() if key in self.listed}
            self.listed = None


class Sync(RuleBasedStateMachine):
    now_offset = timedelta()

    def __init__(self):
        super().__init__()
        self.savepoint = transaction.savepoint()
        door.PACE.spent.clear()
        alice = User.objects.create_user("machine-alice")
        bob = User.objects.create_user("machine-bob")
        self.clients = [Client(alice, sealed=False), Client(alice, sealed=True), Client(bob, sealed=True)]
        self.requests: list[dict] = []
        self.answers: list[dict] = []
        self.count = 0
        self.deleted: set[str] = set()
        self.wanted: Counter[tuple[str, str]] = Counter()
        EFFECTS.clear()

    def teardown(self):
        try:
            self.quiet()
            self.check()
        finally:
            transaction.savepoint_rollback(self.savepoint)
            type(self).now_offset = timedelta()

    # People

    @rule(who=st.integers(0, 2), model=st.sampled_from(MODELS), many=st.integers(1, 6))
    def somebody_writes(self, who, model, many):
        for _ in range(many):
            self.count += 1
            self.clients[who].submit(f"prompt {self.count}", model)

    @rule(who=st.integers(0, 2), kind=st.sampled_from(["cancel", "retry", "delete", "edit"]), at=st.integers(0, 99))
    def somebody_changes(self, who, kind, at):
        client = self.clients[who]
        if known := client.known():
            self.count += 1
            fields = {"text": f"edited {self.count}"} if kind == "edit" else {}
            prompt_id = known[at % len(known)]
            client.change(kind, prompt_id, **fields)
            self.deleted |= {prompt_id} if kind == "delete" else set()
            self.wanted[kind, prompt_id] += 1

    # The network

    @rule(who=st.integers(0, 2), call=st.sampled_from(["push", "pull", "pull"]))
    def a_device_has_a_good_moment(self, who, call):
        client = self.clients[who]
        if call not in client.waits_for and not client.is_revoked:
            self.ask(client, call)

    @rule(who=st.integers(0, 2), call=st.sampled_from(["push", "push", "pull"]))
    def a_device_sends(self, who, call):
        client = self.clients[who]
        if call in client.waits_for or client.is_revoked or (call == "push" and not client.outbox):
            return
        self.count += 1
        client.waits_for[call] = self.count
        self.requests.append({"client": client, "call": call, "body": client.request(call), "number": self.count})

    @precondition(lambda self: self.requests)
    @rule(at=st.integers(0, 99), stays=st.booleans())
    def the_server_gets(self, at, stays):
        """Any request on its way, in any order; it may come once more."""
        request = self.requests[at % len(self.requests)]
        if not stays:
            self.requests.remove(request)
        self.answers.append(request | {"answer": self.serve(request)})

    @precondition(lambda self: self.requests)
    @rule(at=st.integers(0, 99))
    def a_request_is_lost(self, at):
        self.requests.pop(at % len(self.requests))

    @precondition(lambda self: self.answers)
    @rule(at=st.integers(0, 99))
    def a_device_hears(self, at):
        self.deliver(self.answers.pop(at % len(self.answers)))

    @precondition(lambda self: self.answers)
    @rule(at=st.integers(0, 99))
    def an_answer_is_lost(self, at):
        self.answers.pop(at % len(self.answers))

    @rule(who=st.integers(0, 2))
    def a_device_waits_no_more(self, who):
        """A time-out, or it was killed: what it has on disk is all it knows."""
        self.clients[who].waits_for.clear()

    def serve(self, request) -> tuple[int, dict]:
        client, call, body = request["client"], request["call"], request["body"]
        kind = sealing.CONTENT_TYPE if client.device.key else JSON
        answer = client.device.post(call, body, kind)
        if answer["Content-Type"] == sealing.CONTENT_TYPE:
            header, opened = sealing.open_sealed(client.device.key, answer.content.decode())
            assert header["re"] == sealing.header_of(body)["seq"]
            return answer.status_code, json.loads(opened)
        return answer.status_code, answer.json()

    def deliver(self, answer) -> None:
        client, call = answer["client"], answer["call"]
        if client.waits_for.get(call) != answer["number"]:
            return  # nobody waits for it any more
        del client.waits_for[call]
        client.hear(call, *answer["answer"])

    # The server

    @rule(fails=st.booleans(), many=st.integers(1, 4))
    def the_server_works(self, fails, many):
        for prompt in Prompt.objects.queued().order_by("position")[:many]:
            self.run_one_of(prompt, fails)

    def run_one_of(self, prompt, fails) -> None:
        attempt = Prompt.claim_next(prompt.lane_id, self.node.pk, "runner/1")
        if attempt is None:
            return
        if fails:
            attempt.prompt.fail(attempt, DaemonError(Reason.BAD_REQUEST, "no"))
        else:
            attempt.prompt.finish(attempt, [("message", f"answer to {attempt.prompt.text}")])

    @rule()
    def the_server_forgets_its_log(self):
        Event.objects.filter(id__lt=Event.objects.last_id()).delete()

    @rule(days=st.integers(0, 5))
    def the_servers_clock_jumps(self, days):
        type(self).now_offset += timedelta(days=days)
        Receipt.forget_old()

    @rule()
    def the_server_is_restarted(self):
        door.PACE.spent.clear()

    @rule(who=st.integers(0, 2), sure=st.integers(0, 9))
    def a_device_is_shut_out(self, who, sure):
        if sure == 0:
            self.clients[who].device.row.revoke()

    # Quiet

    def quiet(self) -> None:
        """Everything that is still on its way arrives, late; then everybody sends and asks until nothing is left."""
        for request in self.requests:
            self.serve(request)
        for client in self.clients:
            client.waits_for.clear()
            while client.outbox and not client.is_revoked:
                self.ask(client, "push")
        for client in self.clients:
            for _ in range(2):  # a listing may end at a cursor that has more behind it
                self.ask(client, "pull")
                while client.listed is not None or self.has_more:
                    if client.is_revoked:
                        break
                    self.ask(client, "pull")

    has_more = False

    def ask(self, client: Client, call: str) -> None:
        door.PACE.spent.clear()
        status, told = self.serve({"client": client, "call": call, "body": client.request(call)})
        client.hear(call, status, told)
        self.has_more = bool(status == 200 and told.get("more"))

    def check(self) -> None:
        for client in self.clients:
            if client.is_revoked:
                continue
            stored = {str(row.pk): (row.state, row.text) for row in Prompt.objects.of(client.owner)}
            assert {key: (one["state"], one["text"]) for key, one in client.mirror.items()} == stored
            assert client.outbox == []
        self.check_each_once()

    def check_each_once(self) -> None:
        for client in self.clients:
            stored = {str(row.pk): row for row in Prompt.objects.filter(pk__in=client.submitted)}
            if not client.is_revoked:
                lost = set(client.submitted) - set(stored) - self.deleted
                assert not lost, "a prompt was lost"
            order = [stored[key].enqueued_at for key in client.submitted if key in stored]
            assert order == sorted(order), "prompts arrived in another order"
        for row in Prompt.objects.all():
            done = row.attempts.filter(outcome="done").count()
            assert done == (row.state == "done"), "a prompt ran twice, or is done without an answer"
        for (kind, prompt_id), times in EFFECTS.items():
            may_be_deleted = kind == "cancel" and prompt_id in self.deleted  # which cancels first
            assert times <= self.wanted[kind, prompt_id] + may_be_deleted, f"one {kind} had two effects"


def test_after_quiet_all_agree_and_nothing_ran_twice(node, monkeypatch):
    real_now = timezone.now
    monkeypatch.setattr(timezone, "now", lambda: real_now() + Sync.now_offset)
    for kind in ("edit", "cancel", "retry"):
        monkeypatch.setattr(Prompt, kind, counted(kind))
    Sync.node = node
    run_state_machine_as_test(
        Sync,
        settings=settings(
            max_examples=20, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
