"""The signed envelope: what is accepted, and that nothing else is."""

import hmac
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.agent import nonces
from fleet.agent.envelope import FIELDS, WINDOW_SECONDS, Command, Refused, Verifier, sign
from fleet.agent.keys import AgentKey
from fleet.agent.nonces import Nonces
from tests.fleet.simulator_fixture import ROOT

KEY = AgentKey.make()
NOW = 1_795_000_000.0
QUICK = settings(max_examples=60)
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
PARAMETERS = st.dictionaries(TEXT, TEXT | st.integers() | st.floats(allow_nan=False, allow_infinity=False), max_size=4)


def signed(now: float = NOW, key: AgentKey = KEY, **parameters) -> dict:
    return sign(key, "load", parameters or {"model": "otter"}, now=now)


def refusal(envelope: object, verifier: Verifier | None = None, now: float = NOW) -> str:
    with pytest.raises(Refused) as refused:
        (verifier or Verifier(KEY)).open(envelope, now)
    return str(refused.value)


def test_it_signs_as_the_documentation_says():
    document = (ROOT / "docs" / "agent.md").read_text()
    purpose, body = re.search(r"(daemonpulse-command-v1)\n(\{.*\})", document).groups()
    signature = re.search(r"gives the signature `([0-9a-f]{64})`", document)[1]
    assert signature == hmac.new(bytes(32), f"{purpose}\n{body}".encode(), "sha256").hexdigest()
    envelope = json.loads(body) | {"signature": signature}
    assert Verifier(AgentKey("token", bytes(32))).open(envelope, 1_795_000_000).parameters == {"what": "ls"}


@QUICK
@given(PARAMETERS)
def test_it_opens_what_was_signed_also_after_a_trip_through_json(parameters):
    envelope = json.loads(json.dumps(sign(KEY, "load", parameters, id="run-7", now=NOW)))
    assert Verifier(KEY).open(envelope, NOW) == Command("run-7", "load", parameters)


def test_it_never_carries_the_signing_key():
    assert KEY.signing_key.hex() not in json.dumps(signed())
    assert KEY.to_text().split(".")[2] not in json.dumps(signed())


def test_it_refuses_a_second_use_but_not_a_second_envelope():
    verifier, envelope = Verifier(KEY), signed()
    verifier.open(envelope, NOW)
    verifier.open(signed(), NOW)
    assert "used before" in refusal(envelope, verifier)


def test_it_refuses_a_replay_to_the_last_moment_of_its_time():
    verifier, envelope = Verifier(KEY), signed(NOW + WINDOW_SECONDS)  # by a clock that runs ahead
    verifier.open(envelope, NOW)
    for later in (1, WINDOW_SECONDS, 2 * WINDOW_SECONDS):
        assert "used before" in refusal(envelope, verifier, NOW + later)


@pytest.mark.parametrize("away", [-WINDOW_SECONDS, -1, 0, 1, WINDOW_SECONDS])
def test_it_takes_clocks_that_differ_a_little(away):
    assert Verifier(KEY).open(signed(NOW + away), NOW).action == "load"


def test_it_refuses_what_is_late_or_early():
    assert "61 s old" in refusal(signed(), now=NOW + WINDOW_SECONDS + 1)
    assert "61 s in the future" in refusal(signed(), now=NOW - WINDOW_SECONDS - 1)


def test_it_refuses_another_key():
    assert "not signed with this agent's key" in refusal(signed(key=AgentKey.make()))


@QUICK
@given(st.sampled_from(sorted(FIELDS)), JSON)
def test_it_refuses_any_altered_field(field, value):
    envelope = signed()
    if value != envelope[field] or type(value) is not type(envelope[field]):
        refusal(envelope | {field: value})


@QUICK
@given(PARAMETERS)
def test_it_refuses_other_parameters_under_the_same_signature(parameters):
    envelope = signed()
    if parameters != envelope["parameters"]:
        assert "altered" in refusal(envelope | {"parameters": parameters})


@QUICK
@given(JSON)
def test_it_refuses_any_json_without_another_error(value):
    refusal(value)
    refusal(signed() | {"extra": value})


def test_it_refuses_what_is_hard_to_write_down():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    for hard in (deep, float("nan"), float("inf"), "\ud800", 10**5000, "x" * 60_000):
        refusal(signed() | {"parameters": {"model": hard}})


def test_it_remembers_no_nonce_of_a_stranger():
    verifier, envelope = Verifier(KEY), signed()
    refusal(envelope | {"signature": "0" * 64}, verifier)
    assert verifier.open(envelope, NOW).action == "load"


def test_it_refuses_a_replay_after_a_restart(tmp_path):
    envelope = signed(NOW + 30)  # issued after the restart, by a clock that runs ahead
    Verifier(KEY, Nonces(tmp_path / "nonces")).open(envelope, NOW)
    after = Verifier(KEY, Nonces(tmp_path / "nonces"))
    assert "used before" in refusal(envelope, after, NOW + 1)
    assert after.open(signed(), NOW).action == "load"
    assert (tmp_path / "nonces").stat().st_mode & 0o777 == 0o600


def test_it_forgets_old_nonces_when_there_are_many_and_refuses_a_flood(tmp_path, monkeypatch):
    monkeypatch.setattr(nonces, "MOST", 3)
    verifier = Verifier(KEY, Nonces(tmp_path / "nonces"))
    for _ in range(3):
        verifier.open(signed(), NOW)
    assert "too many commands" in refusal(signed(), verifier)
    later = NOW + 3 * WINDOW_SECONDS
    assert verifier.open(signed(later), later).action == "load"
    assert len((tmp_path / "nonces").read_text().splitlines()) == 1


def test_it_runs_nothing_that_it_could_not_remember(tmp_path, monkeypatch):
    kept = Nonces(tmp_path / "nonces")

    def full(text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept, "_output", type("Full", (), {"write": staticmethod(full)}))
    assert "No space left" in refusal(signed(), Verifier(KEY, kept))


def test_it_reads_a_damaged_file_of_nonces(tmp_path):
    (tmp_path / "nonces").write_bytes(b"\xff\xfe\n12 \n99999999999999999999 x\nnonsense\n")
    assert Verifier(KEY, Nonces(tmp_path / "nonces")).open(signed(), NOW).action == "load"
