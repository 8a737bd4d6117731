"""A real engine for tests: llama.cpp's server in a process of its own, with a tiny model of random weights.

It streams random words and broken UTF-8, a few thousand tokens a second, until `max_tokens` or its context ends it.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import requests

MODEL = "tiny"
CONTEXT, WIDTH, BLOCKS, HEADS, FEED_FORWARD = 8192, 64, 2, 4, 128
TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message.role }}\n{{ message.content }}<|end|>{% endfor %}"
    "<|start|>assistant\n"
)
START_SECONDS = 120
STOP_SECONDS = 10


class EngineProcess:
    """`start()`, use `url`, `stop()`. It serves one model, named MODEL, and ends with the test process."""

    url: str
    process: subprocess.Popen

    def start(self, slots: int = 2) -> "EngineProcess":
        self.folder = tempfile.TemporaryDirectory(prefix="daemonpulse-engine-")
        path = Path(self.folder.name) / f"{MODEL}.gguf"
        write_model(path)
        command = [sys.executable, __file__, str(path), str(slots)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        limit = threading.Timer(START_SECONDS, self.process.kill)
        limit.start()
        line = next((line for line in self.process.stdout if line.startswith("engine on ")), "")
        limit.cancel()
        if not line:
            self.stop()
            raise RuntimeError("the engine did not start")
        self.url = line.removeprefix("engine on ").strip()
        return self

    def slots(self) -> list[dict]:
        """What each slot does, from the engine itself."""
        return requests.get(f"{self.url}/slots", timeout=60).json()

    @property
    def busy_slots(self) -> int:
        return sum(slot["is_processing"] for slot in self.slots())

    def stop(self) -> None:
        """It ends when its standard input does; that is also how it learns of a killed test process."""
        self.process.stdin.close()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.folder.cleanup()


def write_model(path: Path, blocks: int = BLOCKS, kv_heads: int = HEADS) -> None:
    """A llama with random weights and a byte-level vocabulary, about half a megabyte. HEADS share `kv_heads`."""
    import numpy
    from gguf import GGUFWriter, TokenType

    tokens, types = _vocabulary(TokenType)
    writer = GGUFWriter(str(path), "llama")
    writer.add_name(MODEL)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(blocks)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(["Ġ t", "h e"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template(TEMPLATE)
    random = numpy.random.default_rng(1)

    def add(name, *shape):
        weights = (random.standard_normal(shape) * 0.4).astype(numpy.float32)
        if name == "output":
            weights[:2] = 0  # the marks are hardly ever chosen, so that an answer is as long as it is asked to be
        writer.add_tensor(f"{name}.weight", weights)

    def add_norm(name):
        writer.add_tensor(f"{name}.weight", numpy.ones(WIDTH, numpy.float32))

    add("token_embd", len(tokens), WIDTH)
    add("output", len(tokens), WIDTH)
    add_norm("output_norm")
    for block in range(blocks):
        for name in ("attn_q", "attn_output"):
            add(f"blk.{block}.{name}", WIDTH, WIDTH)
        for name in ("attn_k", "attn_v"):
            add(f"blk.{block}.{name}", kv_heads * WIDTH // HEADS, WIDTH)
        add(f"blk.{block}.ffn_gate", FEED_FORWARD, WIDTH)
        add(f"blk.{block}.ffn_up", FEED_FORWARD, WIDTH)
        add(f"blk.{block}.ffn_down", WIDTH, FEED_FORWARD)
        add_norm(f"blk.{block}.attn_norm")
        add_norm(f"blk.{block}.ffn_norm")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _vocabulary(TokenType) -> tuple[list[str], list[int]]:
    """Two marks, a character for each byte as GPT-2 writes it, and some words."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    characters = {byte: chr(byte) for byte in visible} | {byte: chr(256 + n) for n, byte in enumerate(hidden)}
    words = ["Ġt", "he", "Ġthe", "Ġotter", "Ġswims", "Ġand", "Ġriver", "Ġsleeps", "Ġfast", "Ġblue"]
    tokens = ["<|start|>", "<|end|>", *(characters[byte] for byte in range(256)), *words]
    types = [TokenType.CONTROL] * 2 + [TokenType.NORMAL] * (len(tokens) - 2)
    return tokens, types


def serve(path: str, slots: int) -> None:
    """The process: serve until standard input ends."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = path
    parameters.model_alias = {MODEL}
    parameters.n_ctx = CONTEXT * slots
    parameters.n_parallel = slots
    parameters.port = 0
    parameters.warmup = False
    parameters.endpoint_slots = True
    parameters.cpuparams.n_threads = 1
    server = xllamacpp.Server(parameters)
    print(f"engine on {server.listening_address}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        sys.stdin.read()
    os._exit(0)  # its threads would be waited for


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
