"""Re-encrypt everything with a new key."""

from pathlib import Path

from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from django.apps import apps
from django.conf import settings
from django.db import connection, models, transaction
from django_cryptography.conf import CryptographyConf
from django_cryptography.core.signing import FernetSigner
from django_cryptography.fields import EncryptedMixin
from django_cryptography.utils.crypto import FernetBytes

from daemonpulse import keys

BATCH = 500
NEXT_FILE_NAME = "secret.key.next"


def next_path(data_dir: Path) -> Path:
    return data_dir / NEXT_FILE_NAME


def cipher(key: str) -> FernetBytes:
    """What the encrypted fields use in an installation with this key (see settings.py and the fields' library)."""
    conf = CryptographyConf()
    kdf = PBKDF2HMAC(conf.CRYPTOGRAPHY_DIGEST, conf.CRYPTOGRAPHY_DIGEST.digest_size, conf.CRYPTOGRAPHY_SALT, 30_000)
    return FernetBytes(kdf.derive(keys.derive(key, "rows").encode()), FernetSigner(keys.derive(key, "django")))


def encrypted_fields() -> list[tuple[type[models.Model], list[models.Field]]]:
    found = []
    for model in apps.get_models():
        fields = [field for field in model._meta.local_concrete_fields if isinstance(field, EncryptedMixin)]
        if fields:
            found.append((model, fields))
    return found


def rotate(new_key: str) -> int:
    """Re-encrypt every encrypted value in one transaction; returns how many. All other processes must be stopped.

    The new key is on disk before the first value is written with it, and takes its place after the commit, so
    whatever is interrupted, one of the two files fits (see finish_interrupted).
    """
    keys.write(settings.DATA_DIR, new_key, NEXT_FILE_NAME)
    old, new = cipher(settings.KEY), cipher(new_key)
    with transaction.atomic():
        count = sum(_rotate_column(model, field, old, new) for model, fields in encrypted_fields() for field in fields)
    _take_next()
    forget_old_pages()
    return count


def _rotate_column(model, field, old: FernetBytes, new: FernetBytes) -> int:
    quote = connection.ops.quote_name
    table, column, pk = quote(model._meta.db_table), quote(field.column), quote(model._meta.pk.column)
    last, count = None, 0
    with connection.cursor() as cursor:
        while True:
            after, values = (f"WHERE {pk} > %s", [last]) if last is not None else ("", [])
            cursor.execute(f"SELECT {pk}, {column} FROM {table} {after} ORDER BY {pk} LIMIT {BATCH}", values)  # noqa: S608
            rows = cursor.fetchall()
            if not rows:
                return count
            changed = [(new.encrypt(old.decrypt(bytes(value))), row) for row, value in rows if value is not None]
            cursor.executemany(f"UPDATE {table} SET {column} = %s WHERE {pk} = %s", changed)  # noqa: S608
            last, count = rows[-1][0], count + len(changed)


def _take_next() -> None:
    next_path(settings.DATA_DIR).replace(keys.path(settings.DATA_DIR))


def finish_interrupted() -> bool:
    """After a rotation that was cut off: put the new key in place if the database was written with it."""
    new_key = next_path(settings.DATA_DIR).read_text().strip()
    from daemonpulse.models import KeyCheck

    with connection.cursor() as cursor:
        cursor.execute(f"SELECT content FROM {connection.ops.quote_name(KeyCheck._meta.db_table)}")  # noqa: S608
        (content,) = cursor.fetchone()
    try:
        cipher(new_key).decrypt(bytes(content))
    except Exception:  # the library raises several kinds for a wrong key
        next_path(settings.DATA_DIR).unlink()
        return False
    _take_next()
    return True


def forget_old_pages() -> None:
    """Leave nothing on disk that the old key reads."""
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("VACUUM")
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
