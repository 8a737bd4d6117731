"""The protocol as a whole, by model checking (sync_machine.py): after quiet all agree, nothing is lost, nothing ran
twice."""

import pytest
from django.utils import timezone
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from daemonpulse.queue.models import Prompt
from daemonpulse.queue.sync import views

from .sync_machine import Sync, counted
from .sync_phones import new_device

pytestmark = pytest.mark.django_db
# Without shrinking, which takes minutes: forty steps can be read, and a failure prints what repeats it.
EXAMPLES = settings(
    max_examples=15,
    stateful_step_count=40,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def machine(node, alice, bob, monkeypatch):
    """Sync, on a server whose clock can be set and which can be killed during a push."""
    real_now, real_push = timezone.now, views.CALLS["push"]

    def push(device, data):
        with Sync.around_push(device):
            return real_push(device, data)

    monkeypatch.setattr(timezone, "now", lambda: real_now() + Sync.jumped)
    monkeypatch.setitem(views.CALLS, "push", push)
    for kind in ("edit", "cancel", "retry"):
        monkeypatch.setattr(Prompt, kind, counted(kind))
    monkeypatch.setattr(Sync, "node", node)
    phones = [new_device(alice, is_sealed) for is_sealed in (False, True, True)]
    monkeypatch.setattr(Sync, "cast", [(alice, phones), (bob, [new_device(bob, True)])])
    return Sync


def test_after_quiet_all_agree_and_nothing_ran_twice(machine):
    run_state_machine_as_test(machine, settings=EXAMPLES)
