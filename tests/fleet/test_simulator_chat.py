"""The native chat of the simulated daemon, whole and streamed (contract §2.6, §3)."""

import re
import threading
import time

import pytest
import requests

from tests.conftest import wait_for as wait_until
from tests.fleet.simulator_fixture import read_events

OTTER, OWL = "simulated/otter-8b", "simulated/owl-thinker-14b"
RAVEN, BEAVER = "simulated/raven-raw-think-7b", "simulated/beaver-tools-8b"
PREVIOUS = "previous_response_id"
GRAMMAR = re.compile(
    r"chat\.start( model_load\.start( model_load\.progress)* model_load\.end)?"
    r"(( prompt_processing\.start( prompt_processing\.progress)* prompt_processing\.end)"
    r"|( reasoning\.start( reasoning\.delta)* reasoning\.end)"
    r"|( message\.start( message\.delta)* message\.end)"
    r"|( tool_call\.start( tool_call\.arguments)* tool_call\.(success|failure))"
    r"|( tool_call\.failure)|( error))* chat\.end"
)


def ask(simulator, model=OTTER, text="Tell me about otters", **body):
    return requests.post(f"{simulator.url}/api/v1/chat", json={"model": model, "input": text, **body}, timeout=60)


def stream(simulator, model=OTTER, text="Tell me about otters", **body):
    url, body = f"{simulator.url}/api/v1/chat", {"model": model, "input": text, "stream": True, **body}
    with requests.post(url, json=body, stream=True, timeout=60) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        return read_events(response)


def text_of(events, kind="message"):
    return "".join(event["content"] for event in events if event["type"] == f"{kind}.delta")


def names(events):
    return [event["type"] for event in events]


def wait_for(simulator, model, **counts):
    """Until the model's counts are these."""

    def seen():
        told = simulator.state()["models"][model]
        return {name: told[name] for name in counts}

    wait_until(lambda: seen() == counts, step=0.01)


def test_an_answer_says_that_it_is_simulated_and_quotes_the_prompt(simulator):
    answer = ask(simulator).json()
    [item] = answer["output"]
    assert item["type"] == "message"
    assert "simulated answer" in item["content"]
    assert "Tell me about otters" in item["content"]
    assert "\n- " in item["content"]
    assert answer["model_instance_id"] == OTTER
    assert re.fullmatch(r"resp_[0-9a-f]{48}", answer["response_id"])
    assert answer["stats"]["model_load_time_seconds"] >= 0
    assert "model_load_time_seconds" not in ask(simulator).json()["stats"]


def test_the_same_input_gives_the_same_answer(simulator):
    assert ask(simulator).json()["output"] == ask(simulator).json()["output"]
    assert ask(simulator).json()["output"] != ask(simulator, text="Tell me about herons").json()["output"]


@pytest.mark.parametrize(
    ("text", "limit", "tokens"),
    [("x [[tokens=7]]", None, 7), ("x [[tokens=900]]", None, 900), ("x", 5, 5), ("x [[tokens=9]]", 4, 4)],
)
def test_an_answer_has_exactly_the_tokens_asked_for(simulator, text, limit, tokens):
    body = {"max_output_tokens": limit} if limit else {}
    events = stream(simulator, text=text, **body)
    assert names(events).count("message.delta") == tokens
    assert events[-1]["result"]["stats"]["total_output_tokens"] == tokens


def test_echo_gives_the_whole_prompt_back_unharmed(simulator):
    prompt = "[[echo]] <b>ä 漢字 👩‍👧</b>\n\n\tline\r\n  two " + "x" * 500
    assert prompt in ask(simulator, text=prompt).json()["output"][0]["content"]
    assert prompt in text_of(stream(simulator, text=prompt))


def test_a_lone_surrogate_does_not_end_the_connection(simulator):
    headers = {"content-type": "application/json"}
    body = b'{"model":"simulated/otter-8b","input":"[[echo]] \\ud800"}'
    answer = requests.post(f"{simulator.url}/api/v1/chat", data=body, headers=headers, timeout=60)
    assert "[[echo]] ?" in answer.json()["output"][0]["content"]


@pytest.mark.parametrize("model", [OTTER, OWL, RAVEN])
def test_a_stream_keeps_the_grammar_and_adds_up_to_the_result(simulator, model):
    events = stream(simulator, model)
    assert GRAMMAR.fullmatch(" ".join(names(events)))
    assert "model_load.end" in names(events)
    output = events[-1]["result"]["output"]
    for kind in ("message", "reasoning"):
        assert text_of(events, kind) == "".join(item["content"] for item in output if item["type"] == kind)
    again = stream(simulator, model)
    assert GRAMMAR.fullmatch(" ".join(names(again)))
    assert "model_load.start" not in names(again)


def test_the_load_is_reported_step_by_step_to_the_request_that_caused_it(simulator):
    for _ in range(3):  # a busy machine may hold up one
        simulator.reset(load_seconds=0.2, ttft_seconds=0.05)
        events = stream(simulator)
        [end] = [event for event in events if event["type"] == "model_load.end"]
        if end["load_time_seconds"] < 2:
            break
    shares = [event["progress"] for event in events if event["type"] == "model_load.progress"]
    assert len(shares) >= 10
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert 0.2 <= end["load_time_seconds"] < 2
    assert events[-1]["result"]["stats"]["time_to_first_token_seconds"] >= 0.05
    assert names(events).count("prompt_processing.progress") > 1


def test_tokens_arrive_at_the_model_s_pace(simulator):
    simulator.control(f"models/{OTTER}", {"tokens_per_second": 100})
    for _ in range(3):  # a busy machine may hold up one
        begun = time.monotonic()
        events = stream(simulator, text="[[tokens=31]]")
        if (seconds := time.monotonic() - begun) < 3:
            break
    assert 0.3 <= seconds < 3
    assert 10 < events[-1]["result"]["stats"]["tokens_per_second"] < 110


def test_reasoning_levels_change_how_much_is_thought(simulator):
    thought = {}
    for level in ("off", "low", "high"):
        events = stream(simulator, OWL, reasoning=level, max_output_tokens=400)
        thought[level] = names(events).count("reasoning.delta")
        assert events[-1]["result"]["stats"]["reasoning_output_tokens"] == thought[level]
        assert text_of(events)
    assert thought["off"] == 0 < thought["low"] < thought["high"]


def test_a_small_limit_can_be_used_up_by_reasoning(simulator):
    result = ask(simulator, OWL, max_output_tokens=10).json()
    assert [item["type"] for item in result["output"]] == ["reasoning"]
    assert result["stats"]["total_output_tokens"] == 10


def test_raw_thoughts_stay_in_the_text_with_their_tags_split(simulator):
    events = stream(simulator, RAVEN)
    assert text_of(events).startswith("<think>\n")
    assert text_of(events).count("</think>") == 1
    assert "reasoning.start" not in names(events)
    assert not any("<think>" in event.get("content", "") for event in events)


def test_the_tool_model_calls_a_tool_and_then_answers(simulator):
    integrations = ["mcp/web", {"type": "ephemeral_mcp", "server_label": "x", "server_url": "http://x/mcp",
                                "allowed_tools": ["look"]}]  # fmt: skip
    events = stream(simulator, BEAVER, "Find otters", integrations=integrations)
    assert GRAMMAR.fullmatch(" ".join(names(events)))
    first, second = [event for event in events if event["type"] == "tool_call.success"]
    assert first["provider_info"] == {"type": "plugin", "plugin_id": "mcp/web"}
    assert second["tool"] == "look"
    assert second["provider_info"] == {"type": "ephemeral_mcp", "server_label": "x"}
    assert first["arguments"] == {"query": "Find otters"}
    assert isinstance(first["output"], str)
    kinds = [item["type"] for item in events[-1]["result"]["output"]]
    assert kinds == ["tool_call", "tool_call", "message"]


def test_a_call_of_an_unknown_tool_is_reported(simulator):
    events = stream(simulator, BEAVER, "[[invalid-tool]]", integrations=["mcp/web"])
    [failure] = [event for event in events if event["type"] == "tool_call.failure"]
    assert failure["metadata"]["type"] == "invalid_name"
    assert events[-1]["result"]["output"][0]["type"] == "invalid_tool_call"


def test_a_model_without_tools_ignores_integrations(simulator):
    assert "tool_call.start" not in names(stream(simulator, OTTER, integrations=["mcp/web"]))


def test_a_chat_goes_on_and_its_prompt_grows(simulator):
    first = ask(simulator).json()
    second = ask(simulator, previous_response_id=first["response_id"]).json()
    before, after = first["stats"], second["stats"]
    assert after["input_tokens"] == 2 * before["input_tokens"] + before["total_output_tokens"]
    assert "question 2" in second["output"][0]["content"]
    assert "response_id" not in ask(simulator, store=False).json()


def test_a_prompt_longer_than_the_context_is_refused(simulator):
    answer = ask(simulator, text="word " * 50, context_length=40)
    assert answer.status_code == 400
    assert "context" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"model": OTTER}, 400, "missing_required_parameter", "input"),
        ({"input": "x"}, 400, "missing_required_parameter", "model"),
        ({"model": OTTER, "input": "x", "ttl": 5}, 400, "unrecognized_keys", None),
        ({"model": 5, "input": "x"}, 400, "invalid_type", "model"),
        ({"model": OTTER, "input": 5}, 400, "invalid_union", "input"),
        ({"model": OTTER, "input": [{"type": "message", "content": "x"}]}, 400, "invalid_union", "input"),
        ({"model": OTTER, "input": [{"type": "text", "text": "x"}]}, 400, "unrecognized_keys", None),
        ({"model": OTTER, "input": "x", "stream": "yes"}, 400, "invalid_type", "stream"),
        ({"model": OTTER, "input": "x", "top_k": 1.5}, 400, "invalid_type", "top_k"),
        ({"model": OTTER, "input": "x", "top_p": 2}, 400, "invalid_value", "top_p"),
        ({"model": OTTER, "input": "x", "max_output_tokens": 0}, 400, "invalid_value", "max_output_tokens"),
        ({"model": OTTER, "input": "x", "reasoning": "high"}, 400, "invalid_value", "reasoning"),
        ({"model": OWL, "input": "x", "reasoning": "xhigh"}, 400, "invalid_value", "reasoning"),
        ({"model": OTTER, "input": "x", "integrations": [{}]}, 400, "invalid_union", "integrations"),
        ({"model": OTTER, "input": "x", PREVIOUS: "r"}, 400, "invalid_value", PREVIOUS),
        ({"model": OTTER, "input": "x", PREVIOUS: "resp_0"}, 404, None, PREVIOUS),
        ({"model": "no/such", "input": "x"}, 404, "model_not_found", "model"),
        ({"model": "text-embedding-simulated-reed", "input": "x"}, 400, "invalid_value", "model"),
        ([], 400, "invalid_type", None),
    ],
)  # fmt: skip
def test_a_bad_body_is_refused_with_its_reason_even_for_a_stream(simulator, body, status, code, param):
    if isinstance(body, dict):
        body = {"stream": True, **body}
    answer = requests.post(f"{simulator.url}/api/v1/chat", json=body, timeout=60)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["message"]
    assert (error.get("code"), error.get("param")) == (code, param)


def test_text_and_image_items_are_read(simulator):
    image = {"type": "image", "data_url": "data:image/png;base64,AAAA"}
    items = [{"type": "text", "content": "What is this"}, image]
    assert ask(simulator, OTTER, items).status_code == 400
    answer = ask(simulator, "simulated/heron-3b", items)
    assert "What is this" in answer.json()["output"][0]["content"]


def test_a_malformed_body_is_a_400(simulator):
    assert requests.post(f"{simulator.url}/api/v1/chat", data="{", timeout=60).status_code == 400


def test_requests_beyond_the_slots_wait_in_order_and_run_in_parallel_within(simulator):
    simulator.control(f"models/{OTTER}", {"slots": 2, "tokens_per_second": 1})
    speaking, threads = [], []
    url, body = f"{simulator.url}/api/v1/chat", {"model": OTTER, "input": "[[tokens=31]]", "stream": True}

    def run(number):
        with requests.post(url, json=body, stream=True, timeout=60) as response:
            for line in response.iter_lines():
                if b"message.delta" in line and number not in speaking:
                    speaking.append(number)

    begun = time.monotonic()
    for number in range(4):
        threads.append(threading.Thread(target=run, args=(number,)))
        threads[-1].start()
        wait_for(simulator, OTTER, requests=number + 1)
    wait_for(simulator, OTTER, active=2, waiting=2)
    wait_until(lambda: len(speaking) == 2)
    assert set(speaking) == {0, 1}
    simulator.control(f"models/{OTTER}", {"tokens_per_second": 100})  # 0.3 s for an answer
    for thread in threads:
        thread.join()
    assert set(speaking[2:]) == {2, 3}
    busy = simulator.state()["slot_busy_seconds"][OTTER]
    assert 1.1 <= busy <= 2 * (time.monotonic() - begun)  # who waits is in no slot


def test_closing_the_connection_stops_the_answer_and_frees_the_slot(simulator):
    simulator.control(f"models/{OTTER}", {"slots": 1, "tokens_per_second": 5})
    url, body = f"{simulator.url}/api/v1/chat", {"model": OTTER, "input": "[[tokens=500]]", "stream": True}
    with requests.post(url, json=body, stream=True, timeout=60) as response:
        lines = response.iter_lines()
        next(lines)
        wait_for(simulator, OTTER, active=1)
        with pytest.raises(requests.exceptions.ReadTimeout):
            requests.post(f"{simulator.url}/api/v1/chat", json={**body, "stream": False}, timeout=0.2)
        wait_for(simulator, OTTER, active=1, waiting=0, cancelled=1)
    wait_for(simulator, OTTER, active=0, cancelled=2)
    simulator.control(f"models/{OTTER}", {"tokens_per_second": 0})
    assert ask(simulator).status_code == 200


def test_an_eviction_ends_a_stream_with_an_error_and_what_there_was(simulator):
    simulator.control(f"models/{OTTER}", {"tokens_per_second": 20})
    seen = []
    reader = threading.Thread(target=lambda: seen.extend(stream(simulator, text="[[tokens=500]]")))
    reader.start()
    wait_for(simulator, OTTER, active=1)
    time.sleep(0.2)
    assert ask(simulator, "simulated/heron-3b").status_code == 200
    reader.join()
    assert names(seen)[-2:] == ["error", "chat.end"]
    assert seen[-2]["error"]["type"] == "internal_error"
    assert seen[-1]["result"]["output"][0]["content"] == text_of(seen) != ""
    state = simulator.state()
    assert (state["evictions"], state["busy_evictions"]) == (1, 1)
    assert state["models"][OTTER]["failed"] == 1
