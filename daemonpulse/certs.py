"""This installation's own certificate authority, and the server's certificate that it signs.

Service workers and WebCrypto, and with them a phone's offline use, exist in secure contexts only. So a device that
asks over the network needs a certificate that it trusts: the person tells it once to trust this authority.

    tls/ca.key       the authority's key; whoever has it can pose as any site to a device that trusts the authority
    tls/ca.crt       its certificate, for everybody
    tls/server.pem   the server's key and certificate and the authority's, in one file: replaced in one step
    tls/names        what `--name` added, one a line

Imports no Django.
"""

import ipaddress
import os
import socket
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from daemonpulse import paths
from daemonpulse.own_names import checked, own_names

CA_LIFETIME = timedelta(days=3652)
LIFETIME = timedelta(days=397)  # browsers refuse a server's certificate that lives longer than 398
RENEW_BEFORE = timedelta(days=30)
BACKDATED = timedelta(days=1)  # a device's clock may be behind ours
PEM = serialization.Encoding.PEM
MAX_COMMON_NAME = 64  # characters (RFC 5280, appendix A)


class CertificateProblem(Exception):
    """What is wrong with the files and what to do about it, in one message."""


@dataclass(frozen=True)
class Certificates:
    """What is there after `ensure`: the server's certificate is for `names` and good `until`."""

    names: tuple[str, ...]
    until: datetime
    is_new_authority: bool = False
    is_new: bool = False


@dataclass(frozen=True)
class Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def folder() -> Path:
    return paths.data_dir() / "tls"


def ca_path() -> Path:
    """The authority's certificate (PEM); there is no such file before the first `ensure`."""
    return folder() / "ca.crt"


def ca_key_path() -> Path:
    return folder() / "ca.key"


def server_path() -> Path:
    return folder() / "server.pem"


def fingerprint() -> str | None:
    """SHA-256 of the authority's certificate, 64 lower-case hexadecimal digits; None where there is none."""
    try:
        return x509.load_pem_x509_certificate(ca_path().read_bytes()).fingerprint(hashes.SHA256()).hex()
    except (OSError, ValueError):
        return None


def grouped(digits: str) -> str:
    """A fingerprint as people compare it: groups of four."""
    return " ".join(digits[start : start + 4].upper() for start in range(0, len(digits), 4))


def remembered() -> list[str]:
    """The names that `ensure` was given so far."""
    try:
        return (folder() / "names").read_text().split()
    except FileNotFoundError:
        return []


def ensure(more_names: list[str] | None = None, *, renew: bool = False) -> Certificates:
    """Make or renew what is due, and say what is there. Raises CertificateProblem, and ValueError for a bad name.

    1. The authority is kept; where there is none, one is made. 2. The names are the machine's own, those that are
    remembered, and `more_names`, which are remembered from now on. 3. The server's certificate is kept unless it lacks
    a name, its end is near, it is not of this authority, or `renew` wants another.
    """
    more = [checked(name) for name in more_names or []]
    try:
        is_new_authority = not ca_path().exists()
        authority = _make_authority() if is_new_authority else _load_authority()  # 1
        own = own_names()  # 2
        extra = list(dict.fromkeys([*remembered(), *(name for name in more if name not in own)]))
        if extra != remembered():
            write_private(folder() / "names", "".join(f"{name}\n" for name in extra).encode())
        wanted = list(dict.fromkeys([*own, *extra]))
        current = _current(authority)  # 3
        if current is not None and not renew and not is_due(current) and set(wanted) <= set(_names_of(current)):
            return Certificates(_names_of(current), current.not_valid_after_utc)
        made = _make_certificate(authority, wanted)
    except OSError as error:
        raise CertificateProblem(
            f"{error.filename or folder()} cannot be used ({error.strerror}). Give the folder {folder()} and what is "
            "in it to the user that runs DaemonPulse."
        ) from error
    return Certificates(_names_of(made), made.not_valid_after_utc, is_new_authority, is_new=True)


def is_due(certificate: x509.Certificate) -> bool:
    return certificate.not_valid_after_utc - datetime.now(UTC) < RENEW_BEFORE


def _load_authority() -> Authority:
    try:
        certificate = x509.load_pem_x509_certificate(ca_path().read_bytes())
        key = serialization.load_pem_private_key(ca_key_path().read_bytes(), password=None)
        if key.public_key() != certificate.public_key():
            raise ValueError("not a pair")
    except (FileNotFoundError, ValueError, TypeError) as error:  # TypeError: the key has a password
        raise CertificateProblem(
            f"{ca_key_path()} is not the key of the certificate authority {ca_path()}: it is missing, broken or "
            f"another one. Put it back from a backup. Or remove the folder {folder()}: a new authority is made then, "
            "and every device has to trust it anew."
        ) from error
    if certificate.not_valid_after_utc < datetime.now(UTC):
        raise CertificateProblem(
            f"The certificate authority {ca_path()} ended on {certificate.not_valid_after_utc:%Y-%m-%d}. Remove the "
            f"folder {folder()}: a new one is made then, and every device has to trust it anew."
        )
    return Authority(certificate, key)


def _make_authority() -> Authority:
    name = _common_name(f"DaemonPulse {socket.gethostname()}"[:MAX_COMMON_NAME])
    key = ec.generate_private_key(ec.SECP256R1())
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        _builder(name, name, key, CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    # The key first: an authority that nobody could have seen yet is made again when this is cut short.
    write_private(ca_key_path(), _key_pem(key))
    write_private(ca_path(), certificate.public_bytes(PEM))
    return Authority(certificate, key)


def _make_certificate(authority: Authority, names: list[str]) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = authority.certificate
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    certificate = (
        _builder(_common_name("DaemonPulse server"), issuer.subject, key, LIFETIME, issuer.not_valid_after_utc)
        .add_extension(x509.SubjectAlternativeName(list(map(general_name, names))), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    write_private(server_path(), _key_pem(key) + certificate.public_bytes(PEM) + issuer.public_bytes(PEM))
    return certificate


def _current(authority: Authority) -> x509.Certificate | None:
    """The server's certificate; None where there is none that this authority signed and whose key is there."""
    try:
        pem = server_path().read_bytes()
        certificate = x509.load_pem_x509_certificates(pem)[0]
        certificate.verify_directly_issued_by(authority.certificate)
        key = serialization.load_pem_private_key(pem, password=None)
        return certificate if key.public_key() == certificate.public_key() else None
    except (FileNotFoundError, ValueError, TypeError, InvalidSignature):
        return None


def _builder(name: x509.Name, issuer: x509.Name, key, lifetime: timedelta, end: datetime = datetime.max):
    begin = datetime.now(UTC) - BACKDATED
    end = min(begin + lifetime, end.replace(tzinfo=UTC))
    return x509.CertificateBuilder(issuer, name, key.public_key(), x509.random_serial_number(), begin, end)


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _key_usage(**uses: bool) -> x509.KeyUsage:
    every = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**(dict.fromkeys(every, False) | uses))


def general_name(name: str) -> x509.GeneralName:
    """A name that `checked` returned, as a certificate has it."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return tuple(str(name.value) for name in names)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def served(certificate_pem: bytes, key_pem: bytes):
    """What Twisted serves TLS with: a certificate, what follows it as its chain, and its key.

    Raises ValueError when they are not that, or not a pair.
    """
    from OpenSSL import SSL
    from twisted.internet.ssl import CertificateOptions

    try:
        certificate, *chain = x509.load_pem_x509_certificates(certificate_pem)
        key = serialization.load_pem_private_key(key_pem, password=None)
        options = CertificateOptions(privateKey=key, certificate=certificate, extraCertChain=chain)
        options.getContext().check_privatekey()
    except (SSL.Error, TypeError) as error:  # TypeError: the key has a password
        raise ValueError("not a certificate and its key, as PEM without a password") from error
    return options


def write_private(file: Path, content: bytes) -> None:
    """Put a file in place in one step, readable by its owner alone."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = file.with_name(f"{file.name}.{os.getpid()}.draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as output:
        output.write(content)
        output.flush()
        os.fsync(output.fileno())
    draft.replace(file)
