"""On a network without TLS: who reads along from the pairing on learns no prompt, no answer and no key."""

import pytest
import requests

from tests.conftest import wait_for
from tests.system.client_fixture import Client
from tests.system.conftest import OTTER
from tests.system.wiretap import Wiretap

MARKER = "a very secret question about otters"


@pytest.fixture
def wiretap(site):
    tap = Wiretap(site.url)
    yield tap
    tap.close()


def test_who_reads_along_learns_nothing_of_what_is_written(daemon, site, wiretap):
    daemon.control("models/*", {"ttft_seconds": 0.02, "tokens_per_second": 300, "load_seconds": 0.1})
    client = Client(site)
    try:
        client.start(client.code(), server=wiretap.url)
        headers = {"Authorization": f"Bearer {client.token}"}
        body = {"model": OTTER, "text": f"{MARKER} [[echo]]"}

        def submitted():
            answer = requests.post(f"{client.url}/api/v1/prompts", json=body, headers=headers, timeout=60)
            return answer.json()["id"] if answer.status_code == 201 else None  # its models are not known yet

        prompt_id = wait_for(submitted, step=0.3)

        def done():
            told = requests.get(f"{client.url}/api/v1/prompts/{prompt_id}", headers=headers, timeout=60).json()
            return told["state"] == "done" and told

        assert MARKER in wait_for(done, step=0.2)["answer"]
    finally:
        client.stop()
    heard = bytes(wiretap.heard)
    assert b"/api/sync/v1/push" in heard and b"/ws/sync/v1/" in heard  # it all went this way
    for secret in (MARKER, "otter", "mutations", "cursor"):
        assert secret.encode() not in heard
