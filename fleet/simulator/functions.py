"""Tool use on the OpenAI routes: which of the caller's functions to call, and with what (contract §4.3)."""

import secrets

from fleet.simulator.answers import Part, quote, tokenize
from fleet.simulator.exchange import encode_text


def choose_calls(body: dict, prompt: str) -> list[Part]:
    """One call: of the function that `tool_choice` or the prompt names, else of the first one."""
    tools = body.get("tools") or []
    functions = [tool["function"] for tool in tools if _is_function(tool)] if isinstance(tools, list) else []
    choice = body.get("tool_choice")
    if not functions or choice == "none":
        return []
    wanted = choice.get("function", {}).get("name") if isinstance(choice, dict) else None
    named = [one for one in functions if one["name"] == wanted or (wanted is None and one["name"] in prompt)]
    return [_call((named or functions)[0], prompt)]


def _is_function(tool) -> bool:
    function = tool.get("function") if isinstance(tool, dict) else None
    return isinstance(function, dict) and isinstance(function.get("name"), str)


def _call(function: dict, prompt: str) -> Part:
    arguments = encode_text(_arguments(function.get("parameters") or {}, prompt))
    detail = {
        "id": f"call_{secrets.token_hex(8)}",
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }
    return Part("tool_call", tokenize(arguments), detail)


def _arguments(schema: dict, prompt: str) -> dict:
    """A value for every required property of a JSON schema, or for all when none is required."""
    properties = schema.get("properties") or {}
    names = schema.get("required") or list(properties)
    return {name: _value(properties.get(name) or {}, prompt) for name in names}


def _value(schema: dict, prompt: str):
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type")
    if kind == "object":
        return _arguments(schema, prompt)
    return {"integer": 1, "number": 1.5, "boolean": True, "array": []}.get(kind, quote(prompt))
