"""Who may come in: people, one-time sign-in links and API tokens."""

import hashlib
import secrets
from datetime import timedelta

from django.contrib.auth.models import AbstractUser
from django.db import models
from django.utils import timezone

LINK_LIFETIME = timedelta(hours=1)
TOUCH_INTERVAL = timedelta(minutes=1)


def hashed(secret: str) -> str:
    """Only this is stored. The secrets are random 256 bit, so a plain hash cannot be guessed back."""
    return hashlib.sha256(secret.encode()).hexdigest()


class User(AbstractUser):
    """A person. Of their own class so that later fields need no swap of the user model."""


class SignInLink(models.Model):
    """A link that signs its user in once, within an hour."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="sign_in_links")
    secret_hash = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True, blank=True)

    def __str__(self):
        return f"sign-in link for {self.user}"

    @classmethod
    def issue(cls, user: User) -> str:
        """Make a link for `user`; returns its secret, which is stored nowhere."""
        secret = secrets.token_urlsafe(32)
        cls.objects.create(user=user, secret_hash=hashed(secret), expires_at=timezone.now() + LINK_LIFETIME)
        return secret

    @classmethod
    def redeem(cls, secret: str) -> User | None:
        """The user whose link this is, once; None when it is unknown, expired or used."""
        now = timezone.now()
        links = cls.objects.filter(secret_hash=hashed(secret), used_at=None, expires_at__gt=now, user__is_active=True)
        if not links.update(used_at=now):
            return None
        return cls.objects.get(secret_hash=hashed(secret)).user


class Scope(models.TextChoices):
    READ = "read", "Read prompts and models"
    WRITE = "write", "Queue, cancel, retry and delete prompts"
    OPERATE = "operate", "Load, unload and download models"


class ApiTokenQuerySet(models.QuerySet):
    def usable(self):
        now = timezone.now()
        return self.filter(revoked_at=None, user__is_active=True).exclude(expires_at__lte=now)


class ApiToken(models.Model):
    """A script's key to the JSON API: acts as its user, within its scopes, until revoked."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="api_tokens")
    name = models.CharField(max_length=80)
    secret_hash = models.CharField(max_length=64, unique=True)
    hint = models.CharField(max_length=8)  # the last characters, so that people can tell tokens apart
    scopes = models.JSONField(default=list)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    objects = ApiTokenQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]

    def __str__(self):
        return f"{self.name} (…{self.hint})"

    @property
    def is_usable(self) -> bool:
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > timezone.now())

    @property
    def scope_labels(self) -> list[str]:
        return [Scope(scope).label for scope in self.scopes]

    @classmethod
    def issue(
        cls, user: User, name: str, scopes: list[str], lifetime: timedelta | None = None
    ) -> tuple["ApiToken", str]:
        """Make a token; returns the row and the secret, which is shown once and stored nowhere."""
        secret = "dp_" + secrets.token_urlsafe(32)
        expires_at = timezone.now() + lifetime if lifetime else None
        row = cls.objects.create(
            user=user, name=name, scopes=scopes, secret_hash=hashed(secret), hint=secret[-4:], expires_at=expires_at
        )
        return row, secret

    @classmethod
    def find(cls, secret: str) -> "ApiToken | None":
        """The usable token with this secret. Notes its use, at most once a minute."""
        found = cls.objects.usable().select_related("user").filter(secret_hash=hashed(secret))
        token = found.only("scopes", "last_used_at", "user__username", "user__is_active", "user__is_superuser").first()
        now = timezone.now()
        if token and (token.last_used_at is None or now - token.last_used_at > TOUCH_INTERVAL):
            cls.objects.filter(pk=token.pk).update(last_used_at=now)
        return token

    def revoke(self) -> None:
        """Stop it for good; revoking twice changes nothing."""
        ApiToken.objects.filter(pk=self.pk, revoked_at=None).update(revoked_at=timezone.now())
