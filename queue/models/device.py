"""Paired devices: who they are, how they show it, when they were heard of, and what they had done."""

import itertools
import re
import secrets
import uuid
from datetime import timedelta

from django.conf import settings
from django.db import models
from django.utils import timezone
from django_cryptography.fields import encrypt

from daemonpulse.models.access import hashed
from daemonpulse.models.event import record, writing

SILENT = timedelta(seconds=28)  # not heard of for so long: away (a ping every 20 s, and 8 s for its answer)
UNSEEN = timedelta(days=365)  # then it has to be paired again
CODE_LIFETIME = timedelta(minutes=5)
CODE_LENGTH = 8
MAX_NAME = 80  # characters
NUMBER = re.compile(r" \d+$")
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32: no I, L, O, U
SAME = str.maketrans("ILO", "110")  # what people read or type instead
WINDOW = 63  # bits: the highest number and the 62 below it, which may still come when requests overtake each other
KEEP_RECEIPTS = timedelta(days=90)


class DeviceQuerySet(models.QuerySet):
    def of(self, user):
        return self.filter(owner=user)

    def paired(self):
        return self.filter(revoked_at=None)

    def usable(self):
        heard_since = timezone.now() - UNSEEN
        return (
            self.paired()
            .filter(owner__is_active=True)
            .filter(models.Q(last_heard_at__gt=heard_since) | models.Q(last_heard_at=None, paired_at__gt=heard_since))
        )

    def online(self):
        return self.paired().filter(is_connected=True, last_heard_at__gt=timezone.now() - SILENT)


class Device(models.Model):
    """A client that was paired: acts as its owner, with that person's prompts only, until it is revoked.

    `key`: base64url, of a device that paired sealed, else empty. `seen_seq` is the highest number it has sealed with,
    `seen_mask` has bit n set when seen_seq - n was seen. `pending`: what it said it still has to send.
    """

    class Kind(models.TextChoices):
        PHONE = "phone", "Phone"
        DESKTOP = "desktop", "Computer"
        BROWSER = "browser", "Browser"
        SCRIPT = "script", "Script"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="devices")
    name = models.CharField(max_length=MAX_NAME)
    kind = models.CharField(max_length=20, choices=Kind)
    app = models.CharField(max_length=40, blank=True, default="")
    token_hash = models.CharField(max_length=64, unique=True, editable=False)
    key = encrypt(models.CharField(max_length=60, blank=True, default="", editable=False))
    seen_seq = models.BigIntegerField(default=0, editable=False)
    seen_mask = models.BigIntegerField(default=0, editable=False)
    pending = models.PositiveIntegerField(default=0, editable=False)
    paired_at = models.DateTimeField(auto_now_add=True)
    last_heard_at = models.DateTimeField(null=True, editable=False)
    is_connected = models.BooleanField(default=False, editable=False)
    revoked_at = models.DateTimeField(null=True, editable=False)

    objects = DeviceQuerySet.as_manager()

    class Meta:
        ordering = ["name", "paired_at"]

    def __str__(self):
        return self.name

    @property
    def dom_id(self) -> str:
        return f"device-{self.pk}"

    @property
    def is_sealed(self) -> bool:
        return bool(self.key)

    @property
    def is_online(self) -> bool:
        heard_at = self.last_heard_at
        return self.is_connected and heard_at is not None and timezone.now() - heard_at < SILENT

    @classmethod
    def pair(cls, code: "PairingCode", *, key: str = "", **fields) -> tuple["Device", str]:
        """A new device of the code's owner; returns it and its token, which is stored nowhere.

        Its name gets a number where another paired device of that person has it: which of them is here again under a
        new pairing, only the person knows.
        """
        token = "dpd_" + secrets.token_urlsafe(32)
        with writing():
            fields["name"] = cls._free_name(code.owner, fields["name"])
            device = cls.objects.create(owner=code.owner, token_hash=hashed(token), key=key, **fields)
            record("device.paired", device.pk, owner_id=device.owner_id)
        return device, token

    @classmethod
    def _free_name(cls, owner, name: str) -> str:
        taken = set(cls.objects.of(owner).paired().values_list("name", flat=True))
        if name not in taken:
            return name
        ends = (f" {number}" for number in itertools.count(2))
        return next(option for end in ends if (option := name[: MAX_NAME - len(end)] + end) not in taken)

    def namesakes(self):
        """This person's other paired devices of the kind whose names are as this one's but for a number at the end."""
        base = NUMBER.sub("", self.name)
        others = type(self).objects.of(self.owner_id).paired().filter(kind=self.kind, name__startswith=base)
        return [other for other in others.exclude(pk=self.pk) if NUMBER.sub("", other.name) == base]

    @classmethod
    def find(cls, token: str) -> "Device | None":
        """The device with this token, revoked or not."""
        return cls.objects.select_related("owner").filter(token_hash=hashed(token)).first()

    @property
    def is_usable(self) -> bool:
        return type(self).objects.usable().filter(pk=self.pk).exists()

    def rename(self, name: str) -> None:
        with writing():
            type(self).objects.filter(pk=self.pk).update(name=name)
            record("device.changed", self.pk, owner_id=self.owner_id)
        self.name = name

    def revoke(self) -> bool:
        """Shut it out for good and forget its key; the sockets hear the event and close. False when it was already."""
        now = timezone.now()
        with writing():
            paired = type(self).objects.paired().filter(pk=self.pk)
            if not paired.update(revoked_at=now, is_connected=False, key="", pending=0):
                return False
            record("device.revoked", self.pk, owner_id=self.owner_id)
        self.revoked_at = now
        return True

    def accept(self, seq: int) -> bool:
        """Note that this number was used; False when it was before, or is too far behind (see docs/sync.md)."""
        with writing():
            row = type(self).objects.select_for_update().only("seen_seq", "seen_mask").get(pk=self.pk)
            ahead = seq - row.seen_seq
            if ahead > 0:
                mask = ((row.seen_mask << ahead) | 1) if ahead <= WINDOW else 1
            elif -ahead >= WINDOW or row.seen_mask >> -ahead & 1:
                self.seen_seq = row.seen_seq
                return False
            else:
                mask = row.seen_mask | 1 << -ahead
            self.seen_seq, self.seen_mask = max(seq, row.seen_seq), mask & (1 << WINDOW) - 1
            type(self).objects.filter(pk=self.pk).update(seen_seq=self.seen_seq, seen_mask=self.seen_mask)
        return True

    def heard(self, pending: int | None = None, is_connected: bool = False) -> None:
        """It said something; where its socket is open it is online from now on."""
        fields = {"last_heard_at": timezone.now()} | ({} if pending is None else {"pending": pending})
        fields |= {"is_connected": True} if is_connected else {}
        with writing():
            paired = type(self).objects.paired().filter(pk=self.pk)
            before = paired.values("is_connected", "pending").first()
            paired.update(**fields)
            if before and is_connected and not before["is_connected"]:
                record("device.online", self.pk, owner_id=self.owner_id)
            elif before and pending not in {None, before["pending"]}:
                record("device.changed", self.pk, owner_id=self.owner_id)
        for name, value in fields.items():
            setattr(self, name, value)

    def gone(self) -> None:
        """Its socket is closed."""
        self._away(type(self).objects.filter(pk=self.pk, is_connected=True))

    @classmethod
    def note_silent(cls) -> None:
        """Sockets that were not closed but are silent: the phone is out of reach, or its server process was killed."""
        cls._away(cls.objects.filter(is_connected=True, last_heard_at__lt=timezone.now() - SILENT))

    @classmethod
    def _away(cls, devices) -> None:
        if not devices.exists():
            return
        with writing():
            away = list(devices.select_for_update().only("pk", "owner"))
            cls.objects.filter(pk__in=[device.pk for device in away]).update(is_connected=False)
            for device in away:
                record("device.offline", device.pk, owner_id=device.owner_id)


class PairingCode(models.Model):
    """Eight characters that pair one device, within five minutes."""

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    code_hash = models.CharField(max_length=64, unique=True)
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True)

    def __str__(self):
        return f"pairing code of {self.owner}"

    @classmethod
    def issue(cls, owner) -> tuple["PairingCode", str]:
        """A new code, in place of those that this person has not used; returns it and its text, stored nowhere."""
        text = "".join(secrets.choice(ALPHABET) for _ in range(CODE_LENGTH))
        cls.objects.filter(owner=owner, used_at=None).delete()
        return cls.objects.create(owner=owner, code_hash=hashed(text), expires_at=timezone.now() + CODE_LIFETIME), text

    @classmethod
    def redeem(cls, text: str) -> "PairingCode | None":
        """The code, once; None when it is unknown, used or too old."""
        now, code_hash = timezone.now(), hashed(normalised(text))
        codes = cls.objects.filter(code_hash=code_hash, used_at=None, expires_at__gt=now, owner__is_active=True)
        code = codes.select_related("owner").first()
        # Without a join: of a joined row PostgreSQL does not look again after it has waited for its lock.
        if code is None or not cls.objects.filter(pk=code.pk, used_at=None).update(used_at=now):
            return None
        return code


def normalised(text: str) -> str:
    """As it was shown, however it was typed."""
    return re.sub(r"[\s\-]", "", text).upper().translate(SAME)


class Receipt(models.Model):
    """What became of a mutation; a repeat of it gets the same."""

    device = models.ForeignKey(Device, on_delete=models.CASCADE, related_name="receipts")
    mutation_id = models.UUIDField()
    result = models.JSONField()
    at = models.DateTimeField(default=timezone.now, db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["device", "mutation_id"], name="one_receipt_per_mutation")]

    def __str__(self):
        return f"receipt for {self.mutation_id}"

    @classmethod
    def forget_old(cls) -> None:
        cls.objects.filter(at__lt=timezone.now() - KEEP_RECEIPTS).delete()
