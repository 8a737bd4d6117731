"""What of a model's metadata decides how much memory it takes.

An Architecture may come from another machine, so from_json() takes nothing on trust: every number has its bounds.
"""

import dataclasses
from dataclasses import dataclass

from fleet.texts import clean

MAX_LAYERS = 10_000
MAX_TEXT = 64
MOST_BYTES = 2**50
# The most of each number; a tuple's is that of its items. Far above every model there is.
MOST = {
    "layers": MAX_LAYERS, "embedding_length": 2**20, "feed_forward_length": 2**24, "heads": 2**16, "kv_heads": 2**16,
    "key_length": 2**16, "value_length": 2**16, "key_length_swa": 2**16, "value_length_swa": 2**16,
    "kv_lora_rank": 2**16, "rope_length": 2**16, "indexer_length": 2**16, "context_length": 2**32,
    "vocabulary": 2**26, "sliding_window": 2**32, "state_length": 2**32, "experts": 2**16, "experts_used": 2**16,
    "weights_bytes": MOST_BYTES, "embedding_bytes": MOST_BYTES, "output_bytes": MOST_BYTES,
    "expert_bytes": MOST_BYTES, "parameters": MOST_BYTES,
}  # fmt: skip
PER_LAYER = ("kv_heads", "slides", "recurs")


@dataclass(frozen=True, slots=True)
class Architecture:
    """A model as its file describes it. Lengths count numbers, not bytes; 0 = there is none of it.

    `kv_heads`, `slides` and `recurs` have an item for each layer: the heads of its cache (0 = it caches nothing),
    whether it sees no more than `sliding_window` tokens, whether it keeps a recurrent state of `state_length` numbers.
    """

    name: str  # "llama": what the file calls its architecture
    layers: int
    embedding_length: int
    heads: int  # of queries; the most of any layer
    kv_heads: tuple[int, ...]
    key_length: int  # of one head
    value_length: int
    key_length_swa: int  # the same in layers that slide
    value_length_swa: int
    feed_forward_length: int  # what one token passes through: of all the experts it uses
    context_length: int  # trained for
    vocabulary: int
    slides: tuple[bool, ...] = ()
    sliding_window: int = 0
    recurs: tuple[bool, ...] = ()
    state_length: int = 0
    is_latent: bool = False  # multi-head latent attention: one row of kv_lora_rank + rope_length, and no values
    kv_lora_rank: int = 0
    rope_length: int = 0
    indexer_length: int = 0  # of the key that sparse attention chooses by, beside the cache
    experts: int = 0
    experts_used: int = 0
    weights_bytes: int = 0  # all tensors
    embedding_bytes: int = 0  # of these the table of tokens, which stays in the main memory
    output_bytes: int = 0  # 0 = the table of tokens serves as output too, and is then kept twice
    expert_bytes: int = 0  # of these what belongs to single experts
    parameters: int = 0
    file_type: str = ""  # "Q4_K_M"; "" = the file does not tell

    def as_json(self) -> dict:
        fields = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}

    @classmethod
    def from_json(cls, data: object) -> "Architecture":
        """What as_json() wrote, here or on a machine with another version of this program.

        Keys that are unknown here are dropped. Raises ValueError for what is no architecture.
        """
        if not isinstance(data, dict):
            raise ValueError("This is no description of a model.")
        given = [field for field in dataclasses.fields(cls) if _is_needed(field) or field.name in data]
        found = cls(**{field.name: _checked(field, data.get(field.name)) for field in given})
        if not found.layers or not found.embedding_length:
            raise ValueError("A model has at least one layer, and an embedding.")
        for name in PER_LAYER:
            if len(getattr(found, name)) not in ({found.layers} if name == "kv_heads" else {0, found.layers}):
                raise ValueError(f'"{name}" must have an item for each of the {found.layers} layers.')
        return found


def _is_needed(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING


def _checked(field: dataclasses.Field, value: object) -> object:
    """The value in the type and the bounds of its field. Raises ValueError."""
    if field.type is str and isinstance(value, str):
        return clean(value, MAX_TEXT)
    if field.type is bool and isinstance(value, bool):
        return value
    if field.type is int:
        return _number(field.name, value)
    if field.type == tuple[int, ...] and _is_list(value):
        return tuple(_number(field.name, item) for item in value)
    if field.type == tuple[bool, ...] and _is_list(value) and all(isinstance(item, bool) for item in value):
        return tuple(value)
    raise ValueError(f'"{field.name}" of a model is missing, or not of its kind.')


def _number(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MOST[name]:
        raise ValueError(f'"{name}" of a model must be a whole number from 0 to {MOST[name]}.')
    return value


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) <= MAX_LAYERS
