"""What Forge's commands in a terminal share: who is meant, and following a load or an unload to its end."""

import os
import signal
import sys
import threading

from django.core.exceptions import NON_FIELD_ERRORS
from django.core.management.base import CommandError, OutputWrapper

from fleet import operations
from fleet.models import Command, Node
from fleet.models.command import UNFINISHED
from fleet.texts import clean
from forge import inventory
from forge.api_forms import OPTION_TYPES

MOST = 300  # characters of what a daemon wrote, in one line
BAR = 24  # characters
STEP = 10  # percent between two lines where nobody looks
FLAGS = {name: f"--{name.replace('_', '-')}" for name in OPTION_TYPES} | {
    "context_length": "--context",
    "offload_ratio": "--gpu",
    "offload_kv_cache_to_gpu": "--kv-on-gpu",
    "num_experts": "--experts",
    "eval_batch_size": "--batch",
    "ttl_seconds": "--ttl",
    "node": "--node",
}
RATIOS = {"max": "1", "off": "0"}


def add_options(parser) -> None:
    """How a load is wished; what is left out is as saved, or LM Studio's own choice."""
    parser.add_argument("model", help="its key, as `daemonpulse models` shows it")
    parser.add_argument("--node", help="its name; may be left out where only one has the model")
    parser.add_argument("--context", dest="context_length", metavar="N", help="tokens")
    parser.add_argument("--parallel", metavar="N", help="prompts that it serves side by side")
    parser.add_argument("--gpu", dest="offload_ratio", metavar="RATIO", help="part on the GPUs: 0 to 1, off or max")
    for name, what in (("flash-attention", "flash_attention"), ("kv-on-gpu", "offload_kv_cache_to_gpu")):
        parser.add_argument(f"--{name}", dest=what, choices=["on", "off"])
    parser.add_argument("--experts", dest="num_experts", metavar="N", help="used for each token")
    parser.add_argument("--batch", dest="eval_batch_size", metavar="N", help="tokens read at once")


def wished(options: dict) -> dict:
    """What was asked for, in the names and values of a form."""
    told = {name: options.get(name) for name in ("model", "node", "ttl_seconds", *OPTION_TYPES)}
    told |= {name: options[name] == "on" for name in ("flash_attention", "offload_kv_cache_to_gpu") if options[name]}
    told["offload_ratio"] = RATIOS.get(told["offload_ratio"], told["offload_ratio"])
    return {name: value for name, value in told.items() if value is not None}


def check(form, returncode: int = 1):
    """The form, if it is valid. Raises CommandError with each problem beside the option that it is about."""
    if form.is_valid():
        return form
    told = [f"{named(name)}{error}" for name, errors in form.errors.items() for error in errors]
    raise CommandError("\n".join(told), returncode=returncode)


def named(field: str) -> str:
    return "" if field in (NON_FIELD_ERRORS, "model", "instance") else f"{FLAGS.get(field, field)}: "


def look(nodes) -> list[Node]:
    """Ask these nodes what they have, so that it is true also where no worker runs; those that did not answer."""
    return [node for node in nodes if not inventory.look(node)]


def look_first(name: str | None) -> None:
    """At the node that is named, else at those that nobody has looked at yet."""
    look(Node.objects.filter(name=name) if name else Node.objects.enabled().filter(checked_at=None))


def check_answers(node: Node) -> None:
    """Raises CommandError where it does not, now."""
    if look([node]):
        raise CommandError(f"{node} does not answer: {node.reason_explanation}")


class Screen:
    """What a command says, and how far it is: one line that moves, or one for each step where nobody looks."""

    def __init__(self, stdout: OutputWrapper):
        self.stdout, self.is_watched = stdout, stdout.isatty()
        self.percent = -1
        self.shown = 0  # characters of the command's output

    def line(self, text: str) -> None:
        self._wipe()
        self.stdout.write(clean(text, MOST * 10))

    def progress(self, fraction: float) -> None:
        percent = int(100 * fraction)
        if percent == self.percent or (not self.is_watched and percent // STEP == self.percent // STEP):
            return
        self.percent = percent
        if not self.is_watched:
            self.stdout.write(f"{percent} %")
            return
        done = BAR * percent // 100
        self.stdout.write(f"\r[{'#' * done}{' ' * (BAR - done)}] {percent} %", ending="")
        self.stdout.flush()

    def catch_up(self, command: Command) -> None:
        """The same, of a command that another process runs."""
        for text in command.output[self.shown :].splitlines():
            self.line(text)
        self.shown = len(command.output)
        if command.progress is not None and command.is_open:
            self.progress(command.progress)

    def _wipe(self) -> None:
        if self.is_watched and self.percent >= 0:
            self.stdout.write(f"\r{' ' * (BAR + 8)}\r", ending="")


class CallingOff:
    """Ctrl-C calls off what is followed; pressed again, it ends the following."""

    def __init__(self):
        self.wanted = threading.Event()

    def __enter__(self) -> "CallingOff":
        self.former = signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(self, *error) -> None:
        signal.signal(signal.SIGINT, self.former)

    def _hear(self, number, frame) -> None:
        self.wanted.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # Not through a buffered stream: the signal may have come while that was written to.
        os.write(sys.__stderr__.fileno(), b"\nCalling it off. Ctrl-C again: leave it as it is.\n")


def follow(command: Command, stdout: OutputWrapper) -> None:
    """Do it in this process, unless a worker is faster, and say how it goes. Raises CommandError unless it is done."""
    screen, is_here = Screen(stdout), False
    with CallingOff() as calling_off:
        try:
            while command.is_open:
                if calling_off.wanted.is_set():
                    command.cancel()
                else:
                    is_here = not operations.is_busy(command.node)
                    if is_here and operations.run(command, screen.line, screen.progress, calling_off.wanted):
                        break
                is_here = False
                operations.wait(command)
                screen.catch_up(command)
        except KeyboardInterrupt:
            raise CommandError(left(command, is_here)) from None
    if command.state == Command.State.DONE and calling_off.wanted.is_set():
        raise CommandError("It was done before it could be called off.")
    if command.state != Command.State.DONE:
        called_off = "Called off. " if calling_off.wanted.is_set() else ""
        raise CommandError(f"{called_off}{command.problem}")


def left(command: Command, is_here: bool) -> str:
    """What becomes of a command that is not followed any more."""
    command.refresh_from_db()
    if is_here and command.state == Command.State.RUNNING:
        command.interrupt(UNFINISHED)
        return "Left. LM Studio may go on with it: `daemonpulse models` shows what became of it."
    return f"Not followed any more; it is {command.state}. The node's page shows what becomes of it."
