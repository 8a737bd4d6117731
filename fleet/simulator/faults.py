"""Fault switches: how a model, or the whole daemon, is told to fail, and what each kind then does."""

from dataclasses import asdict, dataclass

from twisted.internet.defer import Deferred

from fleet.simulator.errors import ApiError, ConnectionRefused, Unauthorized

LOAD_FAILURE = "load_failure"
# What a request can meet; load_failure waits for the next load instead.
REQUEST_KINDS = ("refuse", "error_500", "cut", "hang", "unauthorized")
KINDS = (*REQUEST_KINDS, LOAD_FAILURE)


@dataclass
class Fault:
    kind: str
    after_tokens: int | None = None  # cut, hang: tokens sent first; None: cut at once, hang without an answer
    times: int | None = None  # strikes left; None: until switched off

    @property
    def strikes_mid_answer(self) -> bool:
        return self.kind == "cut" or (self.kind == "hang" and self.after_tokens is not None)


class FaultSwitch:
    """Holds at most one fault and counts its strikes down."""

    def __init__(self):
        self.fault: Fault | None = None

    def take(self, kinds: tuple[str, ...]) -> Fault | None:
        """The fault that strikes now if it is one of `kinds`; uses up one of its times."""
        fault = self.fault
        if fault is None or fault.kind not in kinds:
            return None
        if fault.times is not None:
            fault.times -= 1
            if fault.times <= 0:
                self.fault = None
        return fault

    def as_json(self) -> dict | None:
        return asdict(self.fault) if self.fault else None


async def on_arrival(fault: Fault | None) -> None:
    """Let a fault strike that needs no generated token; returns when the request may go on."""
    if fault is None or fault.strikes_mid_answer:
        return
    if fault.kind == "refuse":
        raise ConnectionRefused
    if fault.kind == "unauthorized":
        raise Unauthorized
    if fault.kind == "error_500":
        raise ApiError(500, "internal_error", "Simulated failure: the engine gave up on this request.")
    await Deferred()  # a hang: nobody ever answers; the client's leaving cancels it
