"""The queue's rows: lanes of prompts, their attempts, the pieces of output, who works, paired devices; and what a
client keeps of its server."""

from .attempt import Attempt, Chunk
from .device import Device, PairingCode, Receipt
from .lane import Lane
from .prompt import Prompt
from .remote import Mirror, Mutation, Remote, RemoteModel
from .runner import Runner

__all__ = [
    "Attempt",
    "Chunk",
    "Device",
    "Lane",
    "Mirror",
    "Mutation",
    "PairingCode",
    "Prompt",
    "Receipt",
    "Remote",
    "RemoteModel",
    "Runner",
]
