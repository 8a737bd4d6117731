"""Whether what answers is the agent: by its certificate's fingerprint where the key names one, else as usual."""

import hashlib
import hmac
import ssl

from fleet.daemons.errors import DaemonError, Reason

WRONG_CERTIFICATE = (
    "Its certificate is not the one that the agent's key names. Either the agent made a new one (`daemonpulse agent "
    "key` on that machine prints the new key), or something else answers at this address."
)
UNTRUSTED = "Its certificate is not one that this machine trusts."
NO_TLS = "What answers there does not speak TLS as an agent does. Does its address begin with http://?"


def context(fingerprint: str) -> ssl.SSLContext:
    """For a pinned certificate one that knows no authority: loading them all takes 40 ms each time."""
    if not fingerprint:
        return ssl.create_default_context()
    pinned = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    pinned.minimum_version = ssl.TLSVersion.TLSv1_2
    pinned.check_hostname, pinned.verify_mode = False, ssl.CERT_NONE  # check() is the verification
    return pinned


def check(secured: ssl.SSLSocket, fingerprint: str) -> None:
    """Raises DaemonError when the certificate is another one; nothing was sent until then."""
    found = hashlib.sha256(secured.getpeercert(binary_form=True) or b"").hexdigest()
    if fingerprint and not hmac.compare_digest(found, fingerprint):
        raise wrong_certificate()


def wrong_certificate() -> DaemonError:
    return DaemonError(Reason.NOT_UNDERSTOOD, WRONG_CERTIFICATE)


def tls_problem(error: Exception) -> DaemonError:
    """What a failed handshake means."""
    is_untrusted = "CERTIFICATE_VERIFY_FAILED" in repr(error) or "CertificateError" in repr(error)
    return DaemonError(Reason.NOT_UNDERSTOOD, UNTRUSTED if is_untrusted else NO_TLS)
