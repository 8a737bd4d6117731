"""`daemonpulse daemon-start [NODE]`."""

from fleet.lms.actions import Action
from fleet.terminal import NodeActionCommand


class Command(NodeActionCommand):
    action = Action.SERVER_START
