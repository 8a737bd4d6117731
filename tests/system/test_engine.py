"""The same prompts on a real engine: llama.cpp with a tiny model, through the OpenAI adapter and the whole queue."""

import pytest

from tests.fleet.engine import MODEL, EngineProcess
from tests.system.conftest import Installation

pytestmark = pytest.mark.engine


def test_it_runs_prompts_on_a_real_engine(monkeypatch):
    engine = EngineProcess().start()
    try:
        monkeypatch.setattr("benchmarks.site.MODEL", MODEL)
        monkeypatch.setattr("benchmarks.site.KIND", "openai")
        site = Installation(engine)
        site.up()
        try:
            ids = [site.submit(MODEL, f"Say something, number {n}.", max_output_tokens=40) for n in range(6)]
            rows = [site.wait_for_state(prompt_id, "done") for prompt_id in ids]
            assert all(row["answer"] and row["stats"]["output_tokens"] == 40 for row in rows)
            follow_up = site.submit(MODEL, "Go on.", follows=ids[0], max_output_tokens=10)
            followed = site.wait_for_state(follow_up, "done")
            assert followed["stats"]["input_tokens"] > rows[0]["stats"]["input_tokens"]
        finally:
            site.stop()
    finally:
        engine.stop()
