"""Doing what a node was told to do. Runs in the worker, or in a terminal's own process; never in a page's request."""

import logging
import time
from collections.abc import Callable

from fleet import layout
from fleet.agent.client import ActionFailed
from fleet.daemons.errors import DaemonError, Reason
from fleet.hosts import explain, host_of
from fleet.lms.actions import Action
from fleet.lms.cli import LmsError
from fleet.models import Command, Node
from fleet.models.command import LOAD, PLAN
from fleet.telling import Telling

log = logging.getLogger(__name__)

WAIT_SECONDS = 0.2


def run(command: Command, on_line: Callable[[str], None] | None = None) -> bool:
    """Take a waiting command and do it. False when somebody else has it. Never raises for what it does."""
    if not command.claim():
        return False
    log.info("command.started action=%s node=%s", command.action, command.node_id)
    problem, result, is_known = "", {}, True
    with Telling(command, on_line) as telling:
        try:
            result = perform(command, telling)
        except LmsError as error:
            problem = f"{error} {error.advice}".strip()
        except ActionFailed as error:
            problem = explain(error, command.node)
        except DaemonError as error:
            problem = error.reason.explanation if command.action == LOAD else explain(error, command.node)
            is_known = error.reason not in {Reason.CUT, Reason.TIMEOUT}
            if command.action == LOAD and error.detail:
                telling.line(error.detail)
        except ValueError as error:
            problem = str(error)
        except Exception:
            log.exception("command.failed action=%s node=%s", command.action, command.node_id)
            problem = "Something went wrong that was not foreseen; the server's log has it."
    if problem and not is_known:
        command.interrupt(f"{problem} Whether it took effect shows in the node's state.")
    elif problem:
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
