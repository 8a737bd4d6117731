"""Rows of the project itself: people, their keys to the door, and the event log."""

from daemonpulse.models.access import ApiToken, SignInLink, User
from daemonpulse.models.event import Event
from daemonpulse.models.key_check import KeyCheck

__all__ = ["ApiToken", "Event", "KeyCheck", "SignInLink", "User"]
