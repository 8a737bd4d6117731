"""What llama.cpp says while it loads a model, such as how big its cache is; it has no other way to tell."""

import json
import os
import subprocess
import sys
from pathlib import Path
from threading import Timer

LOAD_SECONDS = 60
LAST = "listening on"  # a thread of its own writes the log: when the server is there, its log may not be yet


def loaded(path: Path, context: int, slots: int = 1, **settings) -> str:
    """Its log, from a process of its own. `settings` are fields of CommonParams, types of the cache their names."""
    asked = json.dumps({"n_ctx": context, "n_parallel": slots} | settings)
    argv = [sys.executable, __file__, str(path), asked]
    log = []
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        late = Timer(LOAD_SECONDS, process.kill)
        late.start()
        for line in process.stderr:
            log.append(line)
            if LAST in line:
                break
        process.kill()
        late.cancel()
    text = "".join(log)
    assert LAST in text, text[-2000:]
    return text


def load(path: str, settings: dict) -> None:
    """The process: load the model, telling of it on standard error, and wait for its end."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = path
    parameters.port = 0
    parameters.warmup = False
    parameters.cpuparams.n_threads = 1
    parameters.verbosity = 4
    for name, value in settings.items():
        is_type = name.startswith("cache_type")
        setattr(parameters, name, getattr(xllamacpp.ggml_type, f"GGML_TYPE_{value.upper()}") if is_type else value)
    _server = xllamacpp.Server(parameters)
    sys.stdin.read()
    os._exit(0)  # its threads would be waited for


if __name__ == "__main__":
    load(sys.argv[1], json.loads(sys.argv[2]))
