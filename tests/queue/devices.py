"""A device as docs/sync.md describes one, over Django's test client: it seals, counts and checks what comes back."""

import itertools
import json
import uuid

from django.test import Client

from daemonpulse import sealing
from daemonpulse.queue.models import Device, PairingCode


class TestDevice:
    """`call()` gives (status, answer); the verbs return mutations to push."""

    __test__ = False

    def __init__(self, owner, sealed: bool = False, client: Client | None = None, **fields):
        self.client = client or Client()
        self.key = b""
        self.seqs = itertools.count(1)
        told = {"code": PairingCode.issue(owner)[1], "name": "phone", "kind": "phone", "app": "test/1"} | fields
        agreement = sealing.Agreement()
        if sealed:
            told["public_key"] = sealing.to_text(agreement.point)
        answer = self.post("pair", json.dumps(told), "application/json")
        assert answer.status_code == 200, answer.content
        self.paired = answer.json()
        self.id, self.token = self.paired["device"], self.paired.get("token")
        if sealed:
            self.key = agreement.key(sealing.from_text(self.paired["public_key"]), is_server=False)
            header, box = sealing.open_sealed(self.key, self.paired["box"])
            assert header == {"alg": "dir", "enc": "A256GCM", "kid": self.id, "re": 0, "status": 200}
            self.token = json.loads(box)["token"]

    @property
    def row(self) -> Device:
        return Device.objects.get(pk=self.id)

    def post(self, call: str, body: str | bytes, content_type: str, version: int = 1, **headers):
        if getattr(self, "token", None) and "Authorization" not in headers:
            headers["Authorization"] = f"Bearer {self.token}"
        path = f"/api/sync/v{version}/{call}"
        return self.client.post(path, body, content_type=content_type, headers=headers)

    def sealed(self, call: str, data: object, **header) -> str:
        fields = {"kid": self.id, "seq": next(self.seqs), "use": call} | header
        return sealing.seal(self.key, fields, json.dumps(data).encode())

    def call(self, call: str, data: object | None = None) -> tuple[int, dict]:
        data = {} if data is None else data
        if not self.key:
            answer = self.post(call, json.dumps(data), "application/json")
            return answer.status_code, answer.json()
        body = self.sealed(call, data)
        answer = self.post(call, body, sealing.CONTENT_TYPE)
        if answer["Content-Type"] != sealing.CONTENT_TYPE:
            return answer.status_code, answer.json()
        header, opened = sealing.open_sealed(self.key, answer.content.decode())
        assert (header["kid"], header["re"]) == (self.id, sealing.header_of(body)["seq"])
        assert header["status"] == answer.status_code
        return answer.status_code, json.loads(opened)

    def push(self, *mutations: dict) -> list[dict]:
        status, answer = self.call("push", {"mutations": list(mutations)})
        assert status == 200, answer
        return answer["results"]

    def pull(self, cursor: str = "", **fields) -> dict:
        status, answer = self.call("pull", {"cursor": cursor} | fields)
        assert status == 200, answer
        return answer

    def pull_all(self, cursor: str = "", **fields) -> tuple[list[dict], str]:
        """(changes of all pages, the cursor to go on with)."""
        changes = []
        while True:
            page = self.pull(cursor, **fields)
            changes += page["changes"]
            cursor = page["cursor"]
            if not page["more"]:
                return changes, cursor


def mutation(kind: str, prompt=None, **fields) -> dict:
    made = {"id": str(uuid.uuid4()), "kind": kind, "prompt": str(prompt or uuid.uuid4())}
    return made | ({"fields": fields} if fields else {})


def submission(text: str = "Why?", model: str = "otter", **fields) -> dict:
    return mutation("submit", model=model, text=text, **fields)
