"""The certificate authority and the server's certificate: what they are for, when they are renewed, who may read."""

import hashlib
import ssl
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from django.core.management import CommandError, call_command
from hypothesis import given, settings
from hypothesis import strategies as st

from daemonpulse import certs, own_names, supervisor
from daemonpulse.own_names import checked


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A machine called Box with two addresses."""
    monkeypatch.setenv("DAEMONPULSE_DATA_DIR", str(tmp_path))
    monkeypatch.setattr("socket.gethostname", lambda: "Box.lan.example")
    monkeypatch.setattr(own_names, "own_addresses", lambda: ["192.0.2.7", "2001:db8::7"])
    return tmp_path


def served() -> x509.Certificate:
    return x509.load_pem_x509_certificates(certs.server_path().read_bytes())[0]


def extension(certificate, kind):
    return certificate.extensions.get_extension_for_class(kind)


def test_it_names_the_machine_in_every_way():
    made = certs.ensure(["Phone-Name.example", "[2001:db8:0::9]"])
    names = extension(served(), x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [
        "localhost",
        "box.lan.example",
        "box.local",
        "phone-name.example",
    ]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == [
        "127.0.0.1", "::1", "192.0.2.7", "2001:db8::7", "2001:db8::9",
    ]  # fmt: skip
    assert set(made.names) == {str(name.value) for name in names}


def test_it_makes_an_authority_that_signs_servers_only():
    certs.ensure()
    authority = x509.load_pem_x509_certificate(certs.ca_path().read_bytes())
    assert authority.subject.rfc4514_string() == "CN=DaemonPulse Box.lan.example"
    limits = extension(authority, x509.BasicConstraints)
    assert (limits.critical, limits.value.ca, limits.value.path_length) == (True, True, 0)
    assert isinstance(authority.public_key().curve, ec.SECP256R1)
    assert timedelta(days=3650) < authority.not_valid_after_utc - datetime.now(UTC) < timedelta(days=3653)
    leaf = served()
    leaf.verify_directly_issued_by(authority)
    assert not extension(leaf, x509.BasicConstraints).value.ca
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc <= timedelta(days=397)


def test_it_tells_the_fingerprint_of_the_authority():
    assert certs.fingerprint() is None
    certs.ensure()
    der = ssl.PEM_cert_to_DER_cert(certs.ca_path().read_text())
    assert certs.fingerprint() == hashlib.sha256(der).hexdigest()
    assert certs.grouped("00ff1234ab") == "00FF 1234 AB"


def test_it_keeps_its_files_to_its_user(home):
    certs.ensure(["box.example"])
    assert certs.folder().stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in certs.folder().iterdir()} == dict.fromkeys(
        ["ca.key", "ca.crt", "server.pem", "names"], 0o600
    )
    secret = certs.ca_key_path().read_text().splitlines()[1]
    assert all(secret not in path.read_text() for path in certs.folder().iterdir() if path != certs.ca_key_path())


def test_it_changes_nothing_when_nothing_is_due():
    first = certs.ensure(["box.example"])
    before = {path: path.read_bytes() for path in certs.folder().iterdir()}
    again = certs.ensure()
    assert {path: path.read_bytes() for path in certs.folder().iterdir()} == before
    assert (first.is_new_authority, first.is_new, again.is_new_authority, again.is_new) == (True, True, False, False)
    assert (again.names, again.until) == (first.names, first.until)


def lose_an_address(monkeypatch):
    monkeypatch.setattr(own_names, "own_addresses", lambda: ["192.0.2.7"])


def get_an_address(monkeypatch):
    monkeypatch.setattr(own_names, "own_addresses", lambda: ["192.0.2.8"])


def break_the_file(monkeypatch):
    certs.server_path().write_text("nothing")


def come_from_another_authority(monkeypatch):
    mine = certs.server_path().read_bytes()
    certs.ca_path().unlink()
    certs.ensure()
    certs.server_path().write_bytes(mine)


@pytest.mark.parametrize(
    ("happens", "is_renewed"),
    [(lose_an_address, False), (get_an_address, True), (break_the_file, True), (come_from_another_authority, True)],
)
def test_it_renews_the_certificate_when_it_no_longer_fits(happens, is_renewed, monkeypatch):
    certs.ensure()
    happens(monkeypatch)
    authority = certs.ca_path().read_bytes()
    assert certs.ensure().is_new is is_renewed
    assert certs.ca_path().read_bytes() == authority
    assert not certs.ensure().is_new


@pytest.mark.parametrize(("days", "is_renewed"), [(30, True), (32, False)])
def test_it_renews_the_certificate_a_month_before_its_end(days, is_renewed, monkeypatch):
    with monkeypatch.context() as short:
        short.setattr(certs, "LIFETIME", timedelta(days=days) + certs.BACKDATED)
        certs.ensure()
    made = certs.ensure()
    assert made.is_new is is_renewed
    assert (made.until - datetime.now(UTC) > timedelta(days=390)) is is_renewed


def test_it_remembers_names():
    certs.ensure(["box.example", "localhost"])
    assert certs.remembered() == ["box.example"]
    assert "box.example" in certs.ensure(["192.0.2.99"], renew=True).names
    assert certs.remembered() == ["box.example", "192.0.2.99"]


def write_garbage():
    certs.ca_key_path().write_text("garbage")


def write_another_key():
    key = ec.generate_private_key(ec.SECP256R1())
    form = serialization.PrivateFormat.PKCS8
    certs.ca_key_path().write_bytes(key.private_bytes(certs.PEM, form, serialization.NoEncryption()))


def forbid():
    certs.ca_key_path().unlink()
    certs.ca_key_path().mkdir()  # what cannot be read even by root


@pytest.mark.parametrize("spoil", [lambda: certs.ca_key_path().unlink(), write_garbage, write_another_key, forbid])
def test_it_says_what_to_do_about_a_key_that_cannot_be_used(spoil, monkeypatch):
    certs.ensure()
    before = certs.ca_path().read_bytes()
    spoil()
    with pytest.raises(certs.CertificateProblem, match=r"ca\.key") as told:
        certs.ensure()
    assert "Put it back from a backup" in str(told.value) or "Give the folder" in str(told.value)
    assert certs.ca_path().read_bytes() == before
    with pytest.raises(supervisor.CannotStart, match=r"ca\.key"):
        supervisor.certified_names("0.0.0.0")


def test_it_says_what_to_do_when_the_authority_has_ended(monkeypatch):
    monkeypatch.setattr(certs, "CA_LIFETIME", timedelta(seconds=0))
    monkeypatch.setattr(certs, "BACKDATED", timedelta(days=2))
    certs._make_authority()
    with pytest.raises(certs.CertificateProblem, match="ended on"):
        certs.ensure()


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("Box.Example.", "box.example"), ("bücher.example", "xn--bcher-kva.example"), ("my_box", "my_box"),
        ("192.0.2.7", "192.0.2.7"), ("[2001:DB8::1]", "2001:db8::1"),
    ],
)  # fmt: skip
def test_it_reads_a_name(given, name):
    assert checked(given) == name


@pytest.mark.parametrize(
    "text", ["", "https://box", "box:8643", "a b", "-a", "a..b", "*.box", "1.2.3.400", "fe80::1%eth0", "x" * 64]
)
def test_it_refuses_what_is_no_name(text):
    with pytest.raises(ValueError, match="without https"):
        checked(text)


@given(st.text(max_size=70))
@settings(max_examples=150)
def test_it_reads_any_text_as_a_name_that_a_certificate_takes_or_refuses_it(text):
    try:
        name = checked(text)
    except ValueError:
        return
    assert checked(name) == name
    assert certs.general_name(name)


def test_the_command_says_where_everything_is_and_what_is_next():
    out = StringIO()
    call_command("certs", "--name", "box.example", stdout=out)
    text = out.getvalue()
    for part in (certs.grouped(certs.fingerprint()), str(certs.ca_path()), "box.example", "up --tls", "/ca/", "is new"):
        assert part in text
    out = StringIO()
    call_command("certs", stdout=out)
    assert "stays as it was" in out.getvalue() and "is still good" in out.getvalue()
    before = served().serial_number
    call_command("certs", "--renew", stdout=StringIO())
    assert served().serial_number != before
    with pytest.raises(CommandError, match="without https"):
        call_command("certs", "--name", "https://box")


@pytest.mark.parametrize(
    ("argv", "host", "tls_host"),
    [
        ([], "127.0.0.1", None),
        (["--host", "192.0.2.7"], "192.0.2.7", None),
        (["--tls"], "127.0.0.1", "0.0.0.0"),
        (["--tls", "--host", "192.0.2.7"], "127.0.0.1", "192.0.2.7"),
        (["--tls", "--insecure-lan"], "0.0.0.0", "0.0.0.0"),
    ],
)
def test_plain_http_stays_on_this_machine_beside_tls(argv, host, tls_host):
    options = supervisor.parse(argv)
    assert (options.host, options.tls_host) == (host, tls_host)


def test_it_wants_another_port_for_tls():
    with pytest.raises(supervisor.CannotStart, match="--tls-port"):
        supervisor.check_port("127.0.0.1", 8642, "--tls-port", {8642})
