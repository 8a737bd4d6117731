"""A client for tests: its pairing, a prompt as the server tells it, and a server that lives in the test's memory."""

import uuid

from daemonpulse.queue.client.delivery import Delivery
from daemonpulse.queue.client.line import CallFailed
from daemonpulse.queue.models import Remote

SERVER = "11111111-1111-4111-8111-111111111111"
AT = "2026-11-21T09:00:00+00:00"


def paired(owner, server: str = SERVER, name: str = "box", url: str = "http://127.0.0.1:9") -> Remote:
    return Remote.pair(
        owner, server={"id": server, "name": name}, device={"id": str(uuid.uuid4()), "name": "laptop"},
        url=url, token="dpd_test", key="A" * 43, ca_certificate="",
    )  # fmt: skip


def change(pk, state: str = "queued", attempts: int = 0, **fields) -> dict:
    """As docs/sync.md has it."""
    told = {
        "id": str(pk), "model": "otter", "state": state, "priority": "normal", "text": "Why?", "system_prompt": "",
        "settings": {}, "follows": None, "attempts": attempts, "enqueued_at": AT,
        "started_at": AT if attempts else None,
        "finished_at": AT if state in {"done", "failed", "cancelled"} else None, "reason": None, "explanation": None,
        "detail": "", "reasoning": "", "answer": "", "stats": {}, "lengths": {},
    }  # fmt: skip
    return told | fields


class ServerInMemory:
    """Stands where a delivery's line is, and keeps docs/sync.md's promises: receipts, a log, cursors into it.

    `breaks`: so many answers are lost on their way, after the effect. `refuses`: prompt → error. `device_name` and
    `is_working` are what `ping` tells. `is_away`: nobody is there to be connected to. `meanwhile` is
    called while a call is under way.
    """

    def __init__(self, delivery: Delivery):
        delivery.line = self
        self.receipts: dict[str, dict] = {}
        self.prompts: dict[str, dict] = {}
        self.log: list[str] = []
        self.calls: list[tuple[str, dict]] = []
        self.applied: list[tuple[str, str]] = []
        self.refuses: dict[str, dict] = {}
        self.device_name, self.is_working = "laptop", True
        self.breaks, self.is_away = 0, False
        self.meanwhile = lambda: None
        self.first_event = 0
        self.limit = 1000

    def call(self, use: str, body: dict, seconds=None) -> dict:
        self.calls.append((use, body))
        self.meanwhile()
        if self.is_away:
            raise CallFailed("gone", "The server does not answer.", is_unsent=True)
        told = getattr(self, use)(body)
        if self.breaks:
            self.breaks -= 1
            raise CallFailed("gone", "The connection to the server broke.")
        return told

    def tell(self, told: dict) -> None:
        """A prompt is now like this on the server."""
        self.prompts[told["id"]] = told
        self.log.append(told["id"])

    def remove(self, pk: str) -> None:
        self.prompts.pop(pk)
        self.log.append(pk)

    def push(self, body: dict) -> dict:
        if len(body["mutations"]) > self.limit:
            raise CallFailed("too_large", "Too large.", 413, {"code": "too_large", "message": "Too large."})
        results = []
        for one in body["mutations"]:
            if one["id"] not in self.receipts:
                self.receipts[one["id"]] = self._apply(one)
            results.append({"id": one["id"]} | self.receipts[one["id"]])
        return {"results": results, "cursor": self._cursor()}

    def _apply(self, one: dict) -> dict:
        pk, kind = one["prompt"], one["kind"]
        if error := self.refuses.get(pk):
            return {"status": "refused", "error": error}
        self.applied.append((kind, pk))
        if kind == "submit":
            fields = {name: one["fields"][name] for name in ("model", "text", "priority")}
            self.tell(change(pk, **fields))
        elif kind == "delete":
            if pk in self.prompts:
                self.remove(pk)
            return {"status": "applied"}
        elif pk not in self.prompts:
            return {"status": "refused", "error": {"code": "not_found", "message": "There is no such prompt."}}
        else:
            state = {"cancel": "cancelled", "retry": "queued"}.get(kind, self.prompts[pk]["state"])
            fields = {name: one["fields"][name] for name in ("text",) if kind == "edit"}
            self.tell(self.prompts[pk] | {"state": state} | fields)
        return {"status": "applied", "state": self.prompts[pk]["state"]}

    def _cursor(self) -> str:
        return f"e.{len(self.log)}"

    def pull(self, body: dict) -> dict:
        kind, _, rest = body["cursor"].partition(".")
        if kind == "e" and int(rest) >= self.first_event:
            return self._since(int(rest))
        order = list(reversed(self.prompts))
        start, live = (int(part) for part in rest.split("/")) if kind == "l" else (0, len(self.log))
        page, more = order[start : start + 2], len(order) > start + 2
        return {
            "changes": [dict(self.prompts[pk]) for pk in page], "removed": [], "live": f"e.{live}", "more": more,
            "reset": kind != "l", "cursor": f"l.{start + 2}/{live}" if more else f"e.{live}",
        }  # fmt: skip

    def _since(self, event: int) -> dict:
        touched = list(dict.fromkeys(reversed(self.log[event:])))[::-1]
        there = [dict(self.prompts[pk]) for pk in touched if pk in self.prompts]
        removed = [pk for pk in touched if pk not in self.prompts]
        cursor = self._cursor()
        return {"changes": there, "removed": removed, "cursor": cursor, "live": cursor, "more": False, "reset": False}

    def text(self, body: dict) -> dict:
        whole = self.prompts[body["prompt"]]["whole"][body["field"]]
        piece = whole[body["offset"] : body["offset"] + 10]
        return {"text": piece, "offset": body["offset"], "length": len(whole), "attempt": body["attempt"]}

    def models(self, body: dict) -> dict:
        return {"models": [{"key": "otter", "name": "Otter", "is_usable": True}]}

    def ping(self, body: dict) -> dict:
        return {
            "server": {"id": SERVER, "name": "box", "version": "0.1.0", "protocol": 1}, "time": AT,
            "device": {"name": self.device_name}, "is_working": self.is_working,
            "nodes": {"online": 1, "all": 1}, "cursor": self._cursor(),
            "limits": {"body_bytes": 8_000_000, "mutations": 250, "text_characters": 200_000, "watched": 20},
        }  # fmt: skip

    def leave(self, body: dict) -> dict:
        return {}
