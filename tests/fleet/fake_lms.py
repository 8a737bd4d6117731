"""A stand-in for the `lms` command of LM Studio, with its manners and its traps (contract §7).

FakeLMStudio (fake_lms_fixture.py) puts a few lines at <folder>/bin/lms that call run(). What it is told and what it
remembers stands in <folder>/.fake/state.json, every call in calls.jsonl beside it. `server start` really starts a
simulated daemon, `daemon up` a process that only exists; both are detached, and end when their owner (the test
process) is gone.
"""

import fcntl
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path

FOLDER = FAKE = Path()  # LM Studio's folder, and in it what is ours; run() knows them
HANG_SECONDS = 120
SERVER_SECONDS = 30

# Everything that makes a client without being told where wakes the daemon (contract §7.0).
WAKES = {"ls", "ps", "load", "unload", "log stream", "runtime survey", "link status", "server start"}
NEEDS_PASSKEY = WAKES | {"daemon status", "daemon down", "server stop"}
TWO_WORDS = {"server", "daemon", "log", "runtime", "link"}


def read_state() -> dict:
    return json.loads((FAKE / "state.json").read_text())


@contextmanager
def changing():
    """The state, written back afterwards; one process at a time."""
    with (FAKE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        state = read_state()
        yield state
        new = FAKE / f"state.{os.getpid()}"
        new.write_text(json.dumps(state))
        new.replace(FAKE / "state.json")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def fail(text: str):
    say(f"Error: {text}")
    raise SystemExit(1)


def ask_person(question: str):
    """An interactive prompt: nobody is there to answer it."""
    say(question)
    (FAKE / "stuck").touch()
    time.sleep(HANG_SECONDS)
    raise SystemExit(1)


def wait_out(wanted: Callable[[dict], float]) -> None:
    """Wait for as many seconds as the test wants; it may want less of them meanwhile."""
    began = time.monotonic()
    while time.monotonic() - began < wanted(read_state()):
        time.sleep(0.02)


def main(argv: list[str]) -> None:
    record(argv)
    command = " ".join(argv[:2] if argv and argv[0] in TWO_WORDS else argv[:1])
    if "-v" in argv or "--version" in argv:
        print("CLI commit: 0000000")
        return
    obey_switches(command)
    options = argv[len(command.split()) :]
    if command in WAKES:
        wake()
    COMMANDS.get(command, unknown)(options)


def record(argv: list[str]) -> None:
    stdin = Path("/proc/self/fd/0").readlink() if Path("/proc/self/fd/0").exists() else ""
    call = {
        "argv": argv,
        "pid": os.getpid(),
        "group": os.getpgrp(),
        "stdin": "tty" if os.isatty(0) else "devnull" if str(stdin) == "/dev/null" else "other",
        "env": {name: os.environ.get(name) for name in ("FORCE_COLOR", "NO_COLOR")},
        "daemon_was_running": bool(read_state()["daemon"]),
        "at": time.time(),
    }
    with (FAKE / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps(call) + "\n")


def obey_switches(command: str) -> None:
    """What a test wants to go wrong here; see FakeLMStudio.configure."""
    wait_out(lambda state: state["slow"].get(command, 0))
    state = read_state()
    if command in state["hang"]:
        hang()
    if command in state["fail_once"]:
        with changing() as state:
            text = state["fail_once"].pop(command)
        fail(text)
    if command in state["fail"]:
        fail(state["fail"][command])
    if state["passkey_mismatch"] and command in NEEDS_PASSKEY and (state["daemon"] or command in WAKES):
        say("Error: Invalid passkey for lms CLI client. Please make sure you are using the lms shipped with LM Studio.")
        raise SystemExit(state["passkey_exit"])
    for line in state["noise"].get(command, []):
        print(line, flush=True)


def hang() -> None:
    """Never comes back, with a child in its group and a detached one; both pids are noted."""
    import subprocess  # here, as each call of this command would pay for it

    sleeper = [sys.executable, "-S", "-E", "-c", f"import time; time.sleep({HANG_SECONDS})"]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    child = subprocess.Popen(sleeper, stdin=subprocess.DEVNULL)  # holds our pipes, as a helper would
    detached = subprocess.Popen(sleeper, **quiet, start_new_session=True)
    with changing() as state:
        state["children"].append(child.pid)
        state["detached"].append(detached.pid)
    print("one line before it hangs", flush=True)
    if read_state()["ignores_terminate"]:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (FAKE / "stuck").touch()
    time.sleep(HANG_SECONDS)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wake() -> None:
    if read_state()["daemon"]:
        return
    say("Waking up LM Studio service...")
    start_daemon()
    with changing() as state:
        state["woken"] += 1


def start_daemon() -> None:
    with changing() as state:
        if state["daemon"]:
            return
        pid = start_detached("daemon", state)
        state["daemon"] = {"pid": pid, "isDaemon": not state["gui"], "version": state["version"]}
        state["cold"] = state["cold_start"]


def start_detached(what: str, state: dict, *arguments: str) -> int:
    import subprocess

    command = [sys.executable, *([] if what == "server" else ["-S", "-E"]), sys.argv[0]]
    process = subprocess.Popen(
        [*command, f"--fake-{what}", str(state["owner"]), state["root"], *arguments],
        cwd=state["root"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    return process.pid


def end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
    except OSError:
        return
    until = time.monotonic() + 5
    while is_alive(pid) and time.monotonic() < until:
        time.sleep(0.01)


def die_with(owner: int) -> None:
    while is_alive(owner):
        time.sleep(0.5)
    os._exit(0)


def daemon_process(owner: str, root: str) -> None:
    die_with(int(owner))


def server_process(owner: str, root: str, *arguments: str) -> None:
    import threading

    sys.path.insert(0, root)
    from fleet.simulator.cli import main as simulate

    threading.Thread(target=die_with, args=(int(owner),), daemon=True).start()
    sys.exit(simulate(list(arguments)))


def greeter_process(owner: str, root: str, _: str, port: str, *arguments: str) -> None:
    """The least of a server, quick to start: a greeting, and the answer to everything else (contract §12.1)."""
    import socket
    import threading

    threading.Thread(target=die_with, args=(int(owner),), daemon=True).start()
    listener = socket.create_server(("127.0.0.1", int(port)))
    while True:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.settimeout(30)
            is_greeted = connection.recv(65536).startswith(b"GET /lmstudio-greeting ")
            wait_out(lambda state: state["slow"].get("greeting", 0))
            told = {"lmstudio": True} if is_greeted else {"error": "Unexpected endpoint or method."}
            connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + json.dumps(told).encode())


def request(method: str, port: int, path: str, body: dict | None = None) -> dict | None:
    from http.client import HTTPConnection, HTTPException

    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        content = json.dumps(body) if body is not None else None
        token = option(read_state()["simulator_args"], "--token")
        connection.request(method, path, content, {"Authorization": f"Bearer {token}"} if token else {})
        return json.loads(connection.getresponse().read())
    except (OSError, HTTPException, ValueError):
        return None
    finally:
        connection.close()


def greets(port: int) -> bool:
    """By hand: http.client would take longer to import than everything else here."""
    import socket

    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(b"GET /lmstudio-greeting HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
        return b"true" in answer.partition(b"\r\n\r\n")[2]
    return False


def option(options: list[str], *names: str) -> str | None:
    for name in names:
        if name in options:
            return options[options.index(name) + 1]
    return None


def configured_port() -> int | None:
    try:
        return json.loads((FOLDER / ".internal" / "http-server-config.json").read_text())["port"]
    except (OSError, ValueError, KeyError):
        return None


def server_start(options: list[str]) -> None:
    bind = option(options, "--bind") or "127.0.0.1"
    port = int(option(options, "-p", "--port") or configured_port() or 1234)
    state = read_state()
    if bind != "127.0.0.1":
        say("W The server is bound to a network interface: other devices can reach it.")
    real_port = state["server_lands_on"] or port
    if not (state["server"] and is_alive(state["server"]["pid"])) and not state["server_stays_down"]:
        with changing() as state:
            # The simulated daemon listens on loopback whatever the bind: tests stay on this machine.
            arguments = ["--port", str(real_port), *state["simulator_args"]]
            pid = start_detached("greeter" if state["only_greets"] else "server", state, *arguments)
            state["server"] = {"pid": pid, "port": real_port, "bind": bind}
        internal = FOLDER / ".internal"
        internal.mkdir(exist_ok=True)
        config = {"port": real_port, "networkInterface": bind}
        (internal / "http-server-config.json").write_text(json.dumps(config))
        until = time.monotonic() + SERVER_SECONDS
        while not greets(real_port) and is_alive(state["server"]["pid"]) and time.monotonic() < until:
            time.sleep(0.03)
    if state["says_failed"] or not greets(port):
        fail("Failed to verify the server is running. Please try to use another port.")
    say(f"Success! Server is now running on port {port}")


def server_stop(options: list[str]) -> None:
    server = read_state()["server"]
    if not server or not is_alive(server["pid"]):
        fail("The server is not running.")
    if not read_state()["server_never_stops"]:
        end(server["pid"])
        with changing() as state:
            state["server"] = None
    say(f"Stopped the server on port {server['port']}.")


def server_status(options: list[str]) -> None:
    server = read_state()["server"]
    is_running = bool(server) and is_alive(server["pid"])
    port = configured_port()
    if "--json" in options:
        print(json.dumps({"running": is_running} | ({"port": port} if port else {})))
    else:
        say(f"The server is running on port {port}." if is_running else "The server is not running.")


def daemon_up(options: list[str]) -> None:
    was = read_state()["daemon"]
    start_daemon()
    daemon = read_state()["daemon"]
    if "--json" in options:
        print(json.dumps({"status": "running", **daemon}))
    elif not daemon["isDaemon"]:
        verb = "is already running" if was else "started"
        print(f"LM Studio {verb} (PID: {daemon['pid']}).")
    elif was:
        print(f"The daemon is already running (PID: {daemon['pid']}).")
    else:
        print(f"llmster started (PID: {daemon['pid']}).")


def daemon_down(options: list[str]) -> None:
    state = read_state()
    if not state["daemon"]:
        say("Daemon is not running.")
        raise SystemExit(1)
    if not state["daemon"]["isDaemon"]:
        say(f"LM Studio is running as an application (PID: {state['daemon']['pid']}). Please quit it from its window.")
        raise SystemExit(1)
    say("Shutting down llmster...")
    for running in (state["server"], state["daemon"]):
        if running:
            end(running["pid"])
    with changing() as state:
        state.update(server=None, daemon=None, loaded=[])
    say("Done.")


def daemon_status(options: list[str]) -> None:
    daemon = read_state()["daemon"]
    if "--json" in options:
        running = {"status": "running", "pid": daemon["pid"], "isDaemon": daemon["isDaemon"]} if daemon else None
        print(json.dumps(running or {"status": "not-running"}))
    elif not daemon:
        print("LM Studio is not running")
    else:
        name = "llmster" if daemon["isDaemon"] else "LM Studio"
        print(f"{name} v{daemon['version']} is running (PID: {daemon['pid']})")


def daemon_update(options: list[str]) -> None:
    state = read_state()
    if state["daemon"]:
        fail(f"llmster is running (PID: {state['daemon']['pid']}). Stop it first.")
    for line in state["update_lines"]:
        print(line, flush=True)
        wait_out(lambda state: state["update_pause"])
    if state["update_exit"]:
        raise SystemExit(state["update_exit"])
    with changing() as state:
        state["version"] = state["new_version"]


def ls(options: list[str]) -> None:
    with changing() as state:
        models = state["models"][: state["cold_models"]] if state["cold"] else state["models"]
        state["cold"] = False
    if "--json" in options:
        print(json.dumps([info(model) for model in models]))
    else:
        say(f"You have {len(models)} models.")


def ps(options: list[str]) -> None:
    loaded = read_state()["loaded"]
    if "--json" in options:
        print(json.dumps(loaded))
    elif not loaded:
        say("No models are currently loaded")


def info(model: dict) -> dict:
    """ModelInfo (contract §7.2) of what the state says of a model."""
    key = model["modelKey"]
    base = {
        "type": "llm", "modelKey": key, "format": "gguf", "displayName": key, "publisher": key.partition("/")[0],
        "path": key, "sizeBytes": 4_920_000_000, "indexedModelIdentifier": key, "deviceIdentifier": None,
        "paramsString": "8B", "architecture": "llama", "quantization": {"name": "Q4_K_M", "bits": 4},
        "vision": False, "trainedForToolUse": True, "maxContextLength": 131_072,
    }  # fmt: skip
    return base | model


def best_match(key: str) -> dict | None:
    """The key's letters in order anywhere in a model's key: the shortest such key (contract §7.4, fuzzy)."""
    pattern = re.compile(".*?".join(map(re.escape, key.lower())))
    found = [model for model in read_state()["models"] if pattern.search(model["modelKey"].lower())]
    exact = [model for model in found if key == model["modelKey"]]
    return min(exact or found, key=lambda model: len(model["modelKey"]), default=None)


def load(options: list[str]) -> None:
    if not options or options[0].startswith("-"):
        ask_person("? Select a model to load")
    with_value = {"--gpu", "-c", "--context-length", "--parallel", "--ttl", "--identifier"}
    plain = {"-y", "--yes", "--estimate-only"}
    unknown_flags = [o for o in options if o.startswith("-") and o not in with_value | plain]
    if unknown_flags:
        say(f"error: unknown option '{unknown_flags[0]}'")
        raise SystemExit(1)
    model = best_match(options[0])
    if model is None:
        if "-y" not in options:
            ask_person("? Select a model to load")
        say("Model not found")
        raise SystemExit(1)
    if "-y" not in options and model["modelKey"] != options[0]:
        ask_person("? Select a model to load")
    context, gpu = option(options, "-c", "--context-length"), option(options, "--gpu")
    if "--estimate-only" in options:
        estimate(model, context, gpu)
    else:
        really_load(model, options, context)


def estimate(model: dict, context: str | None, gpu: str | None) -> None:
    lines = read_state()["estimate"]
    say(f"Model: {model['modelKey']}")
    if context:
        say(f"Context Length: {int(context):,}")
    if gpu:
        say(f"GPU Offload: {float({'max': 1, 'off': 0}.get(gpu, gpu)):.0%}")
    for line in lines:
        say(line)


def really_load(model: dict, options: list[str], context: str | None) -> None:
    state = read_state()
    identifier = option(options, "--identifier")
    taken = [instance["identifier"] for instance in state["loaded"]]
    if identifier in taken:
        fail(f'The identifier "{identifier}" is already in use.')
    if identifier is None:
        identifier, number = model["modelKey"], 2
        while identifier in taken:
            identifier, number = f"{model['modelKey']}:{number}", number + 1
    for percent in range(0, 101, 5):
        sys.stdout.write(f"\r\x1b[2K\x1b[36mLoading {model['modelKey']} {percent}% {'⠋⠙⠹⠸'[percent // 5 % 4]}\x1b[0m")
        sys.stdout.flush()
        wait_out(lambda state: state["load_seconds"] / 20)
    ttl = option(options, "--ttl")
    instance = info(model) | {
        "identifier": identifier, "ttlMs": int(ttl) * 1000 if ttl else None, "lastUsedTime": None,
        "contextLength": int(context or 4096), "status": "idle", "queued": 0,
        "parallel": int(option(options, "--parallel") or 4),
    }  # fmt: skip
    with changing() as state:
        state["loaded"].append(instance)
    if state["server"] and identifier == model["modelKey"]:  # the simulated daemon cannot name an instance
        request("POST", state["server"]["port"], "/api/v1/models/load", {"model": model["modelKey"]})
    say("\nModel loaded successfully in 0.10s.\n(4.58 GiB)")
    say(f'To use the model in the API/SDK, use the identifier "{identifier}".')


def unload(options: list[str]) -> None:
    loaded = read_state()["loaded"]
    if "--all" in options or "-a" in options:
        with changing() as state:
            state["loaded"] = []
        say(f"Unloaded {len(loaded)} models." if loaded else "No models to unload.")
        return
    if not options:
        ask_person("? Select a model to unload") if len(loaded) > 1 else fail("No models to unload.")
    if options[0] not in [instance["identifier"] for instance in loaded]:
        say("Model Not Found")
        return
    with changing() as state:
        state["loaded"] = [instance for instance in loaded if instance["identifier"] != options[0]]
    if state["server"]:
        request("POST", state["server"]["port"], "/api/v1/models/unload", {"instance_id": options[0]})
    say(f'Model "{options[0]}" unloaded.')


def log_stream(options: list[str]) -> None:
    """Follows <folder>/.fake/log-<source>.jsonl until it is ended or the daemon is gone (contract §7.9)."""
    source = option(options, "-s", "--source") or "model"
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    signal.signal(signal.SIGINT, lambda *_: os._exit(0))
    daemon = read_state()["daemon"]["pid"]
    path = FAKE / f"log-{source}.jsonl"
    path.touch()
    say("Streaming logs from LM Studio")
    with path.open() as lines:
        while is_alive(daemon):
            if line := lines.readline():
                sys.stdout.write(line)
                sys.stdout.flush()
            else:
                time.sleep(0.02)


def survey(options: list[str]) -> None:
    print(json.dumps(read_state()["survey"], indent=2))


def link(options: list[str]) -> None:
    print(json.dumps(read_state()["link"]))


def bootstrap(options: list[str]) -> None:
    if "-y" not in options:
        ask_person("? Add lms to the PATH? (y/N)")
    say("Done.")


def unknown(options: list[str]) -> None:
    say("error: unknown command")
    raise SystemExit(1)


COMMANDS = {
    "server start": server_start, "server stop": server_stop, "server status": server_status,
    "daemon up": daemon_up, "daemon down": daemon_down, "daemon status": daemon_status, "daemon update": daemon_update,
    "ls": ls, "ps": ps, "load": load, "unload": unload, "log stream": log_stream,
    "runtime survey": survey, "link status": link, "bootstrap": bootstrap,
}  # fmt: skip
PROCESSES = {"--fake-daemon": daemon_process, "--fake-server": server_process, "--fake-greeter": greeter_process}


def run(command: str) -> None:
    """Be the command that lies at this path."""
    global FOLDER, FAKE
    FOLDER = Path(command).absolute().parents[1]
    FAKE = FOLDER / ".fake"
    if sys.argv[1:2] and sys.argv[1] in PROCESSES:
        PROCESSES[sys.argv[1]](*sys.argv[2:])
    else:
        main(sys.argv[1:])
