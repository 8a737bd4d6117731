"""What a request can ask for beside chats, and which way a chat goes."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from fleet.daemons.lmstudio import LMStudio
from fleet.lms.manager import LMStudioManager
from fleet.native import queued
from fleet.native.answers import Problem, chunk, success
from fleet.native.chats import Ask, Chat
from fleet.native.direct import DirectChat
from fleet.native.queued import QueuedChat
from fleet.native.site import Site

TOKEN_FROM = "LM_API_TOKEN"  # noqa: S105 (a variable's name; LM Studio's own SDKs use it, contract §1.3)
MODELS_AT_ONCE = 100  # keys and names are at most 300 characters each


class Actions:
    """`do(name)` gives the messages that answer, `chat(ask)` the Chat for it. Errors: see `answers.problem`."""

    def __init__(self, data_dir: Path):
        self.data_dir = data_dir
        self.known: dict[str, Callable[[], Iterator[dict]]] = {
            "check_lmstudio": self._check,
            "start_lmstudio": self._start,
            "stop_lmstudio": self._stop,
            "list_models": self._models,
        }

    def do(self, action: str) -> Iterator[dict]:
        return self.known[action]()

    def chat(self, ask: Ask) -> Chat:
        """Through the queue where it can be, so that no busy model is thrown out; else straight to LM Studio."""
        site = Site.linked(self.data_dir)
        if site and queued.fits(ask, site.models() or []):
            return QueuedChat(ask, site)
        return DirectChat(ask, self._manager())

    def _manager(self) -> LMStudioManager:
        """A new one each time: LM Studio may have been installed or moved since."""
        return LMStudioManager(token=os.environ.get(TOKEN_FROM, ""))

    def _check(self) -> Iterator[dict]:
        yield success(self._manager().get_status().as_json() | {"daemonpulse": self._site_status()})

    def _start(self) -> Iterator[dict]:
        yield success(self._manager().ensure_server_running().as_json())

    def _stop(self) -> Iterator[dict]:
        yield success(self._manager().stop_server().as_json())

    def _site_status(self) -> dict:
        site = Site.linked(self.data_dir)
        try:
            is_running = site is not None and site.models() is not None
        except Problem as problem:
            return {"running": True, "url": site.url, "problem": f"{problem.message} {problem.advice}"}
        return {"running": True, "url": site.url} if is_running else {"running": False}

    def _models(self) -> Iterator[dict]:
        site = Site.linked(self.data_dir)
        rows, source = (site.models() if site else None), "daemonpulse"
        if rows is None:
            rows, source = self._models_here(), "lmstudio"
        last = max(0, len(rows) - 1) // MODELS_AT_ONCE * MODELS_AT_ONCE
        for start in range(0, last, MODELS_AT_ONCE):
            yield chunk({"models": rows[start : start + MODELS_AT_ONCE]})
        yield success({"models": rows[last:], "source": source})

    def _models_here(self) -> list[dict]:
        """LM Studio's own list, in the shape of DaemonPulse's."""
        manager = self._manager()
        found = LMStudio(manager.api_endpoint, manager.token).models()
        return [
            {"key": model.key, "name": model.name, "is_loaded": bool(model.loaded), "is_online": True, "nodes": []}
            for model in found
            if model.type == "llm"
        ]
