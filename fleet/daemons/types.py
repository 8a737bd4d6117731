"""What the queue asks of a daemon and what a daemon tells: the same for every kind."""

from dataclasses import dataclass, field

from fleet.allocation.profile import Profile

LOAD_SECONDS = 900.0  # what a load may take: a large model from a slow disk


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model on a node. `slots` is how many requests one loaded copy serves side by side; None = unknown."""

    key: str
    name: str
    type: str  # "llm" or "embedding"
    loaded: tuple[str, ...] = ()  # instance ids
    knows_loaded: bool = True  # False: this kind of daemon does not tell what is loaded
    slots: int | None = None
    size_bytes: int | None = None
    context_length: int | None = None
    reasoning_options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Turn:
    """One earlier exchange of a chat."""

    text: str
    answer: str


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One prompt as a daemon runs it. `settings` holds only names from SETTINGS of the prompt form."""

    model: str
    text: str
    system_prompt: str = ""
    settings: dict = field(default_factory=dict)
    previous_response_id: str = ""  # for daemons that keep the chat themselves
    history: tuple[Turn, ...] = ()  # for those that do not


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """One copy of a model to load. None and "" leave a matter to the daemon.

    `gpu_indices`: all GPUs of the machine as far as known, so that those the profile does not name can be kept out.
    """

    model: str
    context_length: int | None = None
    parallel: int | None = None
    ttl_seconds: float | None = None
    identifier: str = ""
    profile: Profile = field(default_factory=Profile)
    gpu_indices: tuple[int, ...] = ()
    is_embedding: bool = False

    @property
    def options(self) -> dict:
        """What is wished besides the profile, in the names of fleet.allocation.channels."""
        names = ("context_length", "parallel", "ttl_seconds", "identifier")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """`channel`: what the load went through. `dropped`: wishes that it could not carry, in words.

    `load_seconds`: as the daemon tells it, else as it took from here.
    """

    instance: str
    channel: str
    dropped: tuple[str, ...] = ()
    load_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """The daemon took the request; the instance that runs it, where it says so."""

    instance: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """Work before the first token: phase "load" or "prompt", fraction 0..1 (None = not told)."""

    phase: str
    fraction: float | None


@dataclass(frozen=True, slots=True)
class Reasoning:
    text: str


@dataclass(frozen=True, slots=True)
class Message:
    """A piece of the answer. `is_raw`: reasoning may still stand inside it, between tags."""

    text: str
    is_raw: bool = False


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model asked for a tool. `arguments` is JSON text as far as it has come."""

    name: str
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of an answer. `stats` has only what the daemon told, in the names of Stats below."""

    stats: dict = field(default_factory=dict)
    response_id: str = ""


ChatEvent = Started | Progress | Reasoning | Message | ToolCall | Finished

# Names in `Finished.stats`: input_tokens, output_tokens, reasoning_tokens (counts), tokens_per_second,
# first_token_seconds, load_seconds, stop_reason (text).
