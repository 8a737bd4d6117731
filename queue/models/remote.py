"""What a client keeps of its server (docs/sync.md): the pairing, the outbox, what the server has, its models."""

import json
import uuid
from datetime import timedelta

from django.conf import settings
from django.db import models
from django.utils import timezone
from django_cryptography.fields import encrypt

from daemonpulse.models.event import record, writing

HEARD = timedelta(seconds=25)  # while the socket is open the courier notes every few seconds that the server is there
MOST_NUMBERS = 32  # taken at a time; a server takes numbers that come late, but only 63 of them
SHUT_OUT = frozenset({"no_token", "unknown_token", "expired", "revoked"})  # only pairing again helps
NOTICES = frozenset({"restored", "copied"})  # stand until a person has seen them; nothing is held up


class Remote(models.Model):
    """The server that this client is paired with: one row, from the first pairing on.

    `token` and `key` (base64url) are empty where it is not paired any more. `cursor` is how far the mirror is;
    while a listing runs `live_cursor` is where to go on behind it, and `listing` counts the listings. `seq` is the
    last number that may have been used for sealing. `gone_since`: the server cannot be reached since then.
    `problem` is an error's code that only a person can mend, with the server's words, or one of NOTICES.
    """

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    url = models.CharField(max_length=300)
    server = models.CharField(max_length=64, blank=True, default="")
    server_name = models.CharField(max_length=120, blank=True, default="")
    device = models.CharField(max_length=64, blank=True, default="")
    device_name = models.CharField(max_length=80, blank=True, default="")
    token = encrypt(models.CharField(max_length=200, blank=True, default=""))
    key = encrypt(models.CharField(max_length=60, blank=True, default=""))
    ca_certificate = models.TextField(blank=True, default="")
    cursor = models.CharField(max_length=200, blank=True, default="")
    live_cursor = models.CharField(max_length=200, blank=True, default="")
    listing = models.PositiveIntegerField(default=0)
    seq = models.BigIntegerField(default=0)
    limits = models.JSONField(default=dict)
    is_working = models.BooleanField(null=True)
    is_leaving = models.BooleanField(default=False)
    last_sync_at = models.DateTimeField(null=True)
    last_contact_at = models.DateTimeField(null=True)
    gone_since = models.DateTimeField(null=True)
    problem = models.CharField(max_length=40, blank=True, default="")
    problem_text = models.CharField(max_length=500, blank=True, default="")

    def __str__(self):
        return self.server_name or self.url

    @classmethod
    def current(cls) -> "Remote | None":
        return cls.objects.select_related("owner").first()

    @property
    def is_paired(self) -> bool:
        return bool(self.token)

    @property
    def is_shut_out(self) -> bool:
        return not self.is_paired or self.problem in SHUT_OUT

    @property
    def has_notice(self) -> bool:
        return self.problem in NOTICES

    @property
    def is_online(self) -> bool:
        """The socket is open, as far as the courier has said lately."""
        heard_at = self.last_contact_at
        return self.gone_since is None and heard_at is not None and timezone.now() - heard_at < HEARD

    @property
    def is_sealed_only(self) -> bool:
        """Without TLS: others can see that, not what, the two talk."""
        return self.url.startswith("http://")

    @classmethod
    def pair(cls, owner, *, server: dict, device: dict, **pairing) -> "Remote":
        """The pairing, in place of an earlier one; `server` and `device` as the call `pair` told them, `pairing` is
        url, token, key and ca_certificate. The outbox stays, and so does what another server had, as history. The
        mirror begins with a listing: it may be another person's device now."""
        with writing():
            remote = cls.objects.first() or cls(owner=owner)
            if remote.problem == "unknown_token" and remote.server == server["id"]:
                Mirror.set_aside(remote.server)  # it forgot the device, so it was put back to an earlier state
            fresh = {"cursor": "", "live_cursor": "", "seq": 0, "is_leaving": False, "is_working": None, "limits": {},
                     "problem": "", "problem_text": "", "last_sync_at": None, "gone_since": None}  # fmt: skip
            there = {"server": server["id"], "server_name": server["name"][:120]}
            here = {"device": device["id"], "device_name": device["name"], "last_contact_at": timezone.now()}
            for name, value in (fresh | there | here | pairing).items():
                setattr(remote, name, value)
            remote.save()
            record("remote.paired", remote.pk)
        return remote

    @classmethod
    def note(cls, device: str, is_news: bool = True, **fields) -> bool:
        """Keep what was learnt as this device; False when it was paired anew or has left since."""
        with writing():
            if not cls.objects.filter(device=device).update(**fields):
                return False
            if is_news:
                record("remote.changed", 1)
        return True

    @classmethod
    def take_numbers(cls, device: str, above: int = 0) -> range:
        """Numbers for sealing that nobody else gets; on disk before they are used."""
        with writing():
            seq = cls.objects.select_for_update().values_list("seq", flat=True).get(device=device)
            first = max(seq, above) + 1
            cls.objects.filter(device=device).update(seq=first + MOST_NUMBERS - 1)
        return range(first, first + MOST_NUMBERS)

    @classmethod
    def call(cls) -> None:
        """Ask the courier to look now, also where it was told that only pairing again helps."""
        with writing():
            cls.objects.filter(problem__in=SHUT_OUT).update(problem="", problem_text="")
            record("remote.called", 1)

    @classmethod
    def warn(cls, device: str, notice: str, text: str) -> None:
        """One of NOTICES, unless there is something worse or it is there already."""
        with writing():
            if cls.objects.filter(device=device, problem="").update(problem=notice, problem_text=text):
                record("remote.changed", 1)

    @classmethod
    def dismiss(cls) -> None:
        """A person has seen the notice."""
        with writing():
            if cls.objects.filter(problem__in=NOTICES).update(problem="", problem_text=""):
                record("remote.changed", 1)

    @classmethod
    def ask_to_leave(cls) -> None:
        """Have the courier sign this device out; the outbox and the history stay."""
        with writing():
            cls.objects.update(is_leaving=True)
            record("remote.called", 1)

    @classmethod
    def forget(cls, device: str, text: str) -> None:
        """Nobody can come in as this device any more; `text` says what became of it there."""
        cls.note(device, token="", key="", is_leaving=False, problem="left", problem_text=text, gone_since=None)


class MutationQuerySet(models.QuerySet):
    def to_send(self, server: str):
        """In the order in which they were made; what is about another server's prompts is not for this one."""
        return self.filter(is_refused=False, server__in=["", server]).order_by("order")

    def refused(self):
        return self.filter(is_refused=True)

    def without_texts(self):
        return self.defer("fields_json", "refusal_json")


class Mutation(models.Model):
    """One entry of the outbox: what the server is to do with a prompt. It stays until the server's result is there,
    and one that was refused until a person has changed or discarded it.

    `server`: whose prompt it changes; empty for a submit, which any server may get. `is_tried`: it was in a push
    once, and is never altered again.
    """

    class Kind(models.TextChoices):
        SUBMIT = "submit", "New prompt"
        EDIT = "edit", "Change"
        CANCEL = "cancel", "Cancel"
        RETRY = "retry", "Try again"
        DELETE = "delete", "Delete"

    order = models.BigAutoField(primary_key=True)
    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    kind = models.CharField(max_length=10, choices=Kind)
    # Without a constraint: a deleted prompt is gone here at once, and its deletion is still on its way.
    prompt = models.ForeignKey(
        "queue.Prompt", on_delete=models.DO_NOTHING, db_constraint=False, related_name="mutations"
    )
    server = models.CharField(max_length=64, blank=True, default="")
    is_tried = models.BooleanField(default=False)
    is_refused = models.BooleanField(default=False)
    made_at = models.DateTimeField(default=timezone.now)
    fields_json = encrypt(models.TextField(default="{}"))
    refusal_json = encrypt(models.TextField(default="{}"))

    objects = MutationQuerySet.as_manager()

    class Meta:
        ordering = ["order"]
        constraints = [
            models.UniqueConstraint(
                fields=["prompt"], condition=models.Q(kind="submit"), name="one_submit_in_the_outbox"
            )
        ]

    def __str__(self):
        return f"{self.kind} of {self.prompt_id}"

    @property
    def is_submit(self) -> bool:
        return self.kind == self.Kind.SUBMIT

    @property
    def fields(self) -> dict:
        return json.loads(self.fields_json)

    @property
    def refusal(self) -> dict:
        """The server's error: code, message and, where it names some, fields."""
        return json.loads(self.refusal_json)

    @property
    def reasons(self) -> list[str]:
        """Why it was refused, in the server's words."""
        refusal = self.refusal
        fields = [(each.get("field", ""), each.get("message", "")) for each in refusal.get("fields") or []]
        told = [f"{field}: {message}" if field else message for field, message in fields]
        return told or [refusal.get("message", "")]

    def as_json(self) -> dict:
        told = {"id": str(self.uuid), "kind": self.kind, "prompt": str(self.prompt_id)}
        return told | ({"fields": self.fields} if self.kind in {self.Kind.SUBMIT, self.Kind.EDIT} else {})

    def refuse(self, error: dict) -> None:
        """Keep it with the server's words; see Delivery."""
        self.is_refused, self.refusal_json = True, json.dumps(error)
        self.save(update_fields=["is_refused", "refusal_json"])


class Mirror(models.Model):
    """The server has this prompt: what is known of that beside the prompt itself.

    `listing` is the number of the last listing (Remote.listing) in whose time it was told of; `follows` the earlier
    prompt, which may be told of later.
    """

    prompt = models.OneToOneField("queue.Prompt", on_delete=models.CASCADE, primary_key=True, related_name="mirror")
    server = models.CharField(max_length=64)
    listing = models.PositiveIntegerField(default=0)
    follows = models.UUIDField(null=True)

    def __str__(self):
        return f"{self.prompt_id} on {self.server}"

    @staticmethod
    def earlier(server: str) -> str:
        """In place of a server's id: it had the prompt before it was put back to an earlier state."""
        return f"{server[:50]} (earlier)"

    @classmethod
    def set_aside(cls, server: str) -> None:
        """What this server had is history, until it tells of it again."""
        cls.objects.filter(server=server).update(server=cls.earlier(server))


class RemoteModel(models.Model):
    """A model that can be asked for on the server. `is_usable`: a node that has it was online."""

    key = models.CharField(max_length=300, primary_key=True)
    name = models.CharField(max_length=300)
    is_usable = models.BooleanField(default=True)

    class Meta:
        ordering = ["key"]

    def __str__(self):
        return self.name

    @classmethod
    def replace(cls, told: list[dict]) -> bool:
        """The server's models as it told them; False where nothing is new."""
        new = {row["key"]: (row["name"], bool(row["is_usable"])) for row in told}
        with writing():
            if new == {row.key: (row.name, row.is_usable) for row in cls.objects.all()}:
                return False
            cls.objects.all().delete()
            cls.objects.bulk_create(cls(key=key, name=name, is_usable=usable) for key, (name, usable) in new.items())
            record("model.listed", "server")
        return True

    @classmethod
    def keys(cls) -> list[str]:
        return list(cls.objects.values_list("key", flat=True))
