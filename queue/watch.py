"""What must happen without anybody asking: look at nodes, run their commands and downloads,
rescue prompts, call a runner, unload what is idle, tidy up.

`Watch.step()` does what is due and returns; the worker sleeps between steps, so that a test needs no clock.
"""

import time
from datetime import timedelta

from django.core.management import call_command
from django.utils import timezone

from daemonpulse.models import Event, SignInLink
from fleet.dispatch import Dispatcher
from fleet.models import Command, Sample
from forge import idle
from forge.downloads.downloader import Downloader
from forge.heartbeat import Heartbeat
from forge.models import Instance

from .models import Device, Prompt, Receipt, Runner
from .snapshot import make_plan
from .states import State

STEP_SECONDS = 0.5
PRESENT_SECONDS = 4.0
IDLE_SECONDS = 2.0  # how soon it is seen that a model has been idle for long enough
TIDY_SECONDS = 60.0
KEEP_EVENTS = timedelta(days=7)
KEEP_TRANSIENT_EVENTS = timedelta(minutes=2)


class Watch:
    def __init__(self):
        self.heartbeat = Heartbeat()
        self.dispatcher = Dispatcher()
        self.downloader = Downloader()
        self.idle_at = self.tidied_at = self.present_at = 0.0

    def step(self) -> None:
        """Twice a second, also on a machine where nothing happens: every query here counts."""
        Prompt.rescue()
        is_awaited = Prompt.objects.open().exists()
        working = self.dispatcher.step()
        if is_awaited:
            working |= sending_nodes()
        self.heartbeat.step(working, is_awaited)
        self.downloader.step()
        if time.monotonic() - self.idle_at > IDLE_SECONDS:
            self.idle_at = time.monotonic()
            Instance.rescue()
            idle.step()
            Device.note_silent()
        if not Runner.row().is_alive and is_awaited and make_plan().starts:
            Runner.call()
        if time.monotonic() - self.present_at > PRESENT_SECONDS:
            self.present_at = time.monotonic()
            Runner.note_watch()
        if time.monotonic() - self.tidied_at > TIDY_SECONDS:
            self.tidied_at = time.monotonic()
            tidy()


def sending_nodes() -> set[int]:
    """Nodes on which a prompt runs."""
    sending = Prompt.objects.filter(state=State.SENDING, node__isnull=False)
    return set(sending.order_by().values_list("node_id", flat=True))


def tidy() -> None:
    """Remove what nobody reads any more."""
    now = timezone.now()
    Prompt.wake_late()
    transient = Event.objects.filter(kind__in=Event.TRANSIENT_KINDS, at__lt=now - KEEP_TRANSIENT_EVENTS)
    transient.delete()
    # Only from its beginning: where the clock was set back, old times stand behind new ones, and a device trusts that
    # the log has no holes. The newest stays however old it is: devices name it as where they are.
    lasting = Event.objects.lasting().order_by("id").values_list("id", flat=True)
    Event.objects.filter(id__lt=lasting.filter(at__gte=now - KEEP_EVENTS).first() or lasting.last() or 0).delete()
    Sample.thin()
    Command.forget_old()
    Receipt.forget_old()
    SignInLink.objects.filter(expires_at__lt=now - KEEP_EVENTS).delete()
    call_command("clearsessions")
