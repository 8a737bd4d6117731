"""What llama.cpp says while it loads a model, such as how big its cache is; it has no other way to tell."""

import json
import os
import subprocess
import sys
from pathlib import Path

LOAD_SECONDS = 30


def loaded(path: Path, context: int, slots: int = 1, **settings) -> str:
    """Its log, from a process of its own. `settings` are fields of CommonParams, types of the cache their names."""
    asked = json.dumps({"n_ctx": context, "n_parallel": slots} | settings)
    started = subprocess.run(
        [sys.executable, __file__, str(path), asked], capture_output=True, text=True, timeout=LOAD_SECONDS
    )
    assert started.returncode == 0, started.stderr[-2000:]
    return started.stderr


def load(path: str, settings: dict) -> None:
    """The process: load the model, telling of it on standard error, and end."""
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
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)
    os._exit(0)  # its threads would be waited for


if __name__ == "__main__":
    load(sys.argv[1], json.loads(sys.argv[2]))
