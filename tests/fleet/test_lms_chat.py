"""Chats passed on to the server: whole, in pieces, closed in the middle, and what is refused before it is sent."""

import threading

import pytest

from fleet.daemons.errors import DaemonError, Reason
from fleet.lms.home import Folder
from fleet.lms.manager import ChatMessage, LMStudioManager, MessageRole
from tests.fleet.fake_lms_fixture import HERON, OTTER, free_port, wait_for
from tests.fleet.simulator_fixture import INSTANT, SimulatorProcess

HELLO = [ChatMessage(MessageRole.USER, "Hello")]


@pytest.fixture(scope="module")
def simulator():
    simulator = SimulatorProcess().start()
    yield simulator
    simulator.stop()


@pytest.fixture
def manager(simulator, tmp_path):
    simulator.reset()
    return LMStudioManager(Folder.find(tmp_path, environment={}), port=simulator.port)


def test_it_gives_the_whole_answer_in_openais_shape(manager):
    answer = manager.proxy_chat_completion(HELLO, {"model": OTTER, "max_tokens": 5, "temperature": None})
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["choices"][0]["message"]["content"]
    assert answer["usage"]["completion_tokens"] == 5


def test_messages_may_be_plain_objects(manager):
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}]
    assert manager.proxy_chat_completion(messages, {"model": OTTER})["model"] == OTTER


def test_the_pieces_make_up_the_whole_answer(manager):
    whole = manager.proxy_chat_completion(HELLO, {"model": OTTER, "max_tokens": 20})
    with manager.stream_chat_completion(HELLO, {"model": OTTER, "max_tokens": 20}) as chat:
        pieces = list(chat)
    assert len(pieces) > 3
    assert "".join(piece["content"] for piece in pieces) == whole["choices"][0]["message"]["content"]
    assert (chat.finish_reason, chat.model) == ("length", OTTER)
    assert chat.usage["completion_tokens"] == 20


def test_a_models_reasoning_comes_apart_from_its_answer(manager):
    pieces = list(manager.stream_chat_completion(HELLO, {"model": "simulated/owl-thinker-14b"}))
    kinds = [next(iter(piece)) for piece in pieces]
    assert kinds[0] == "reasoning_content"
    assert kinds[-1] == "content"


def test_without_a_model_the_loaded_one_answers(manager, simulator):
    with pytest.raises(DaemonError) as caught:
        manager.proxy_chat_completion(HELLO, {})
    assert caught.value.reason is Reason.MODEL_NOT_FOUND
    manager.proxy_chat_completion(HELLO, {"model": HERON, "max_tokens": 1})
    assert manager.proxy_chat_completion(HELLO, {"max_tokens": 1})["model"] == HERON
    assert manager.get_status().current_model == HERON


def test_it_can_be_closed_from_another_thread_and_frees_the_slot(manager, simulator):
    simulator.control(f"models/{OTTER}", {**INSTANT, "tokens_per_second": 5})
    chat = manager.stream_chat_completion(HELLO, {"model": OTTER})
    pieces, has_begun = [], threading.Event()

    def read():
        for piece in chat:
            pieces.append(piece)
            has_begun.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert has_begun.wait(10)
    chat.close()
    reader.join(5)
    assert not reader.is_alive()
    assert wait_for(lambda: simulator.state()["models"][OTTER]["active"] == 0)


@pytest.mark.parametrize(
    ("messages", "chosen", "said"),
    [(HELLO, {"ttl": 5}, '"ttl" is not a known setting'), (HELLO, {"stream": True}, '"stream" is not'),
     (HELLO, {"temperature": "hot"}, '"temperature" must be a number'), (HELLO, {"seed": True}, '"seed" must be'),
     (HELLO, {"top_p": float("nan")}, '"top_p" must be'), (HELLO, {"model": ""}, '"model" must be'),
     (HELLO, {"stop": [1]}, '"stop" must be'), (HELLO, [], "settings of a chat"),
     ([], {}, "at least one message"), ("Hello", {}, "a list"), ([{"role": "boss", "content": "x"}], {}, "a role"),
     ([{"role": "user"}], {}, "must be text"), ([None], {}, "a role")],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_anything_is_sent(manager, messages, chosen, said):
    for ask in (manager.proxy_chat_completion, manager.stream_chat_completion):
        with pytest.raises(ValueError, match=said):
            ask(messages, {"model": OTTER, **chosen} if isinstance(chosen, dict) else chosen)


def test_a_server_that_does_not_answer_is_a_daemon_error(tmp_path):
    manager = LMStudioManager(Folder.find(tmp_path, environment={}), port=free_port())
    for ask in (manager.proxy_chat_completion, lambda *chat: list(manager.stream_chat_completion(*chat))):
        with pytest.raises(DaemonError) as caught:
            ask(HELLO, {"model": OTTER})
        assert caught.value.reason is Reason.UNREACHABLE


def test_a_failure_in_the_middle_is_told(manager, simulator):
    simulator.control("daemon", {"fault": {"kind": "cut", "after_tokens": 2}})
    with pytest.raises(DaemonError) as caught:
        list(manager.stream_chat_completion(HELLO, {"model": OTTER}))
    assert caught.value.reason is Reason.CUT
