"""Doing what a node was told to do. Runs in the worker, or in a terminal's own process; never in a page's request."""

import logging
import threading
import time
from collections.abc import Callable

from django.conf import settings
from django.utils.module_loading import import_string

from fleet.agent.errors import ActionFailed
from fleet.daemons.errors import DaemonError, LoadCancelled, Reason
from fleet.hosts import explain, host_of
from fleet.lms.actions import Action
from fleet.lms.cli import LmsError
from fleet.models import Command, Node
from fleet.models.command import LOAD, UNLOAD
from fleet.telling import Telling

log = logging.getLogger(__name__)

WAIT_SECONDS = 0.2


def run(
    command: Command,
    on_line: Callable[[str], None] | None = None,
    on_progress: Callable[[float], None] | None = None,
    cancelled: threading.Event | None = None,
) -> bool:
    """Take a waiting command and do it. False when somebody else has it, or its node is busy with another one.

    Setting `cancelled` calls it off, where it can be.

    Never raises for what it does: that is left in `command.error`.
    """
    if not command.claim():
        return False
    log.info("command.started action=%s node=%s", command.action, command.node_id)
    problem, result, is_known = "", {}, True
    with Telling(command, on_line, on_progress, cancelled) as telling:
        try:
            result = perform(command, telling)
        except LmsError as error:
            command.error, problem = error, f"{error} {error.advice}".strip()
        except ActionFailed as error:
            command.error, problem = error, explain(error, command.node)
        except LoadCancelled as error:
            command.error, problem = error, error.detail
        except DaemonError as error:
            is_of_daemon = command.action in {LOAD, UNLOAD}
            command.error, problem = error, error.reason.explanation if is_of_daemon else explain(error, command.node)
            is_known = error.reason not in {Reason.CUT, Reason.TIMEOUT}
            if is_of_daemon and error.detail:
                telling.line(error.detail)
        except ValueError as error:
            command.error, problem = error, str(error)
        except Exception as error:
            log.exception("command.failed action=%s node=%s", command.action, command.node_id)
            command.error = error
            problem = "Something went wrong that was not foreseen; the server's log has it."
    if problem and not is_known:
        command.interrupt(f"{problem} Whether it took effect shows in the node's state.")
    elif problem:
        command.fail(problem, told_by(command.error))
    else:
        command.finish(result)
    command.node.want_look()
    return True


def told_by(error: Exception | None) -> dict:
    """What a daemon's error tells programs: kept with the failed command, for whoever waited for it elsewhere."""
    if not isinstance(error, DaemonError):
        return {}
    return {"reason": error.reason, "detail": error.detail, "can_pass": getattr(error, "can_pass", False)}


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
    if path := settings.COMMANDS.get(command.action):
        return import_string(path)(command.node, command.parameters, telling)
    host = host_of(command.node)
    if host is None or not command.node.can_be_managed:
        raise ValueError("There is no way to this node's machine. Set up an agent there (see docs/agent.md).")
    return host.execute(Action(command.action), command.parameters, telling.line, str(command.pk), telling.signed)
