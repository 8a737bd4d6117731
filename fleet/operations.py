"""Doing what a node was told to do. Runs in the worker, or in a terminal's own process; never in a page's request."""

import logging
import threading
import time
from collections.abc import Callable

from django.db import close_old_connections, connections

from fleet import layout
from fleet.agent.client import ActionFailed
from fleet.daemons.errors import DaemonError
from fleet.hosts import explain, host_of
from fleet.lms.actions import Action
from fleet.lms.cli import LmsError
from fleet.models import Command, Node
from fleet.models.command import LOAD, MAX_OUTPUT, PLAN

log = logging.getLogger(__name__)

TELL_SECONDS = 0.4  # at most so often a page hears of new output
BEAT_SECONDS = 5.0
WAIT_SECONDS = 0.2


class Telling:
    """Passes on what a command says while it runs, and keeps its lease.

    Lines come from other threads; only the thread of tell() writes.
    """

    def __init__(self, command: Command, on_line: Callable[[str], None] | None = None):
        self.command, self.on_line = command, on_line
        self.output = ""
        self.progress: float | None = None
        self.is_over = threading.Event()
        self.is_news = threading.Event()
        self.thread = threading.Thread(target=self._tell, name="telling", daemon=True)

    def line(self, text: str) -> None:
        self.output = f"{self.output}{text}\n"[-MAX_OUTPUT:]
        if self.on_line:
            self.on_line(text)
        self.is_news.set()

    def signed(self, envelope: dict) -> None:
        """It is about to travel in this envelope: kept before anything happens."""
        self.command.keep_envelope(envelope)

    def at(self, progress: float) -> None:
        self.progress = progress
        self.is_news.set()

    def _tell(self) -> None:
        try:
            while not self.is_over.is_set():
                is_news = self.is_news.wait(BEAT_SECONDS)
                self.is_news.clear()
                self._beat(is_news)
                self.is_over.wait(TELL_SECONDS)
        finally:
            connections.close_all()  # this thread's

    def _beat(self, is_news: bool) -> None:
        """A beat that fails must not end what runs: the next one may go through."""
        try:
            close_old_connections()
            self.command.beat(self.output if is_news else None, self.progress if is_news else None)
        except Exception:
            log.exception("command.beat_failed command=%s", self.command.pk)

    def __enter__(self) -> "Telling":
        self.thread.start()
        return self

    def __exit__(self, *error) -> None:
        self.is_over.set()
        self.is_news.set()
        self.thread.join()
        if self.output or self.progress is not None:
            self._beat(is_news=True)


def run(command: Command, on_line: Callable[[str], None] | None = None) -> bool:
    """Take a waiting command and do it. False when somebody else has it. Never raises for what it does."""
    if not command.claim():
        return False
    log.info("command.started action=%s node=%s", command.action, command.node_id)
    problem, result = "", {}
    with Telling(command, on_line) as telling:
        try:
            result = perform(command, telling)
        except LmsError as error:
            problem = f"{error} {error.advice}".strip()
        except ActionFailed as error:
            problem = explain(error, command.node)
        except DaemonError as error:
            problem = error.reason.explanation if command.action == LOAD else explain(error, command.node)
            telling.line(error.detail or problem)
        except ValueError as error:
            problem = str(error)
        except Exception:
            log.exception("command.failed action=%s node=%s", command.action, command.node_id)
            problem = "Something went wrong that was not foreseen; the server's log has it."
    if problem:
        command.fail(problem)
    else:
        command.finish(result)
    command.node.want_look()
    return True


def is_busy(node: Node) -> bool:
    """A command runs there: one at a time."""
    return node.commands.filter(state=Command.State.RUNNING).exists()


def wait(command: Command) -> None:
    """Sleep a moment, and read the command's row again: somebody else may run it, or may have died over it."""
    time.sleep(WAIT_SECONDS)
    Command.rescue()
    command.refresh_from_db()


def perform(command: Command, telling: Telling) -> dict:
    """Do it and return what came of it. Raises LmsError, ActionFailed, DaemonError or ValueError."""
    if command.action == PLAN:
        return layout.plan_load(command.node, command.parameters, telling)
    if command.action == LOAD:
        return layout.load(command.node, command.parameters, telling)
    host = host_of(command.node)
    if host is None or not command.node.can_be_managed:
        raise ValueError("There is no way to this node's machine. Set up an agent there (see docs/agent.md).")
    return host.execute(Action(command.action), command.parameters, telling.line, str(command.pk), telling.signed)
