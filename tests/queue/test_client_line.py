"""What goes over the wire, and what is refused that comes back; against a server that seals as docs/sync.md has it."""

import json
import socket
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import patch

import pytest

from daemonpulse import certs, sealing
from daemonpulse.queue.client import trust
from daemonpulse.queue.client.line import MOST_TRIES, CallFailed, Line, Numbers
from daemonpulse.queue.client.pairing import CannotPair, pair
from daemonpulse.queue.models import Device, Remote

from .clients import SERVER, paired

pytestmark = pytest.mark.django_db
KEY = b"\x00" * 32
ABOUT = {"id": SERVER, "name": "box", "version": "0.1.0", "protocol": 1}


class Double(ThreadingHTTPServer):
    """Opens with the device's key and answers what `told` says; `header` and `raw` spoil the answer."""

    def __init__(self, tls: ssl.SSLContext | None = None, ca: bytes = b""):
        super().__init__(("127.0.0.1", 0), Handler)
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.server_address[1]}"
        self.ca = ca
        self.heard: list[tuple[str, dict, dict]] = []  # path, header, body
        self.bodies: list[bytes] = []
        self.told: list[tuple[int, dict]] = []
        self.header: dict = {}
        self.raw: tuple[int, str, bytes] | None = None
        self.key = KEY
        self.device = ""
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def handle_error(self, request, client_address):
        """A handshake that the client breaks off is what is wanted here."""


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        self._answer(200, "application/x-x509-ca-cert", self.server.ca)

    def do_POST(self):
        double = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        double.bodies.append(body)
        if double.raw:
            self._answer(*double.raw)
            return
        if self.path.endswith("/pair"):
            self._answer(*self._paired(json.loads(body)))
            return
        header, opened = sealing.open_sealed(double.key, body.decode())
        double.heard.append((self.path, header, json.loads(opened)))
        status, told = double.told.pop(0) if double.told else (200, {})
        answer = {"kid": header["kid"], "re": header["seq"], "status": status} | double.header
        self._answer(status, sealing.CONTENT_TYPE, sealing.seal(double.key, answer, json.dumps(told).encode()).encode())

    def _paired(self, asked: dict) -> tuple[int, str, bytes]:
        double = self.server
        double.heard.append((self.path, {}, asked))
        if asked["code"] != "K7QM-2XPA":
            error = {"error": {"code": "bad_code", "message": "This code is wrong, used or older than five minutes."}}
            return 422, "application/json", json.dumps(error).encode()
        agreement = sealing.Agreement()
        double.key = agreement.key(sealing.from_text(asked["public_key"]), is_server=True)
        box = sealing.seal(double.key, {"kid": "d1", "re": 0, "status": 200}, b'{"token": "dpd_secret"}')
        told = {"device": "d1", "name": asked["name"], "sealed": True, "public_key": sealing.to_text(agreement.point),
                "box": box, "server": ABOUT}  # fmt: skip
        return 200, "application/json", json.dumps(told).encode()

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def double():
    server = Double()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def line(alice, double):
    return Line(paired(alice, url=double.url))


def failure(line, use: str = "ping") -> CallFailed:
    with pytest.raises(CallFailed) as caught:
        line.call(use, {})
    return caught.value


def test_it_seals_for_one_call_with_a_number_that_grows_and_is_stored_first(line, double):
    double.told = [(200, {"a": 1}), (200, {"a": 2})]
    assert [line.call("push", {"text": "Zebra"})["a"], line.call("ping", {})["a"]] == [1, 2]
    (path, first, body), (_, second, _) = double.heard
    assert (path, first["kid"], first["use"], body) == ("/api/sync/v1/push", line.device, "push", {"text": "Zebra"})
    assert second["seq"] > first["seq"]
    assert Remote.current().seq >= second["seq"]
    assert b"Zebra" not in b"".join(double.bodies)
    assert Line(Remote.current()).numbers.next() > second["seq"]


@pytest.mark.parametrize("header", [{"re": 10_000}, {"kid": "another"}, {"status": 201}])
def test_it_refuses_the_answer_to_something_else(line, double, header):
    double.header = header
    assert failure(line).code == "not_understood"


def test_it_refuses_an_answer_that_is_not_sealed_or_with_another_key(line, double):
    double.raw = (200, "application/json", b"{}")
    assert failure(line).code == "not_understood"
    double.raw = (200, sealing.CONTENT_TYPE, sealing.seal(b"\x01" * 32, {}, b"{}").encode())
    assert failure(line).code == "not_understood"


def test_it_goes_on_from_what_the_server_has_seen(line, double):
    double.told = [(409, {"error": {"code": "replayed", "message": "Seen.", "seen": 5000}}), (200, {"fine": True})]
    assert line.call("ping", {}) == {"fine": True}
    assert double.heard[-1][1]["seq"] == 5001


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (401, b'{"error": {"code": "revoked", "message": "Shut out."}}', "revoked"),
        (502, b"<html>", "gone"),
        (500, b"<html>", "server_error"),
        (404, b"<html>", "no_server"),
        (302, b"", "no_server"),
    ],
)
def test_it_tells_errors_apart(line, double, status, body, code):
    double.raw = (status, "application/json" if b"{" in body else "text/html", body)
    assert failure(line).code == code


class Copy:
    """One of several copies of a client's store: it calls a server that counts as Device does."""

    def __init__(self, device: Device, seq: int = 0):
        self.device, self.seq, self.sent = device, seq, []
        self.numbers = Numbers(str(device.pk))

    def take(self, device: str, above: int = 0) -> range:
        first = max(self.seq, above) + 1
        self.seq = first + 31
        return range(first, first + 32)

    def calls(self) -> None:
        with patch.object(Remote, "take_numbers", self.take):
            for _ in range(MOST_TRIES):
                number = self.numbers.next()
                if self.device.accept(number):
                    self.sent.append(number)
                    return
                self.numbers.go_on_after(self.device.seen_seq)
        raise AssertionError("it did not get through")


@pytest.fixture
def device(alice) -> Device:
    return Device.objects.create(owner=alice, name="laptop", kind="desktop", token_hash="t")


def test_two_copies_of_a_store_both_get_through_and_one_of_them_knows_it(device):
    one, other = Copy(device), Copy(device)
    for turn in range(100):
        (one if turn % 3 else other).calls()
    assert len({*one.sent, *other.sent}) == 100
    assert one.numbers.are_anothers_too or other.numbers.are_anothers_too


def test_a_store_from_a_backup_jumps_once_and_accuses_nobody(device):
    for seq in range(1, 301):
        device.accept(seq)
    restored = Copy(device, seq=64)
    for _ in range(80):
        restored.calls()
    assert len(restored.numbers.jumped_at) == 1
    assert not restored.numbers.are_anothers_too


def test_a_line_that_rests_does_not_fall_behind_the_other(alice):
    remote = paired(alice)
    numbers = Numbers(remote.device)
    busy, resting = Line(remote, numbers), Line(remote, numbers)
    first = resting.numbers.next()
    last = [busy.seal("socket", {})[0] for _ in range(100)][-1]
    assert resting.numbers.next() == last + 1 > first + 63


@pytest.mark.parametrize("code", ["two words\nof a log", "x" * 41, "", 7])
def test_a_code_that_is_none_is_not_understood(line, double, code):
    double.raw = (401, "application/json", json.dumps({"error": {"code": code, "message": "!"}}).encode())
    assert failure(line).code in {"not_understood", "no_server"}


def test_nobody_there_is_gone_and_was_sent_nothing(line, double):
    double.shutdown()
    double.server_close()
    assert (failure(line).code, failure(line).is_unsent) == ("gone", True)


@pytest.mark.parametrize("url", ["http://nobody.invalid:8642", "http://127.0.0.1:9"])
def test_a_name_or_a_port_that_nobody_has_was_sent_nothing(line, url):
    line.url = url
    assert (failure(line).code, failure(line).is_unsent) == ("gone", True)


@pytest.mark.parametrize("is_hung_up", [True, False])
def test_what_was_sent_and_not_answered_may_have_come(line, is_hung_up):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        line.url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        threading.Thread(target=hears_and_says_nothing, args=[silent, is_hung_up], daemon=True).start()
        with pytest.raises(CallFailed) as caught:
            line.call("push", {"text": "x" * 100}, (1, 0.3))
    assert (caught.value.code, caught.value.is_unsent) == ("gone", False)


def hears_and_says_nothing(silent: socket.socket, is_hung_up: bool) -> None:
    with silent.accept()[0] as connection:
        connection.recv(64 * 1024)
        if not is_hung_up:
            time.sleep(0.6)


# Pairing and trust


def test_it_pairs_without_ever_sending_the_key_or_the_token(alice, double):
    remote = pair(alice, double.url, "K7QM-2XPA", name="laptop")
    assert (remote.server_name, remote.device, remote.token, remote.is_paired) == ("box", "d1", "dpd_secret", True)
    assert double.heard[0][2] | {"public_key": "", "app": ""} == {
        "code": "K7QM-2XPA", "name": "laptop", "kind": "desktop", "public_key": "", "app": "",
    }  # fmt: skip
    assert sealing.from_text(remote.key) == double.key
    assert Line(remote).call("ping", {}) == {}


def test_pairing_again_keeps_the_name_that_it_has_on_the_server(alice, double):
    assert pair(alice, double.url, "K7QM-2XPA").device_name == socket.gethostname()[:80]
    Remote.objects.update(device_name="Laptop upstairs")
    assert pair(alice, double.url, "K7QM-2XPA").device_name == "Laptop upstairs"


def test_a_wrong_code_changes_nothing(alice, double):
    before = paired(alice)
    with pytest.raises(CannotPair, match="This code is wrong"):
        pair(alice, double.url, "00000000")
    assert Remote.current().device == before.device


@pytest.mark.parametrize(("server", "words"), [("box:x", "no server's address"), ("http://127.0.0.1:9", "not answer")])
def test_it_says_what_is_wrong_with_an_address(alice, server, words):
    with pytest.raises(CannotPair, match=words):
        pair(alice, server, "00000000")


def made_in(folder: Path) -> Path:
    """The server's own certificates, as `daemonpulse certs` makes them."""
    with patch.object(certs, "folder", lambda: folder):
        certs.ensure()
    return folder


@pytest.fixture(scope="module")
def ca(tmp_path_factory) -> Path:
    return made_in(tmp_path_factory.mktemp("tls")) / "ca.crt"


@pytest.fixture
def secure(ca):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ca.with_name("server.pem"))
    server = Double(context, ca.read_bytes())
    yield server
    server.shutdown()
    server.server_close()


def test_it_trusts_the_ca_that_was_named_and_no_other(alice, secure, ca, tmp_path):
    with pytest.raises(CannotPair, match="certificate is not one that this client trusts"):
        pair(alice, secure.url, "K7QM-2XPA")
    assert secure.bodies == [], "something was sent to a stranger"
    remote = pair(alice, secure.url, "K7QM-2XPA", ca_file=str(ca))
    assert Line(remote).call("ping", {}) == {}
    remote.ca_certificate = (made_in(tmp_path / "other") / "ca.crt").read_text()
    distrusted = failure(Line(remote))
    assert (distrusted.code, distrusted.is_unsent) == ("certificate", True)


def test_it_fetches_the_ca_that_has_the_fingerprint(alice, secure, ca):
    fingerprint = trust.fingerprint(trust.read_ca(ca.read_bytes()))
    spaced = ":".join(fingerprint[n : n + 2] for n in range(0, 64, 2)).upper()
    assert pair(alice, secure.url, "K7QM-2XPA", fingerprint=spaced).ca_certificate
    with pytest.raises(CannotPair, match="something stands in between"):
        pair(alice, secure.url, "K7QM-2XPA", fingerprint="ab" * 32)
