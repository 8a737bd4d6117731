"""What a client and its server tell each other: the outbox there, the changes here. One call a step, no loop that
waits and no clock (see courier.py)."""

import json

from django.utils import timezone

from daemonpulse.models.event import record, writing

from ..models import Mirror, Mutation, Prompt, Remote, RemoteModel
from ..outbox import take_back
from .line import CallFailed, Line, Numbers

PAGE = 100  # prompts in a pull: taken over in one transaction, which nobody else can write beside
MOST_MUTATIONS, MOST_BYTES = 100, 4 * 1024 * 1024  # where the server has not told its limits
SEALED_SHARE = 0.6  # of a body's limit is left for what is sealed: base64 makes a third more of it
OWN = ("text", "system_prompt")
OUTPUT = ("detail", "reasoning", "answer")
TOO_MUCH = {"too_large", "invalid"}  # of a push: something in it is the reason, so less is sent at once
OTHER_SERVER = (
    "Another server answers at {url} than the one that this client is paired with. What waits here was not sent to it. "
    "If that is your server now, pair with it."
)
RESTORED = (
    "The server was put back to an earlier state, perhaps from a backup. What it no longer has stays in your history "
    "here. What still waited there is among what was not accepted, and you say whether it is sent again. What was done "
    "and waits there again may run a second time; the earlier answer is kept as a prompt of its own."
)
DIFFERS = {
    "code": "differs",
    "message": "The server has another version of this prompt: it was changed elsewhere, on another device or in a "
    "copy of this client. Yours is kept here until you change the prompt or discard it.",
}
Kind = Mutation.Kind


class Superseded(Exception):
    """This client was paired anew, or has left, while the call was under way."""


class Delivery:
    """For one device. `is_behind`: the server may have changes for us."""

    def __init__(self, remote: Remote, numbers: Numbers | None = None):
        self.device, self.server = remote.device, remote.server
        self.line = Line(remote, numbers)
        self.is_behind = True
        self.has_listed = False  # the last pull was the end of a listing
        self.sent: dict[str, dict] = {}  # what the server took, by prompt, until it tells of it
        self.most: int | None = None  # fewer mutations at a time, after a body that was too large

    def step(self) -> bool:
        """Do the next thing; False when everything is done. Raises CallFailed."""
        if self.push():
            self.is_behind = True
            return True
        if self.is_behind:
            self.pull()
            return True
        return False

    def remote(self) -> Remote:
        """The row now. Raises Superseded."""
        remote = Remote.objects.filter(device=self.device).first()
        if remote is None or not remote.is_paired:
            raise Superseded
        return remote

    # Push

    def push(self) -> bool:
        """Send the beginning of the outbox, as much as one call takes; False when it is empty."""
        mutations = self._begin_push()
        if not mutations:
            return False
        try:
            told = self.line.call("push", {"mutations": [one.as_json() for one in mutations]})
        except CallFailed as failure:
            if failure.is_unsent:
                take_back([one for one in mutations if not one.is_tried])
            if failure.code not in TOO_MUCH:
                raise
            self._send_less(mutations, failure)
            return True
        self.most = None
        self._take_results(mutations, told)
        return True

    def _begin_push(self) -> list[Mutation]:
        """The next mutations, as they were; from now on they are never altered, unless nothing is sent."""
        with writing():
            limits = self.remote().limits
            count = self.most or min(limits.get("mutations", MOST_MUTATIONS), MOST_MUTATIONS)
            room = limits.get("body_bytes", MOST_BYTES) * SEALED_SHARE
            mutations = fitting(list(Mutation.objects.to_send(self.server)[:count]), room)
            Mutation.objects.filter(pk__in=[one.pk for one in mutations], is_tried=False).update(is_tried=True)
        return mutations

    def _send_less(self, mutations: list[Mutation], failure: CallFailed) -> None:
        if len(mutations) > 1:
            self.most = len(mutations) // 2
            return
        with writing():
            self._refuse(mutations[0], failure.told)

    def _take_results(self, mutations: list[Mutation], told: dict) -> None:
        results = {row["id"]: row for row in told["results"]}
        known = [one for one in mutations if str(one.uuid) in results]
        if not known:
            raise CallFailed("not_understood", "The server answered a push without results.")
        with writing():
            remote = self.remote()
            for one in known:
                result = results[str(one.uuid)]
                if result["status"] == "refused":
                    self._refuse(one, result.get("error") or {})
                    continue
                if one.kind == Kind.SUBMIT:
                    Prompt.confirm(remote, one.prompt_id, result.get("state"))
                if one.kind in {Kind.SUBMIT, Kind.EDIT}:
                    self.sent[str(one.prompt_id)] = self.sent.get(str(one.prompt_id), {}) | one.fields
                Mutation.objects.filter(pk=one.pk).delete()

    def _refuse(self, one: Mutation, error: dict) -> None:
        """Kept with the server's words until a person has seen to it; but what a refused submit takes with it."""
        has_refused_submit = Mutation.objects.refused().filter(prompt=one.prompt_id, kind=Kind.SUBMIT).exists()
        if has_refused_submit and one.kind not in {Kind.SUBMIT, Kind.EDIT}:
            Mutation.objects.filter(pk=one.pk).delete()
            return
        one.refuse(error)
        if prompt := Prompt.objects.filter(pk=one.prompt_id).only("owner", "lane").first():
            record("prompt.carried", prompt.pk, owner_id=prompt.owner_id, lane=prompt.lane_id)

    # Pull

    def pull(self) -> None:
        """One page of changes. What is poked meanwhile may not be in it."""
        self.is_behind = False
        try:
            self._take_page()
        except BaseException:
            self.is_behind = True
            raise

    def _take_page(self) -> None:
        remote = self.remote()
        told = self.line.call("pull", {"cursor": remote.cursor, "limit": PAGE})
        changes = [self._completed(change) for change in told["changes"]]
        with writing():
            remote = self.remote()
            if told.get("reset"):
                remote.listing, remote.live_cursor = remote.listing + 1, told["live"]
            if is_restored := bool(told.get("rewound")):
                Mirror.set_aside(self.server)
            is_restored |= bool(Prompt.mirror_page(remote, changes, told["removed"]))
            self._compare(changes)
            remote.cursor = told["cursor"]
            self.is_behind |= bool(told["more"])
            if remote.live_cursor and not told["more"]:
                Prompt.forget_unlisted(remote)
                is_restored |= bool(Prompt.ask_about_lost(remote))
                # Go on behind it; but a server that only ever lists is asked again when it pokes.
                self.is_behind |= not self.has_listed
                self.has_listed = True
                remote.cursor, remote.live_cursor = remote.live_cursor, ""
            elif not remote.live_cursor:
                self.has_listed = False
            remote.save(update_fields=["listing", "cursor", "live_cursor"])
            if is_restored:
                Remote.warn(self.device, "restored", RESTORED)

    def _compare(self, changes: list[dict]) -> None:
        """Two copies of this client may have changed the same entry before they sent it; the first to come counted,
        and the other's words are kept as a change that was not accepted."""
        for change in changes:
            sent = self.sent.pop(change["id"], {})
            whole = [name for name in OWN if len(change[name]) >= (change.get("lengths") or {}).get(name, 0)]
            if any(name in sent and sent[name] != change[name] for name in whole):
                own = Mutation(kind=Kind.EDIT, prompt_id=change["id"], server=self.server, is_tried=True)
                own.fields_json = json.dumps({name: sent[name] for name in OWN if name in sent})
                own.save()
                self._refuse(own, DIFFERS)

    def _completed(self, change: dict) -> dict:
        """With the rest of the texts that were cut."""
        for field, length in (change.get("lengths") or {}).items():
            while len(change[field]) < length:
                told = self.line.call("text", self._rest_of(change, field))
                is_other = field in OUTPUT and told["attempt"] != change["attempts"]
                if is_other or not told["text"]:  # it has changed since; a later change tells of it
                    break
                change[field] += told["text"]
        return change

    @staticmethod
    def _rest_of(change: dict, field: str) -> dict:
        return {"prompt": change["id"], "field": field, "attempt": change["attempts"], "offset": len(change[field])}

    # The rest

    def ping(self, seconds=(3, 10)) -> None:
        """Hear how the server is, and what it takes."""
        told = self.line.call("ping", {"pending": pending(self.server)}, seconds)
        if str(told["server"]["id"]) != self.server:
            raise CallFailed("other_server", OTHER_SERVER.format(url=self.line.url))
        limits = {name: value for name, value in told["limits"].items() if isinstance(value, int)}
        there = {"is_working": bool(told["is_working"]), "limits": limits, "server_name": told["server"]["name"][:120]}
        before = self.remote()
        there["device_name"] = str((told.get("device") or {}).get("name") or before.device_name)[:80]
        self.is_behind |= told["cursor"] != before.cursor
        if there != {name: getattr(before, name) for name in there}:
            Remote.note(self.device, **there)

    def models(self) -> None:
        RemoteModel.replace(self.line.call("models", {})["models"])

    def leave(self) -> None:
        """Sign out there, where that can be had, and here in any case."""
        try:
            self.line.call("leave", {})
            text = "This client has left the server."
        except CallFailed as failure:
            text = "This client has left. The server was not told; revoke it there under Settings → Your devices."
            if failure.code in {"revoked", "unknown_token", "expired"}:
                text = "This client has left the server."
        Remote.forget(self.device, text)

    def note_done(self) -> None:
        over = {} if self.remote().has_notice else {"problem": "", "problem_text": ""}
        Remote.note(self.device, last_sync_at=timezone.now(), gone_since=None, **over)


def pending(server: str) -> int:
    return Mutation.objects.to_send(server).count()


def fitting(mutations: list[Mutation], room: float) -> list[Mutation]:
    """The first of them that fit into `room` bytes, but at least one."""
    size = 0
    for index, one in enumerate(mutations):
        size += len(json.dumps(one.as_json(), ensure_ascii=False).encode())
        if index and size > room:
            return mutations[:index]
    return mutations
