"""Tool use on the native route: the daemon itself runs the (simulated) MCP tools (contract §2.6, §3)."""

from fleet.simulator.answers import Part, quote, tokenize
from fleet.simulator.exchange import encode_text
from fleet.simulator.validation import Rule, check_union, invalid, is_list, is_object, is_text

INVALID_TOOL = "[[invalid-tool]]"  # in a prompt: the model asks for a tool that does not exist
DEFAULT_TOOL = "search"
KINDS = {
    "plugin": {
        "type": Rule(is_text, required=True),
        "id": Rule(is_text, required=True),
        "allowed_tools": Rule(is_list),
    },
    "ephemeral_mcp": {
        "type": Rule(is_text, required=True),
        "server_label": Rule(is_text, required=True),
        "server_url": Rule(is_text, required=True),
        "allowed_tools": Rule(is_list),
        "headers": Rule(is_object),
    },
}


def check_integrations(integrations: list) -> None:
    """Raises ApiError 400 for an item that is neither a plugin's name nor one of the two object forms."""
    for item in integrations:
        if not isinstance(item, str):
            check_union(item, "integrations", KINDS)
        elif not item.startswith("mcp/"):
            raise invalid("invalid_value", f"Unknown integration '{item}'. Expected 'mcp/<label>'", "integrations")


def tool_calls(integrations: list, prompt: str) -> list[Part]:
    """One call for each integration, answered at once by an invented tool."""
    return [_call(item, prompt) for item in integrations]


def _call(item: str | dict, prompt: str) -> Part:
    if isinstance(item, str):
        item = {"type": "plugin", "id": item}
    plugin = item["type"] == "plugin"
    provider = (
        {"type": "plugin", "plugin_id": item["id"]}
        if plugin
        else {"type": "ephemeral_mcp", "server_label": item["server_label"]}
    )
    arguments = {"query": quote(prompt)}
    pieces = tokenize(encode_text(arguments))
    if INVALID_TOOL in prompt:
        metadata = {"type": "invalid_name", "tool_name": "no_such_tool", "arguments": arguments}
        detail = {
            "reason": "There is no tool of this name.",
            "metadata": {**metadata, "provider_info": provider},
        }
        return Part("invalid_tool_call", pieces, detail)
    tool = (item.get("allowed_tools") or [DEFAULT_TOOL])[0]
    output = encode_text([{"type": "text", "text": f"Simulated result for “{quote(prompt)}”."}])
    detail = {"tool": tool, "arguments": arguments, "output": output, "provider_info": provider}
    return Part("tool_call", pieces, detail)
