"""Who can reach an address."""

import pytest

from daemonpulse.addresses import is_address, is_loopback


@pytest.mark.parametrize(
    ("host", "is_one", "is_here"),
    [
        ("127.0.0.1", True, True), ("127.8.9.1", True, True), ("::1", True, True), ("::ffff:127.0.0.1", True, True),
        ("localhost", True, True), ("LOCALHOST", True, True), ("0.0.0.0", True, False), ("::", True, False),
        ("192.0.2.7", True, False), ("::ffff:192.0.2.7", True, False), ("localhost.example.org", False, False),
        ("127.0.0.1.example.org", False, False), ("", False, False), ("-v", False, False),
    ],
)  # fmt: skip
def test_it_tells_this_machines_addresses_from_others(host, is_one, is_here):
    assert (is_address(host), is_loopback(host)) == (is_one, is_here)
