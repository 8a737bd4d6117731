"""What the queue asks of a daemon and what a daemon tells: the same for every kind."""

from dataclasses import dataclass, field

from fleet.allocation.channels import OPTIONS
from fleet.allocation.profile import Profile

LOAD_SECONDS = 900.0  # what a load may take: a large model from a slow disk


@dataclass(frozen=True, slots=True)
class InstanceConfig:
    """A loaded copy and what it was loaded with, as far as the daemon tells (contract §2.1).

    `parallel`: requests it serves side by side. `options`: all else that is told of its load, numbers and flags only,
    in the daemon's own names ("flash_attention").
    """

    id: str
    context_length: int | None = None
    parallel: int | None = None
    options: dict = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model on a node. `slots` is how many requests one loaded copy serves side by side; None = unknown.

    From `publisher` on it is what the model is by its maker and its files; "" and None = not told. `variants` are the
    keys of all that are on the node's disk, where there are several; `selected_variant` is the one that a load takes.
    """

    key: str
    name: str
    type: str  # "llm" or "embedding"
    loaded: tuple[str, ...] = ()  # instance ids
    knows_loaded: bool = True  # False: this kind of daemon does not tell what is loaded
    slots: int | None = None
    size_bytes: int | None = None
    context_length: int | None = None
    reasoning_options: tuple[str, ...] = ()
    publisher: str = ""
    architecture: str = ""
    parameters: str = ""  # "8B", "26B-A4B"
    quantization: str = ""  # "Q4_K_M"
    bits_per_weight: float | None = None
    format: str = ""  # "gguf" or "mlx"
    vision: bool | None = None
    tools: bool | None = None  # trained to call tools
    variants: tuple[str, ...] = ()
    selected_variant: str = ""
    instances: tuple[InstanceConfig, ...] = ()


@dataclass(frozen=True, slots=True)
class Processing:
    """What a loaded copy does right now. "" and None = not told.

    `status`: "idle", "processingPrompt", "generating", "computingEmbedding" or what later versions add. `queued`:
    requests that run or wait there (contract §6).
    """

    status: str = ""
    queued: int | None = None

    @property
    def is_busy(self) -> bool | None:
        """Somebody would notice if it went away now; None = unknown."""
        if self.queued or self.status not in {"", "idle"}:
            return True
        return None if self.status == "" and self.queued is None else False


@dataclass(frozen=True, slots=True)
class InstanceState:
    """A loaded copy at this moment. `ttl_seconds`: it is unloaded when nobody used it for so long; None = never.

    `last_used_at` is in unix seconds, None when it was not used yet. `status` and `queued` as for Processing.
    """

    id: str
    model: str  # its key
    is_embedding: bool = False
    context_length: int | None = None
    ttl_seconds: float | None = None
    last_used_at: float | None = None
    status: str = ""
    queued: int | None = None
    device: str = ""  # "" = the node's own machine, else a device behind LM Link

    @property
    def is_busy(self) -> bool | None:
        return Processing(self.status, self.queued).is_busy


@dataclass(frozen=True, slots=True)
class Download:
    """A model on its way to a node's disk; what is None was not told. `finishes_at`: unix seconds.

    `status`: "downloading", "paused", "completed", "failed", "already_downloaded" (without a `job_id`), or a word that
    later versions add.
    """

    job_id: str
    status: str
    total_bytes: int | None = None
    downloaded_bytes: int | None = None
    bytes_per_second: float | None = None
    finishes_at: float | None = None


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
    flash_attention: bool | None = None
    offload_kv_cache_to_gpu: bool | None = None
    eval_batch_size: int | None = None
    num_experts: int | None = None
    profile: Profile = field(default_factory=Profile)
    gpu_indices: tuple[int, ...] = ()
    is_embedding: bool = False

    @property
    def options(self) -> dict:
        """What is wished besides the profile, in the names of fleet.allocation.channels."""
        return {name: getattr(self, name) for name in OPTIONS}


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
