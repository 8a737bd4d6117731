"""The scripted models: what they weigh, how fast they pretend to be and how they behave.

Sizes are those of real models of that class, so that what fits together here fits together on a real card.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class ScriptedModel:
    key: str
    display_name: str
    kind: str = "llm"  # or "embedding"
    architecture: str = "llama"
    params: str | None = "8B"
    quantization: str = "Q4_K_M"
    bits_per_weight: float = 4
    size_bytes: int = 4_920_000_000
    layers: int = 32
    kv_heads: int = 8  # 0: it caches nothing
    head_size: int = 128
    kv_bytes_per_token: int | None = None  # None: as the shape says
    context_length: int = 8_192
    max_context_length: int = 131_072
    load_seconds: float = 1.6
    ttft_seconds: float = 0.25
    tokens_per_second: float | None = 48
    vision: bool = False
    calls_tools: bool = False
    thinking: str = "none"  # "native": reasoning events; "raw": <think> tags inside the text
    flaky_kinds: tuple[str, ...] = ()  # fault kinds taken in turn, one at every FLAKY_EVERY-th request
    variants: tuple[str, ...] = ()  # quantizations on disk, where there are several; the first one is loaded
    description: str | None = None

    @property
    def publisher(self) -> str:
        return self.key.partition("/")[0] if "/" in self.key else "simulated"

    def cache_bytes(self, context_length: int) -> int:
        """The key-value cache of a copy's whole context; beside the weights all that a load is estimated to take."""
        return context_length * self.cache_bytes_per_token

    @property
    def cache_bytes_per_token(self) -> int:
        """Keys and values of every layer, two bytes each."""
        if self.kv_bytes_per_token is not None:
            return self.kv_bytes_per_token
        return 2 * 2 * self.layers * self.kv_heads * self.head_size

    def variant_keys(self) -> list[str]:
        return [f"{self.key}@{quantization.lower()}" for quantization in self.variants]


MODELS = (
    ScriptedModel(
        "simulated/otter-8b",
        "Otter 8B (simulated)",
        variants=("Q4_K_M", "Q8_0"),
        description="A scripted chat model.",
    ),
    ScriptedModel(
        "simulated/heron-3b",
        "Heron 3B (simulated)",
        params="3B",
        size_bytes=2_020_000_000,
        layers=28,
        load_seconds=1.0,
        ttft_seconds=0.12,
        tokens_per_second=95,
        vision=True,
        description="A scripted chat model, small and quick; accepts images.",
    ),
    ScriptedModel(
        "simulated/owl-thinker-14b",
        "Owl Thinker 14B (simulated)",
        architecture="qwen3",
        params="14B",
        size_bytes=9_000_000_000,
        layers=40,
        max_context_length=40_960,
        load_seconds=2.4,
        ttft_seconds=0.35,
        tokens_per_second=32,
        thinking="native",
        description="A scripted model that reasons before it answers.",
    ),
    ScriptedModel(
        "simulated/raven-raw-think-7b",
        "Raven Raw Think 7B (simulated)",
        architecture="qwen2",
        params="7B",
        size_bytes=4_680_000_000,
        layers=28,
        kv_heads=4,
        load_seconds=1.5,
        tokens_per_second=52,
        thinking="raw",
        description="A scripted model that leaves <think> tags in its text.",
    ),
    ScriptedModel(
        "simulated/beaver-tools-8b",
        "Beaver Tools 8B (simulated)",
        architecture="qwen3",
        size_bytes=5_030_000_000,
        layers=36,
        max_context_length=40_960,
        load_seconds=1.7,
        ttft_seconds=0.3,
        tokens_per_second=45,
        calls_tools=True,
        description="A scripted model that calls the tools it is given.",
    ),
    ScriptedModel(
        "text-embedding-simulated-reed",
        "Reed (simulated)",
        kind="embedding",
        architecture="nomic-bert",
        params=None,
        quantization="F16",
        bits_per_weight=16,
        size_bytes=274_000_000,
        layers=12,
        kv_heads=0,
        head_size=64,
        context_length=2_048,
        max_context_length=2_048,
        load_seconds=0.4,
        ttft_seconds=0.02,
    ),
    ScriptedModel(
        "simulated/tortoise-slow-70b",
        "Tortoise Slow 70B (simulated)",
        params="70B",
        quantization="IQ2_XXS",
        bits_per_weight=2,
        size_bytes=19_100_000_000,
        layers=80,
        load_seconds=3.0,
        ttft_seconds=1.8,
        tokens_per_second=6,
        description="A scripted model that fills the card and takes its time.",
    ),
    ScriptedModel(
        "simulated/magpie-flaky-4b",
        "Magpie Flaky 4B (simulated)",
        params="4B",
        size_bytes=2_500_000_000,
        layers=36,
        load_seconds=1.2,
        ttft_seconds=0.2,
        tokens_per_second=60,
        flaky_kinds=("error_500", "cut", "refuse"),
        description="A scripted model that fails every third request.",
    ),
)
