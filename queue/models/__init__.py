"""The queue's rows: lanes of prompts, their attempts, the pieces of output, and who works."""

from .attempt import Attempt, Chunk
from .lane import Lane
from .prompt import Prompt
from .runner import Runner

__all__ = ["Attempt", "Chunk", "Lane", "Prompt", "Runner"]
