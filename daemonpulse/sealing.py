"""Bodies that only a device and this server can read: compact JWE (RFC 7516), `dir` with `A256GCM`, by joserfc.

What the fields of a header mean is docs/sync.md's affair; here a header and a body go in, and come out as they were.
"""

import base64
import hashlib
import json

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

KEY_BYTES = 32
POINT_BYTES = 65  # an uncompressed point of P-256
CONTENT_TYPE = "application/jose"
PURPOSE = b"daemonpulse sync 1"
ALGORITHMS = ["dir", "A256GCM"]
REQUIRED = {"alg": "dir", "enc": "A256GCM"}
FIELDS = {"alg", "enc", "kid", "seq", "use", "re", "status", "n"}  # no "zip": what opens must not grow


class CannotOpen(Exception):
    """It was sealed with another key, altered on its way, or never sealed at all."""


class _Registry(jwe.JWERegistry):
    max_ciphertext_length = 64 * 1024 * 1024  # as it comes it seals what it would not open (over 48 kB)


REGISTRY = _Registry(algorithms=ALGORITHMS, strict_check_header=False)


def seal(key: bytes, header: dict, body: bytes) -> str:
    """The body, sealed; everybody can read the header, nobody can alter it."""
    return jwe.encrypt_compact(REQUIRED | header, body, OctKey.import_key(key), registry=REGISTRY)


def header_of(sealed: str) -> dict:
    """The header as it claims to be, not checked: whose key opens it? Raises CannotOpen when it is none."""
    try:
        segment = sealed.partition(".")[0]
        header = json.loads(base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))
    except (ValueError, RecursionError) as error:
        raise CannotOpen("not sealed at all") from error
    if not isinstance(header, dict):
        raise CannotOpen("not sealed at all")
    return header


def open_sealed(key: bytes, sealed: str) -> tuple[dict, bytes]:
    """(header, body). Raises CannotOpen."""
    header = header_of(sealed)
    if not (REQUIRED.items() <= header.items() and header.keys() <= FIELDS):
        raise CannotOpen("sealed in another way")
    try:
        opened = jwe.decrypt_compact(sealed, OctKey.import_key(key), registry=REGISTRY)
    except (JoseError, ValueError, TypeError, RecursionError) as error:
        raise CannotOpen("sealed with another key, or altered") from error
    return dict(opened.headers()), opened.plaintext


class Agreement:
    """One side of the agreement on a key: send `point`, then derive the key from the other side's."""

    def __init__(self):
        self._private = ec.generate_private_key(ec.SECP256R1())
        self.point: bytes = self._private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def key(self, other: bytes, *, is_server: bool) -> bytes:
        """The device's key. Raises ValueError when `other` is no point of the curve."""
        public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), other)
        shared = self._private.exchange(ec.ECDH(), public)
        client, server = (other, self.point) if is_server else (self.point, other)
        salt = hashlib.sha256(client + server).digest()
        return HKDF(hashes.SHA256(), KEY_BYTES, salt, PURPOSE).derive(shared)


def to_text(raw: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def from_text(text: str) -> bytes:
    """Raises ValueError when it is none."""
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
