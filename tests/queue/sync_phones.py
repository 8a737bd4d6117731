"""Phones that follow docs/sync.md, and the people who use them; for sync_machine.py."""

import copy
import json

from django.test import RequestFactory

from daemonpulse.queue.models import Prompt
from daemonpulse.queue.sync import views

from .devices import TestDevice


class Wire:
    """Straight to the view: what is around it has tests of its own."""

    def post(self, path: str, body, content_type: str, headers: dict):
        request = RequestFactory().post(path, body, content_type=content_type, headers=headers)
        return views.call(request, 1, path.rpartition("/")[2])


class Person:
    def __init__(self, owner):
        self.owner = owner
        self.prompts: list[str] = []  # all that were ever submitted by hand
        self.deleted: set[str] = set()
        self.accepted: set[str] = set()  # whose submit was answered `applied`
        self.sent: dict[str, dict] = {}  # mutations that were in a push
        self.results: dict[str, dict] = {}

    def stored(self) -> dict[str, tuple[str, str]]:
        return {str(row.pk): (row.state, row.text) for row in Prompt.objects.of(self.owner)}


class Phone:
    """A device by the rules. DISK survives the app and is in backups; `waits_for` is its memory."""

    DISK = ("outbox", "tried", "mirror", "cursor", "live", "listed", "is_partial", "seq")

    def __init__(self, person: Person, device: TestDevice):
        self.person, self.device = person, device
        self.outbox: list[dict] = []
        self.tried: set[str] = set()
        self.mirror: dict[str, dict] = {}
        self.cursor = self.live = ""
        self.listed: set[str] | None = None  # what the listing that is under way has told so far
        self.is_behind = False
        self.is_partial = False  # it stopped in a listing: there may be prompts that it does not know
        self.seq = 0
        self.waits_for: dict[str, int] = {}
        self.is_revoked = False
        self.backup = self.disk()

    def disk(self) -> dict:
        return copy.deepcopy({name: getattr(self, name) for name in self.DISK})

    def restore(self) -> None:
        vars(self).update(copy.deepcopy(self.backup))
        self.waits_for.clear()

    def pair_anew(self) -> None:
        self.device = new_device(self.person.owner, is_sealed=bool(self.device.key))
        self.seq, self.is_revoked = 0, False
        self.waits_for.clear()

    # What its user does

    def known(self) -> list[str]:
        waiting = {one["prompt"] for one in self.outbox}
        return [one for one in self.person.prompts if one in self.mirror or one in waiting]

    def unsent(self, prompt_id: str) -> dict | None:
        """Its submission, while that was in no push."""
        return next((one for one in self.outbox if one["kind"] == "submit" and one["prompt"] == prompt_id
                     and one["id"] not in self.tried), None)  # fmt: skip

    def change(self, one: dict) -> None:
        draft = self.unsent(one["prompt"])
        if draft and one["kind"] == "edit":
            draft["fields"] |= one["fields"]
        elif draft and one["kind"] in {"delete", "cancel"}:
            self.outbox.remove(draft)
        else:
            self.outbox.append(one)

    # What it sends, and what it makes of the answers

    def body(self, call: str, data: dict) -> str:
        if not self.device.key:
            return json.dumps(data)
        self.seq += 1
        return self.device.sealed(call, data, seq=self.seq)

    def request(self, call: str, limit: int) -> dict:
        data = {"cursor": self.cursor, "limit": limit}
        if call == "push":
            data = {"mutations": copy.deepcopy(self.outbox[: limit * 2])}
            self.tried |= {one["id"] for one in data["mutations"]}
        return {"phone": self, "device": self.device, "call": call, "data": data, "body": self.body(call, data)}

    def hear(self, call: str, status: int, told: dict) -> None:
        if status == 200:
            self.sort_out(told["results"]) if call == "push" else self.learn(told)
            return
        code = told["error"]["code"]
        assert code in {"replayed", "revoked"}, told
        if code == "replayed":
            self.seq = told["error"]["seen"]
        else:
            self.is_revoked = True

    def sort_out(self, results: list[dict]) -> None:
        known = {one["id"] for one in results}
        self.outbox = [one for one in self.outbox if one["id"] not in known]

    def learn(self, told: dict) -> None:
        if told["reset"]:
            self.listed = set()
        for change in told["changes"]:
            self.mirror[change["id"]] = change
            if self.listed is not None:
                self.listed.add(change["id"])
        for prompt_id in told["removed"]:
            self.mirror.pop(prompt_id, None)
        self.cursor, self.live = told["cursor"], told["live"]
        self.is_behind = told["more"] or self.listed is not None  # after a listing comes what changed since
        if self.listed is not None and not told["more"]:
            self.end_listing(is_partial=False)

    def end_listing(self, is_partial: bool) -> None:
        self.mirror = {key: value for key, value in self.mirror.items() if key in self.listed}
        self.listed, self.is_partial, self.cursor = None, is_partial, self.live


def new_device(owner, is_sealed: bool) -> TestDevice:
    device = TestDevice(owner, sealed=is_sealed)
    device.client = Wire()
    return device
