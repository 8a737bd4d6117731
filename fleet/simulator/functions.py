"""Tool use on the OpenAI routes: which of the caller's functions to call, and with what (contract §4.3)."""

import secrets

from fleet.simulator.answers import Part, quote, tokenize
from fleet.simulator.exchange import encode_text
from fleet.simulator.validation import object_or_empty


def choose_calls(body: dict, prompt: str) -> list[Part]:
    """One call: of the function that `tool_choice` or the prompt names, else of the first one."""
    tools = body.get("tools") or []
    functions = [tool["function"] for tool in tools if _is_function(tool)] if isinstance(tools, list) else []
    choice = body.get("tool_choice")
    if not functions or choice == "none":
        return []
    wanted = object_or_empty(object_or_empty(choice).get("function")).get("name")
    named = [one for one in functions if one["name"] == wanted or (wanted is None and one["name"] in prompt)]
    return [_call((named or functions)[0], prompt)]


def _is_function(tool) -> bool:
    function = object_or_empty(object_or_empty(tool).get("function"))
    return isinstance(function.get("name"), str)


def _call(function: dict, prompt: str) -> Part:
    arguments = encode_text(_arguments(function.get("parameters"), prompt))
    detail = {
        "id": f"call_{secrets.token_hex(8)}",
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }
    return Part("tool_call", tokenize(arguments), detail)


def _arguments(schema, prompt: str) -> dict:
    """A value for every required property of a JSON schema, or for all when none is required."""
    schema = object_or_empty(schema)
    properties = object_or_empty(schema.get("properties"))
    required = [name for name in properties if name in (schema.get("required") or ())]
    return {name: _value(object_or_empty(properties[name]), prompt) for name in required or properties}


def _value(schema: dict, prompt: str):
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type")
    if kind == "object":
        return _arguments(schema, prompt)
    return {"integer": 1, "number": 1.5, "boolean": True, "array": []}.get(kind, quote(prompt))
