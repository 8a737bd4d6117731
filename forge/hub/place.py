"""Where the hub is, and what it means when it gives no answer."""

import os

HUB = "https://huggingface.co"


class HubUnavailable(Exception):
    """The hub gave no answer that can be used; the text says why and what to do."""


def endpoint() -> str:
    """Where the hub is asked: a mirror may be named in HF_ENDPOINT, as its library has it."""
    return (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")


def address(id: str) -> str:
    """What a node is told of a repository: the address of the hub itself, which is all that LM Studio takes."""
    return f"{HUB}/{id}"
