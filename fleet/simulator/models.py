"""A model as this daemon has it: its script, the speed it runs at now, its fault switch and its counts."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from twisted.internet.defer import CancelledError

from fleet.simulator.catalogue import ScriptedModel
from fleet.simulator.faults import REQUEST_KINDS, Fault, FaultSwitch

FLAKY_EVERY = 3
FLAKY_TOKENS = 8


@dataclass
class Speed:
    """How a model behaves until it is told otherwise. Seconds are before --speed divides them."""

    ttft_seconds: float
    tokens_per_second: float | None  # None or 0: the whole answer at once
    output_tokens: int | None  # None: as long as the script makes it
    load_seconds: float
    slots: int


@dataclass
class Counts:
    requests: int = 0
    completed: int = 0
    cancelled: int = 0  # the client went away
    failed: int = 0

    @contextmanager
    def visit(self) -> Iterator[None]:
        """Count one request by how the block ends."""
        self.requests += 1
        try:
            yield
        except CancelledError:
            self.cancelled += 1
            raise
        except BaseException:
            self.failed += 1
            raise
        self.completed += 1


class Model:
    def __init__(self, script: ScriptedModel, slots: int):
        self.script = script
        self.speed = Speed(script.ttft_seconds, script.tokens_per_second, None, script.load_seconds, slots)
        self.faults = FaultSwitch()
        self.counts = Counts()

    @property
    def key(self) -> str:
        return self.script.key

    @property
    def is_llm(self) -> bool:
        return self.script.kind == "llm"

    def context(self, wished: int | None) -> int:
        """The context length that a load gets."""
        return int(min(wished or self.script.context_length, self.script.max_context_length))

    def next_fault(self) -> Fault | None:
        """What this request will meet: the switch first, then the flaky script, by the count of requests."""
        if fault := self.faults.take(REQUEST_KINDS):
            return fault
        kinds, requests = self.script.flaky_kinds, self.counts.requests
        if not kinds or requests % FLAKY_EVERY:
            return None
        return Fault(kinds[(requests // FLAKY_EVERY - 1) % len(kinds)], after_tokens=FLAKY_TOKENS)

    def as_json(self, active: int, waiting: int) -> dict:
        counts = {"active": active, "waiting": waiting, **asdict(self.counts)}
        return {"speed": asdict(self.speed), "fault": self.faults.as_json(), **counts}
