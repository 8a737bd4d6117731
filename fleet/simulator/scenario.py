"""The scenario file: models to change, to add or to serve instead of the scripted ones."""

import dataclasses
import json
from pathlib import Path

from fleet.simulator.catalogue import MODELS, ScriptedModel
from fleet.simulator.faults import REQUEST_KINDS

# Fields whose default does not say what they may hold.
TYPES = {
    "key": str,
    "display_name": str,
    "params": str | None,
    "kv_bytes_per_token": int | None,
    "bits_per_weight": int | float,
    "load_seconds": int | float,
    "ttft_seconds": int | float,
    "tokens_per_second": int | float | None,
    "description": str | None,
}


class ScenarioError(ValueError):
    """The scenario file cannot be used."""


def read_scenario(path: str) -> tuple[ScriptedModel, ...]:
    """The models to serve: the scripted ones as the file changes them, or only those of the file.

    The file is {"replace": false, "models": [{"key": …, "like": key, …}]}, each entry with any fields of
    ScriptedModel. It changes the model of its key, or adds one that starts as a copy of `like`.
    Raises ScenarioError with what is wrong.
    """
    try:
        scenario = json.loads(Path(path).read_text(encoding="utf-8"))
        entries = scenario["models"]
        built_in = {model.key: model for model in MODELS}
        written = {entry["key"]: _scripted(entry, built_in) for entry in entries}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ScenarioError(f"cannot use the scenario {path}: {type(error).__name__}: {error}") from error
    return tuple(written.values()) if scenario.get("replace") else tuple({**built_in, **written}.values())


def _scripted(entry: dict, built_in: dict[str, ScriptedModel]) -> ScriptedModel:
    fields = {name: value for name, value in entry.items() if name != "like"}
    if "like" in entry:
        base = built_in[entry["like"]]
    else:
        base = built_in.get(entry["key"]) or ScriptedModel(entry["key"], f"{entry['key']} (simulated)")
    for name in {"flaky_kinds", "variants"} & set(fields):
        fields[name] = tuple(fields[name])
    model = dataclasses.replace(base, **fields)
    _check(model)
    return model


def _check(model: ScriptedModel) -> None:
    """Every value has the type of its field; raises ScenarioError."""
    for field in dataclasses.fields(ScriptedModel):
        value = getattr(model, field.name)
        if not isinstance(value, TYPES.get(field.name) or type(field.default)):
            raise ScenarioError(f"{model.key}: {field.name} cannot be {value!r}")
    if unknown := set(model.flaky_kinds) - set(REQUEST_KINDS):
        raise ScenarioError(f"{model.key}: unknown fault kinds {sorted(unknown)}")
