"""The list of models: one row for each key, with the nodes that have it."""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from forge.models import Model
from forge.places import Place, places

SORTS = ("name", "loaded", "size", "parameters")
AMOUNT = re.compile(r"(?:(\d+)x)?(\d+(?:\.\d+)?)([KMBT])", re.ASCII | re.IGNORECASE)
SCALE = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


@dataclass(frozen=True, slots=True)
class Row:
    """One model key. The facts are those of its first place; where places differ, all are told."""

    places: list[Place]

    @property
    def model(self) -> Model:
        return self.places[0].model

    @property
    def dom_id(self) -> str:
        return f"row-{self.model.pk}"

    @property
    def quantizations(self) -> str:
        return ", ".join(dict.fromkeys(place.model.quantization for place in self.places if place.model.quantization))

    @property
    def variants(self) -> list[str]:
        """All that are on a disk, by the part of their names that tells them apart."""
        keys = dict.fromkeys(key for place in self.places for key in place.model.variants)
        return [str(key).rpartition("@")[2] for key in keys]

    @property
    def capabilities(self) -> list[str]:
        return capabilities(self.model)

    @property
    def is_loaded(self) -> bool:
        return any(place.copies for place in self.places)


def capabilities(model: Model) -> list[str]:
    """In words; what the node does not tell is left out."""
    levels = [str(option) for option in model.reasoning_options if option not in ("off", "on")]
    reasoning = [f"reasoning: {', '.join(levels)}" if levels else "reasoning"] if model.reasoning_options else []
    return [*(["vision"] if model.vision else []), *(["tools"] if model.tools else []), *reasoning]


def rows(filters: Mapping[str, str]) -> list[Row]:
    """Two queries. `filters` as ListForm cleans them; those that name a node or a state choose places."""
    present = Model.objects.present().select_related("node").order_by("key", "node__name")
    found = present.defer("metadata", "size_json", "node__token", "node__agent_key", "node__notes")
    by_key: dict[str, list[Place]] = defaultdict(list)
    for place in places(found):
        if _is_wanted(place, filters):
            by_key[place.model.key].append(place)
    return sorted((Row(there) for there in by_key.values()), key=_order(filters.get("sort") or SORTS[0]))


def _is_wanted(place: Place, filters: Mapping[str, str]) -> bool:
    model, wanted = place.model, {name: value for name, value in filters.items() if value}
    text = "\n".join((model.key, model.name, model.publisher, model.architecture_name)).casefold()
    return (
        all(word in text for word in wanted.get("q", "").casefold().split())
        and wanted.get("node") in (None, model.node.name)
        and wanted.get("type") in (None, model.type)
        and wanted.get("format") in (None, model.format)
        and wanted.get("state") in (None, "loaded" if place.copies else "disk")
        and ("capability" not in wanted or _can(model, wanted["capability"]))
    )


def _can(model: Model, capability: str) -> bool:
    return bool({"vision": model.vision, "tools": model.tools, "reasoning": model.reasoning_options}[capability])


def _order(sort: str):
    def name(row: Row) -> tuple:
        return (row.model.name or row.model.key).casefold(), row.model.key

    return {
        "name": name,
        "loaded": lambda row: (not row.is_loaded, name(row)),
        "size": lambda row: (-(row.model.size_bytes or 0), name(row)),
        "parameters": lambda row: (-parameter_count(row.model.parameters), name(row)),
    }[sort]


def parameter_count(told: str) -> float:
    """ "8B" → 8e9, "8x7B" → 56e9, "26B-A4B" → 26e9; 0 for what tells nothing."""
    found = AMOUNT.search(told)
    return int(found[1] or 1) * float(found[2]) * SCALE[found[3].upper()] if found else 0.0
