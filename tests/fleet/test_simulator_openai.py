"""The OpenAI-compatible and v0 routes of the simulated daemon (contract §4)."""

import json
import math
import threading
import time

import pytest
import requests

from tests.fleet.simulator_fixture import read_events

OTTER, OWL, HERON = "simulated/otter-8b", "simulated/owl-thinker-14b", "simulated/heron-3b"
RAVEN, BEAVER = "simulated/raven-raw-think-7b", "simulated/beaver-tools-8b"
REED = "text-embedding-simulated-reed"
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {
        "place": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["C", "F"]}}}}}
    for name in ("get_weather", "get_tide")
]  # fmt: skip


def complete(simulator, model=OTTER, text="Tell me about otters", path="/v1/chat/completions", **body):
    body = {"model": model, "messages": [{"role": "user", "content": text}], **body}
    return requests.post(simulator.url + path, json=body, timeout=10)


def stream(simulator, model=OTTER, text="Tell me about otters", path="/v1/chat/completions", **body):
    body = {"model": model, "messages": [{"role": "user", "content": text}], "stream": True, **body}
    with requests.post(simulator.url + path, json=body, stream=True, timeout=10) as response:
        return read_events(response)


def joined(chunks, key="content"):
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    return "".join(delta.get(key) or "" for delta in deltas)


def test_models_are_listed(simulator):
    answer = requests.get(f"{simulator.url}/v1/models", timeout=10).json()
    assert answer["object"] == "list"
    assert {"id": OTTER, "object": "model", "owned_by": "simulated"} in answer["data"]
    assert len(answer["data"]) == 8


def test_a_whole_answer_has_text_and_usage(simulator):
    answer = complete(simulator, max_tokens=12, ttl=60).json()
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    [choice] = answer["choices"]
    assert choice["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 12
    assert answer["usage"]["total_tokens"] == 12 + answer["usage"]["prompt_tokens"]
    assert complete(simulator).json()["choices"][0]["finish_reason"] == "stop"
    assert complete(simulator, max_tokens=-1).json()["choices"][0]["finish_reason"] == "stop"


def test_a_stream_carries_the_same_text_and_ends_properly(simulator):
    whole = complete(simulator).json()["choices"][0]["message"]["content"]
    body = {"model": OTTER, "messages": [{"role": "user", "content": "Tell me about otters"}], "stream": True}
    raw = requests.post(f"{simulator.url}/v1/chat/completions", json=body, timeout=10).text
    assert raw.endswith("data: [DONE]\n\n")
    chunks = [json.loads(line[6:]) for line in raw.splitlines() if line.startswith("data: {")]
    assert joined(chunks) == whole
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert "usage" not in raw


def test_usage_is_streamed_when_asked_for(simulator):
    chunks = stream(simulator, text="[[tokens=9]]", stream_options={"include_usage": True})
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 9


def test_native_reasoning_is_a_field_of_its_own_and_raw_reasoning_is_text(simulator):
    message = complete(simulator, OWL, reasoning_effort="low").json()["choices"][0]["message"]
    assert message["reasoning_content"]
    assert "<think>" not in message["content"]
    chunks = stream(simulator, OWL, reasoning_effort="low")
    assert joined(chunks, "reasoning_content") == message["reasoning_content"]
    assert joined(chunks) == message["content"]
    assert "reasoning_content" not in complete(simulator, OWL, reasoning_effort="none").json()["choices"][0]["message"]
    assert complete(simulator, RAVEN).json()["choices"][0]["message"]["content"].startswith("<think>")
    assert joined(stream(simulator, RAVEN)).startswith("<think>")


def test_tools_are_called_with_arguments_that_fit_and_their_result_is_used(simulator):
    answer = complete(simulator, BEAVER, "Use get_tide please", tools=TOOLS).json()
    [choice] = answer["choices"]
    assert choice["finish_reason"] == "tool_calls"
    [call] = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "get_tide"
    assert json.loads(call["function"]["arguments"]) == {
        "place": "Use get_tide please",
        "days": 1,
        "unit": "C",
    }
    messages = [
        {"role": "user", "content": "Use get_tide please"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": "High at noon"},
    ]
    after = complete(simulator, BEAVER, tools=TOOLS, messages=messages).json()["choices"][0]
    assert after["finish_reason"] == "stop"
    assert "High at noon" in after["message"]["content"]


def test_tool_calls_are_streamed_in_pieces(simulator):
    chunks = stream(simulator, BEAVER, tools=TOOLS)
    deltas = [call for chunk in chunks for choice in chunk["choices"] for call in choice["delta"].get("tool_calls", [])]
    assert [delta["function"].get("name") for delta in deltas if "id" in delta] == ["get_weather"]
    pieces = [delta["function"]["arguments"] for delta in deltas]
    assert len(pieces) > 3
    assert json.loads("".join(pieces))["days"] == 1
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_tools_are_left_alone_when_the_caller_or_the_model_says_so(simulator):
    assert (
        "tool_calls" not in complete(simulator, BEAVER, tools=TOOLS, tool_choice="none").json()["choices"][0]["message"]
    )
    assert "tool_calls" not in complete(simulator, OTTER, tools=TOOLS).json()["choices"][0]["message"]


def test_content_parts_and_history_are_read(simulator):
    messages = [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": [{"type": "text", "text": "second one"}]},
    ]
    answer = complete(simulator, messages=messages).json()
    assert "second one" in answer["choices"][0]["message"]["content"]
    assert "question 2" in answer["choices"][0]["message"]["content"]
    assert answer["usage"]["prompt_tokens"] == 6


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"messages": []}, 400, "messages"),
        ({"messages": [5]}, 400, "messages"),
        ({"messages": [{"role": "user", "content": 5}]}, 400, "messages"),
        ({"model": "no/such"}, 404, "model"),
        ({"model": None}, 400, "model"),
        ({"model": REED}, 400, "model"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format"),
        ({"stream": "yes"}, 400, "stream"),
    ],
)
def test_a_bad_body_gets_an_openai_error(simulator, body, status, param):
    answer = complete(simulator, **body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["message"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


def test_completions_whole_and_streamed(simulator):
    body = {"model": OTTER, "prompt": "Otters are [[tokens=8]]"}
    answer = requests.post(f"{simulator.url}/v1/completions", json=body, timeout=10).json()
    assert answer["object"] == "text_completion"
    assert answer["usage"]["completion_tokens"] == 8
    with requests.post(
        f"{simulator.url}/v1/completions", json={**body, "stream": True}, stream=True, timeout=10
    ) as got:
        chunks = read_events(got)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == answer["choices"][0]["text"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_embeddings_are_unit_vectors_that_depend_on_the_text(simulator):
    def embed(texts, model=REED):
        return requests.post(f"{simulator.url}/v1/embeddings", json={"model": model, "input": texts}, timeout=10)

    first, second, again = [item["embedding"] for item in embed(["a", "b", "a"]).json()["data"]]
    assert first == again != second
    assert math.isclose(math.hypot(*first), 1, rel_tol=1e-3)
    assert embed("a").json()["data"][0]["embedding"] == first
    assert embed("a", OTTER).status_code == 400
    assert embed([]).status_code == 400


def test_an_eviction_cuts_a_stream_and_fails_a_whole_answer(simulator):
    simulator.control(f"models/{OTTER}", {"tokens_per_second": 20})
    streamed, whole = [], []
    threads = [
        threading.Thread(target=lambda: streamed.extend(stream(simulator, text="[[tokens=500]]"))),
        threading.Thread(target=lambda: whole.append(complete(simulator, text="[[tokens=500]]"))),
    ]
    for thread in threads:
        thread.start()
    for _ in range(200):
        if simulator.state()["models"][OTTER]["active"] == 2:
            break
        time.sleep(0.01)
    time.sleep(0.1)
    assert complete(simulator, HERON).status_code == 200
    for thread in threads:
        thread.join()
    assert streamed[-1] == {"type": "connection lost"}
    assert joined(streamed[:-1])
    assert whole[0].status_code == 400
    assert isinstance(whole[0].json()["error"], str)
    assert simulator.state()["busy_evictions"] == 1


def test_v0_lists_models_with_their_state(simulator):
    complete(simulator)
    listed = {model["id"]: model for model in requests.get(f"{simulator.url}/api/v0/models", timeout=10).json()["data"]}
    assert listed[OTTER]["state"] == "loaded"
    assert listed[OTTER]["loaded_context_length"] == 8192
    assert listed[HERON]["state"] == "not-loaded"
    assert listed[HERON]["type"] == "vlm"
    assert "loaded_context_length" not in listed[HERON]
    assert listed[REED]["type"] == "embeddings"
    assert listed[BEAVER]["capabilities"] == ["tool_use"]
    one = requests.get(f"{simulator.url}/api/v0/models/simulated%2Fotter-8b", timeout=10).json()
    assert one == listed[OTTER]
    assert requests.get(f"{simulator.url}/api/v0/models/no/such", timeout=10).status_code == 404


def test_v0_answers_carry_stats_model_and_runtime(simulator):
    path = "/api/v0/chat/completions"
    whole = complete(simulator, path=path, max_tokens=5).json()
    last = stream(simulator, path=path)[-1]
    for answer, reason in ((whole, "maxPredictedTokensReached"), (last, "eosFound")):
        assert answer["stats"]["stop_reason"] == reason
        assert answer["stats"]["tokens_per_second"] > 0
        assert answer["model_info"]["context_length"] == 8192
        assert answer["runtime"]["supported_formats"] == ["gguf"]
    assert "stats" not in complete(simulator).json()


@pytest.mark.parametrize(
    "odd",
    [
        {"tools": [5, {"function": "x"}, {"function": {"name": "f", "parameters": [1]}}]},
        {"tools": TOOLS, "tool_choice": {"function": "x"}},
        {"tools": "x", "stream_options": 5, "response_format": 5, "reasoning_effort": 5, "ttl": None},
    ],
)
def test_odd_values_are_read_leniently(simulator, odd):
    assert complete(simulator, BEAVER, **odd).status_code == 200
    assert stream(simulator, BEAVER, **odd)[-1]["choices"][0]["finish_reason"] in ("stop", "tool_calls")
