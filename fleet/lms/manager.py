"""The lifecycle of the LM Studio on this machine: look, start, stop, update, load (contract §7).

Looking never wakes the daemon: most `lms` commands start it when it is down (contract §7.0), so before all but
`server status` and `daemon status` we ask whether it runs.
"""

from collections.abc import Callable, Mapping, Sequence

from daemonpulse.addresses import is_address
from fleet.daemons.errors import DaemonError, Reason
from fleet.daemons.types import LOAD_SECONDS
from fleet.lms import chat, daemon, loading, preferences, server
from fleet.lms.chat import ChatDeltas, ChatMessage, MessageRole
from fleet.lms.cli import Lms, LmsError, Problem, value
from fleet.lms.daemon import DaemonState
from fleet.lms.errors import not_installed
from fleet.lms.home import DEFAULT_INTERFACE, Folder, url_of
from fleet.lms.logs import LogStream, Source
from fleet.lms.status import MAX_TEXT, State, Status
from fleet.texts import clean
from fleet.weights.downloads import file_of
from fleet.weights.finding import models_folder
from fleet.weights.reading import Unreadable, read

__all__ = ["ChatMessage", "LMStudioManager", "LmsError", "MessageRole", "Problem", "State", "Status"]

LOOK_SECONDS = 15.0
START_SECONDS = 100.0  # waking the daemon takes up to 60 s, then the server is probed for 5 s (contract §7.0, §7.7)
STOP_SECONDS = 30.0
SETTLE_SECONDS = 5.0  # until what was started or stopped shows
DOUBT_SECONDS = 1.0  # the same when the command says that it failed
QUERY_SECONDS = 60.0
QUERIES = {"ls": ("ls",), "ps": ("ps",), "survey": ("runtime", "survey"), "link": ("link", "status")}
# `ls` and `ps` exit with 1 when an instance vanishes meanwhile (contract §7.2, §7.3).
TRIES = {"ls": 2, "ps": 2}


class LMStudioManager:
    """One LM Studio. `port` and `bind` are where its server is started; without them, where it was last.

    `on_line` gets each line that a changing command writes, as it comes. What fails raises LmsError, or DaemonError
    where HTTP is spoken; a value that cannot be passed on raises ValueError.
    """

    def __init__(
        self,
        folder: Folder | None = None,
        port: int | None = None,
        bind: str | None = None,
        token: str = "",
        on_line: Callable[[str], None] | None = None,
    ):
        self.folder = folder or Folder.find()
        self.port = port
        self.bind = bind
        self.token = token
        self.on_line = on_line

    @property
    def api_endpoint(self) -> str:
        """The server's URL as seen from this machine."""
        return self.folder.base_url if self.port is None else url_of(*self._place)

    @property
    def _place(self) -> tuple[str, int]:
        """Address and port for a start. `lms` takes up the port that was last used, but never the address, so a
        server that others could reach would come back for this machine alone (contract §7.7)."""
        last = self.folder.interface
        return self.bind or (last if is_address(last) else DEFAULT_INTERFACE), self.port or self.folder.port

    @property
    def lms(self) -> Lms:
        """The command line. Raises LmsError when there is none."""
        if executable := self.folder.lms:
            return Lms(executable)
        if self.folder.is_installed:
            raise LmsError(Problem.NOT_BOOTSTRAPPED, State.NOT_BOOTSTRAPPED.explanation)
        advice = not_installed(self.folder.platform)
        raise LmsError(Problem.NOT_INSTALLED, State.NOT_INSTALLED.explanation, advice=advice)

    def get_status(self) -> Status:
        """How it stands. Never wakes the daemon and never raises; works without `lms`, by HTTP only."""
        found, trouble = self._look_at_daemon()
        is_up = server.greets(self.api_endpoint, server.PATIENT_SECONDS)
        return Status(
            installed=self.folder.is_installed,
            bootstrapped=self.folder.is_bootstrapped,
            server_running=is_up,
            api_endpoint=self.api_endpoint,
            current_model=self._current_model() if is_up else None,
            state=(state := self._state(is_up, trouble)),
            advice=self._advice(state, trouble),
            daemon_running=found.is_running,
            daemon_pid=found.pid,
            is_daemon=found.is_daemon,
            version=self._version(found.pid) if found.is_running else None,
            headless=self.headless(),
        )

    def _look_at_daemon(self) -> tuple[DaemonState, LmsError | None]:
        """Unknown when there is no `lms`, or it fails; then also why."""
        if not self.folder.is_bootstrapped:
            return DaemonState(), None
        try:
            return daemon.look(self.lms, LOOK_SECONDS), None
        except LmsError as error:
            return DaemonState(), error

    def _version(self, pid: int | None) -> str | None:
        try:
            return daemon.version(self.lms.executable, pid, LOOK_SECONDS) if pid else None
        except LmsError:
            return None

    def _state(self, is_up: bool, trouble: LmsError | None) -> State:
        if trouble and trouble.problem is Problem.PASSKEY_MISMATCH:
            return State.PASSKEY_MISMATCH
        if is_up:
            return State.READY
        if self.folder.is_bootstrapped:
            return State.SERVER_DOWN
        return State.NOT_BOOTSTRAPPED if self.folder.is_installed else State.NOT_INSTALLED

    def _advice(self, state: State, trouble: LmsError | None) -> str:
        """Of the state; and what keeps a server that answers from being managed."""
        if trouble and trouble.problem is not Problem.PASSKEY_MISMATCH:
            return f"{trouble} {trouble.advice}"
        if state is State.READY and not self.folder.is_bootstrapped:
            missing = State.NOT_BOOTSTRAPPED if self.folder.is_installed else State.NOT_INSTALLED
            return f"It cannot be started or stopped from here. {missing.advice(self.folder.platform)}"
        return state.advice(self.folder.platform)

    def _current_model(self) -> str | None:
        try:
            model = server.loaded_model(self.api_endpoint, self.token)
        except DaemonError:
            return None
        return clean(model, MAX_TEXT) if model else None

    def ensure_server_running(self) -> Status:
        """Start the server unless it answers already; it is asked whether it does, whatever the command says."""
        return self._ensure_at(*self._place)

    def _ensure_at(self, bind: str, port: int) -> Status:
        if server.greets(self.api_endpoint, server.PATIENT_SECONDS):
            return self.get_status()
        lms, url = self.lms, url_of(bind, port)
        # Without --port and --bind a fresh daemon may end up elsewhere (contract §7.7).
        args = ("server", "start", "--port", str(port), "--bind", value(bind))
        try:
            answer = lms.run(*args, seconds=START_SECONDS, on_line=self.on_line)
        except LmsError as error:
            if error.problem is Problem.TIMEOUT and server.greets(url, server.PATIENT_SECONDS):
                return self.get_status()
            raise
        # It may report a failure although the server is up (contract §12.8).
        if not server.comes_to(url, is_up=True, seconds=DOUBT_SECONDS if answer.exit_code else SETTLE_SECONDS):
            sentence = f"LM Studio's server does not answer at {url}: {answer.complaint}"
            raise LmsError(Problem.FAILED, sentence, answer.text, "Try another port; something else may use this one.")
        return self.get_status()

    def stop_server(self) -> Status:
        """Stop the server; one that does not run is no error."""
        url = self.api_endpoint
        answer = self.lms.run("server", "stop", seconds=STOP_SECONDS, on_line=self.on_line)
        if not server.comes_to(url, is_up=False, seconds=SETTLE_SECONDS):
            raise LmsError(Problem.FAILED, f"A server still answers at {url}: {answer.complaint}", answer.text)
        if answer.exit_code and not answer.says("not running"):
            raise answer.failure()
        return self.get_status()

    def restart_server(self) -> Status:
        place = self._place
        self.stop_server()
        return self._ensure_at(*place)

    def daemon_up(self) -> Status:
        """Start llmster, or the desktop application where only that is installed."""
        answer = self.lms.run("daemon", "up", seconds=START_SECONDS, on_line=self.on_line)
        status = self.get_status()
        if not status.daemon_running:
            raise answer.failure()
        return status

    def daemon_down(self) -> Status:
        """Stop llmster, and with it the server and every loaded model; one that does not run is no error."""
        daemon.down(self.lms, STOP_SECONDS, self.on_line)
        return self.get_status()

    def daemon_update(self) -> Status:
        """Update llmster: stopped before, and running as before afterwards, also when the update failed."""
        daemon.check_can_update(self.folder.platform)
        before, place = daemon.look(self.lms, LOOK_SECONDS), self._place
        # One that is there but too busy to answer is brought back as well.
        had_server = server.look(self.api_endpoint, server.PATIENT_SECONDS) is not False
        if before.is_running:
            self.daemon_down()
        try:
            daemon.update(self.lms, self.on_line)
        finally:
            if before.is_running:
                self.daemon_up()
            if before.is_running and had_server:
                self._ensure_at(*place)
        return self.get_status()

    def headless(self) -> bool | None:
        """Whether LM Studio is set to serve without its window; None = its files do not tell."""
        return preferences.headless(self.folder.path)

    def set_headless(self, is_on: bool) -> dict:
        """{"headless", "changed", "backups", "note"}: see preferences.set_headless."""
        if not self.folder.path.is_dir():
            advice = not_installed(self.folder.platform)
            raise LmsError(Problem.NOT_INSTALLED, State.NOT_INSTALLED.explanation, advice=advice)
        return preferences.set_headless(self.folder.path, is_on)

    def query(self, what: str) -> object:
        """The JSON of `lms ls`, `ps`, `runtime survey` or `link status`: what = "ls", "ps", "survey" or "link"."""
        if what not in QUERIES:
            raise ValueError(f'"{str(what)[:50]}" cannot be asked for. Known are: {", ".join(QUERIES)}.')
        lms = self._awake_lms()
        answer = lms.json(*QUERIES[what], seconds=QUERY_SECONDS, tries=TRIES.get(what, 1))
        if what == "ls" and answer == []:  # after a cold start the first list may not be complete (contract §12.7)
            answer = lms.json(*QUERIES[what], seconds=QUERY_SECONDS)
        return answer

    def survey(self) -> object | None:
        """The JSON of `lms runtime survey`; None where there is no `lms` that could be asked."""
        return self.query("survey") if self.folder.is_bootstrapped else None

    def estimate(self, model: str, context_length: int | None = None, gpu_ratio: float | None = None) -> dict:
        """What a load would need: {"gpu_bytes", "total_bytes", "fits", "confidence", "text"}."""
        args = loading.arguments(model, context_length, gpu_ratio)
        answer = self._awake_lms().run(*args, "--estimate-only", seconds=QUERY_SECONDS)
        return loading.estimate_in(answer, model)

    def metadata(self, model: str, size_bytes: int | None = None) -> dict:
        """What the file of a downloaded model says: {"architecture": Architecture.as_json(), "format": "gguf"}.

        Never wakes the daemon: where it is down, or there is no `lms`, the file is found by its size.
        """
        try:
            rows = self.query("ls")
        except LmsError:
            rows = []
        path = file_of(models_folder(self.folder.path), rows, model, size_bytes)
        try:
            return {"architecture": read(path).as_json(), "format": "gguf"}
        except Unreadable as error:
            raise LmsError(Problem.BAD_FILE, str(error), advice="Download the model again, or update it.") from error

    def load(
        self,
        model: str,
        context_length: int | None = None,
        gpu_ratio: float | None = None,
        parallel: int | None = None,
        ttl_seconds: int | None = None,
        identifier: str | None = None,
    ) -> dict:
        """Load a model; {"identifier", "verified"}. Wakes the daemon.

        `lms` searches fuzzily (contract §7.4): when it loaded another model, that is unloaded again and LmsError
        WRONG_MODEL raised. `verified` is False when `lms ps` could not confirm it.
        """
        args = loading.arguments(model, context_length, gpu_ratio, parallel, ttl_seconds, identifier)
        answer = self.lms.run(*args, seconds=LOAD_SECONDS, on_line=self.on_line)
        loading.check_found(answer, model)
        if answer.exit_code:
            raise answer.failure()
        name = loading.identifier_in(answer) or identifier or model
        instance = self._instance(name)
        if instance is not None and not loading.is_same_model(model, instance):
            self._take_back(name, instance, model)
        return {"identifier": name, "verified": instance is not None}

    def _instance(self, identifier: str) -> dict | None:
        """What `lms ps` says of it; None when it does not list it, or fails."""
        try:
            rows = self.query("ps")
        except LmsError:
            return None
        named = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
        return next((row for row in named if row.get("identifier") == identifier), None)

    def _take_back(self, identifier: str, instance: dict, model: str) -> None:
        answer = self.lms.run("unload", loading.value(identifier), seconds=STOP_SECONDS, on_line=self.on_line)
        is_gone = self._instance(identifier) is None
        loaded = instance.get("modelKey")
        sentence = f"LM Studio has no model {model}: it loaded {loaded} instead, which was unloaded again."
        if not is_gone:
            sentence = f"LM Studio has no model {model}: it loaded {loaded} instead, and did not unload it."
        raise LmsError(Problem.WRONG_MODEL, sentence, answer.text)

    def _awake_lms(self) -> Lms:
        """For a command that would wake the daemon. Raises LmsError NOT_RUNNING when it is down."""
        lms = self.lms
        if not daemon.look(lms, LOOK_SECONDS).is_running:
            raise LmsError(Problem.NOT_RUNNING, "LM Studio is not running, and asking this would have started it.")
        return lms

    def stream_logs(self, source: str) -> LogStream:
        """A log as it is written; source = "model", "server" or "runtime". Close what it returns."""
        if source not in list(Source):
            raise ValueError(f'"{str(source)[:50]}" is not a log. There are: {", ".join(Source)}.')
        return LogStream(self._awake_lms(), Source(source))

    def proxy_chat_completion(self, messages: Sequence[ChatMessage | Mapping], settings: Mapping) -> dict:
        """The whole answer in OpenAI's shape. Without a "model" the loaded one answers. Raises DaemonError."""
        return chat.complete(self.api_endpoint, self.token, self._chat(messages, settings))

    def stream_chat_completion(self, messages: Sequence[ChatMessage | Mapping], settings: Mapping) -> ChatDeltas:
        """The same in pieces: iterate what is returned, and close it."""
        return ChatDeltas(self.api_endpoint, self.token, self._chat(messages, settings))

    def _chat(self, messages: Sequence[ChatMessage | Mapping], settings: Mapping) -> dict:
        body = chat.body_of(messages, settings)
        if "model" not in body:
            body["model"] = server.loaded_model(self.api_endpoint, self.token)
        if body["model"] is None:
            raise DaemonError(Reason.MODEL_NOT_FOUND, 'no model is loaded: name one as "model" in the settings')
        return body
