"""Several simulated cards: which of them takes how much of a load (contract §9). Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from fleet.simulator.validation import is_integer, is_list, is_number, object_or_empty

STRATEGIES = ("evenly", "priorityOrder", "tensor", "custom")


@dataclass(frozen=True)
class Split:
    """What a load config says of cards; the default is an even split of everything."""

    strategy: str = "evenly"
    disabled: tuple[int, ...] = ()
    priority: tuple[int, ...] = ()
    custom: tuple[float, ...] = ()
    ratio: float = 1.0  # the part on cards; the rest is in the machine's memory

    @classmethod
    def read(cls, split_config: object, ratio: object) -> "Split":
        """From the values of the two KV fields. Raises ValueError for what the schema does not have."""
        config = object_or_empty(split_config)
        strategy = config.get("strategy", "evenly")
        ratio = {"max": 1, "off": 0, None: 1}.get(ratio, ratio) if not is_number(ratio) else ratio
        if strategy not in STRATEGIES or not is_number(ratio) or not 0 <= ratio <= 1:
            raise ValueError("not a split of cards")
        indices = {name: _numbers(config.get(name, []), is_integer) for name in ("disabledGpus", "priority")}
        custom = _numbers(config.get("customRatio", []), is_number)
        return cls(strategy, indices["disabledGpus"], indices["priority"], custom, ratio)


def spread(need: int, free: Sequence[int], split: Split) -> list[int]:
    """Bytes for each card, more than is free where it does not fit. The daemon itself fails such a load."""
    wanted = round(need * split.ratio)
    count = len(free)
    if split.strategy == "custom" and sum(split.custom[:count]) > 0:
        weights = [*split.custom[:count], *[0] * count][:count]
        return _weighed(wanted, weights)
    usable = [card for card in range(count) if card not in split.disabled]
    if split.strategy == "priorityOrder" and split.priority:
        first = [card for card in dict.fromkeys(split.priority) if card in usable]
        return _filled(wanted, free, [*first, *(card for card in usable if card not in first)])
    return _weighed(wanted, [int(card in usable) for card in range(count)])


def _filled(wanted: int, free: Sequence[int], order: Sequence[int]) -> list[int]:
    parts = [0] * len(free)
    for card in order:
        parts[card] = min(wanted, max(0, free[card]))
        wanted -= parts[card]
    if wanted and order:
        parts[order[-1]] += wanted
    return parts


def _weighed(wanted: int, weights: Sequence[float]) -> list[int]:
    """By weight, whole bytes; what rounding leaves over is the first card's that takes part."""
    total = sum(weights)
    if not total:
        return [0] * len(weights)
    parts = [int(wanted * weight / total) for weight in weights]
    first = next(card for card, weight in enumerate(weights) if weight)
    parts[first] += wanted - sum(parts)
    return parts


def _numbers(value: object, has_type) -> tuple:
    if not is_list(value) or not all(has_type(one) and one >= 0 for one in value):
        raise ValueError("not a list of numbers")
    return tuple(value)
