"""The agent's own certificate: made once, and trusted by its fingerprint instead of by an authority."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from daemonpulse.certs import general_name, served, write_private
from daemonpulse.own_names import checked, own_names

CERTIFICATE, KEY = "tls.pem", "tls.key"
LIFETIME = timedelta(days=3650)  # it is pinned: a date adds nothing but an outage


@dataclass(frozen=True)
class Certificate:
    """PEM files. `fingerprint` (SHA-256, hex) is "" for one that the usual verification accepts."""

    certificate: Path
    key: Path
    fingerprint: str = ""


def own(folder: Path, host: str = "") -> Certificate:
    """The self-signed certificate kept in `folder`; made when there is none. Raises ValueError, OSError."""
    files = Certificate(folder / CERTIFICATE, folder / KEY)
    if not files.certificate.exists() or not files.key.exists():
        _make(files, host)
    return Certificate(files.certificate, files.key, fingerprint(files.certificate))


def fingerprint(certificate: Path) -> str:
    """Raises ValueError when the file holds no certificate."""
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256

    return x509.load_pem_x509_certificate(certificate.read_bytes()).fingerprint(SHA256()).hex()


def options(certificate: Certificate):
    """What Twisted serves it with. Raises ValueError with a sentence when the files are not a pair."""
    try:
        return served(certificate.certificate.read_bytes(), certificate.key.read_bytes())
    except ValueError as error:
        raise ValueError(
            f"{certificate.certificate} and {certificate.key} are no certificate and its key, as PEM files without a "
            "password."
        ) from error


def _make(files: Certificate, host: str) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "DaemonPulse agent")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName(_names(host)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_private(files.key, secret)
    write_private(files.certificate, certificate.public_bytes(pem))


def _names(host: str) -> list:
    """The names and addresses under which this machine may be asked for."""
    return [general_name(name) for name in dict.fromkeys([*own_names(), *([checked(host)] if host else [])])]
