"""One encrypted row with a known content: does the key fit this database?"""

from django.db import DatabaseError, models, transaction
from django_cryptography.fields import encrypt

from daemonpulse import program
from daemonpulse.keys import KeyProblem

KNOWN = "daemonpulse"


class KeyCheck(models.Model):
    """Raises KeyProblem through `verify()` before anything is written with a key that cannot read the rest."""

    content = encrypt(models.CharField(max_length=20, default=KNOWN))

    def __str__(self):
        return "key check"

    @classmethod
    def verify(cls) -> None:
        with transaction.atomic():
            try:
                row = cls.objects.first()
                fits = row is None or row.content == KNOWN
            except DatabaseError:
                raise
            except Exception as error:  # the field's library raises several kinds for a wrong key
                raise KeyProblem(wrong_key()) from error
            if not fits:
                raise KeyProblem(wrong_key())
            if row is None:
                cls.objects.create()


def wrong_key() -> str:
    """What happened and what to do."""
    return (
        "The key does not fit this database: it was written with another one. Put back the key file that belongs "
        "to it (secret.key beside the database, or DAEMONPULSE_KEY). If a key rotation was interrupted, run "
        f"`{program.line('rotate-key', '--finish')}`. Nothing was changed."
    )
