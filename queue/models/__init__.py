"""The queue's rows: lanes of prompts, their attempts, the pieces of output, who works, and paired devices."""

from .attempt import Attempt, Chunk
from .device import Device, PairingCode, Receipt
from .lane import Lane
from .prompt import Prompt
from .runner import Runner

__all__ = ["Attempt", "Chunk", "Device", "Lane", "PairingCode", "Prompt", "Receipt", "Runner"]
