"""Whether it is our server that answers: by the system's certificates, or by the one CA that was named."""

import hashlib
import hmac
import re
import ssl
import warnings
from urllib.parse import urlsplit

import requests
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from requests.adapters import HTTPAdapter

CA_PATH = "/ca/daemonpulse-ca.crt"
SECONDS = (5, 10)
MAX_CERTIFICATE = 64 * 1024

WRONG_CERTIFICATE = (
    "The server's certificate is not one that this client trusts, so nothing was sent. If the server has a certificate "
    "of its own, pair with --ca FILE or --fingerprint HEX (its page /ca/ has both). If it worked until now, either the "
    "server got a new CA, or something else answers at its address."
)
OTHER_FINGERPRINT = (
    "The CA at {url} has the fingerprint {found}, not the one that was given. Compare it with what `daemonpulse certs` "
    "says on the server; if they differ, something stands in between. Nothing was sent."
)


class NotTrusted(Exception):
    """Somebody else may be at the other end; the message says what to do."""


def context(ca_certificate: str = "") -> ssl.SSLContext:
    """For a named CA (PEM) one that trusts nothing else."""
    if not ca_certificate:
        return ssl.create_default_context()
    return ssl.create_default_context(cadata=ca_certificate)


class TrustingAdapter(HTTPAdapter):
    """Connections of one TLS context; as it comes `requests` adds its own list of authorities."""

    def __init__(self, tls: ssl.SSLContext):
        self.tls = tls
        super().__init__(pool_maxsize=2)

    def init_poolmanager(self, *args, **kwargs):
        return super().init_poolmanager(*args, ssl_context=self.tls, **kwargs)

    def cert_verify(self, conn, url, verify, cert):
        conn.cert_reqs = "CERT_REQUIRED"

    def build_connection_pool_key_attributes(self, request, verify, cert=None):
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, {}


def session(ca_certificate: str = "") -> requests.Session:
    """For calls to one server. It looks at no environment: a .netrc would replace the token."""
    made = requests.Session()
    made.trust_env = False
    made.mount("https://", TrustingAdapter(context(ca_certificate)))
    return made


def read_ca(data: bytes) -> str:
    """A certificate's PEM from a file or an answer in PEM or DER. Raises ValueError when it is none."""
    load = x509.load_pem_x509_certificate if b"-----BEGIN" in data else x509.load_der_x509_certificate
    return load(data).public_bytes(Encoding.PEM).decode()


def fingerprint(pem: str) -> str:
    """SHA-256 of the certificate, in lower-case hex."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


def fetch_ca(url: str, wanted: str) -> str:
    """The CA that the server at this origin hands out, when it has this fingerprint (hex, colons and spaces or not).

    Raises NotTrusted, or requests' exceptions. What comes before the check is a public file, asked for without trust.
    """
    made = requests.Session()
    made.trust_env = False
    made.verify = False  # the fingerprint is the check
    with warnings.catch_warnings(action="ignore"), made.get(
        f"{url}{CA_PATH}", timeout=SECONDS, stream=True, allow_redirects=False
    ) as answer:  # fmt: skip
        body = answer.raw.read(MAX_CERTIFICATE)
    try:
        pem = read_ca(body)
    except ValueError as error:
        raise NotTrusted(
            f"The server hands out no CA certificate at {CA_PATH}. Pair with --ca FILE instead."
        ) from error
    found = fingerprint(pem)
    if not hmac.compare_digest(found, re.sub(r"[\s:]", "", wanted).lower()):
        raise NotTrusted(OTHER_FINGERPRINT.format(url=url, found=found))
    return pem


def origin(url: str) -> str:
    """Scheme, host and port of an address that somebody typed. Raises ValueError when it is none."""
    wrong = ValueError(f"“{url}” is no server's address. It looks like https://box.local:8643.")
    try:
        parts = urlsplit(url.strip() if "://" in url else f"https://{url.strip()}")
        port = parts.port
    except ValueError as error:
        raise wrong from error
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username:
        raise wrong
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}"
