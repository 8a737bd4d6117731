"""Rows of the project itself: people, their keys to the door, and the event log."""

from daemonpulse.models.access import ApiToken, SignInLink, User
from daemonpulse.models.event import Event
from daemonpulse.models.installation import Installation
from daemonpulse.models.key_check import KeyCheck

__all__ = ["ApiToken", "Event", "Installation", "KeyCheck", "SignInLink", "User"]
