"""The one door for pages, agents and browsers: what it takes, what it refuses, what it gives back."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.lms.actions import CHANGING, Action, checked, execute
from fleet.lms.home import Folder
from fleet.lms.manager import LmsError, LMStudioManager
from tests.fleet.fake_lms_fixture import OTTER, FakeLMStudio
from tests.fleet.sparse_gguf import sparse_model


@pytest.fixture
def studio(tmp_path):
    studio = FakeLMStudio(tmp_path, only_greets=True)
    yield studio
    studio.stop()


def test_every_action_can_be_carried_out_and_answers_json(studio):
    lines = []
    manager = LMStudioManager(Folder.find(studio.home, environment={}), on_line=lines.append)
    (folder := manager.folder.path / "models" / OTTER).mkdir(parents=True)
    sparse_model(folder / "otter.gguf", layers=1)
    asked = [
        (Action.STATUS, {}, "state", "server_down"),
        (Action.DAEMON_UP, {}, "daemon_running", True),
        (Action.SERVER_START, {}, "state", "ready"),
        (Action.ESTIMATE, {"model": OTTER, "context_length": None, "gpu_ratio": 1}, "fits", True),
        (Action.LOAD, {"model": OTTER, "identifier": "mine", "ttl_seconds": 60}, "identifier", "mine"),
        (Action.QUERY, {"what": "ps"}, "what", "ps"),
        (Action.METADATA, {"model": OTTER}, "format", "gguf"),
        (Action.SERVER_RESTART, {}, "state", "ready"),
        (Action.SERVER_STOP, {}, "state", "server_down"),
        (Action.HEADLESS_ON, {}, "headless", True),
        (Action.DAEMON_DOWN, {}, "daemon_running", False),
        (Action.DAEMON_UPDATE, {}, "daemon_running", False),
    ]
    assert {action for action, *_ in asked} == set(Action)
    for action, parameters, key, expected in asked:
        answer = execute(manager, action.value, parameters)
        assert answer[key] == expected, action
        assert json.loads(json.dumps(answer)) == answer
    assert "Done." in lines


def test_every_action_has_a_label_for_people():
    labels = [action.label for action in Action]
    assert len(set(labels)) == len(Action)
    assert all(label[0].isupper() and not label.endswith(".") for label in labels)
    assert Action.SERVER_START.label == "Start the server"
    assert Action.HEADLESS_ON.label == "Start it with the machine"  # as on the node's page
    assert Action.LOAD in CHANGING
    assert Action.QUERY not in CHANGING


@pytest.mark.parametrize(
    ("action", "parameters", "said"),
    [(Action.SERVER_START, {"port": 1}, 'does not take "port"; its parameters are: none'),
     (Action.SERVER_START, {"port": None}, "does not take"), (Action.LOAD, {}, 'needs the parameter "model"'),
     (Action.LOAD, {"model": None}, "needs the parameter"), (Action.LOAD, {"model": 5}, '"model" must be text'),
     (Action.LOAD, {"model": "x" * 501}, "1 to 500 characters"), (Action.LOAD, {"model": ""}, "1 to 500"),
     (Action.LOAD, {"model": "a", "parallel": True}, '"parallel" must be a whole number'),
     (Action.LOAD, {"model": "a", "parallel": 1.5}, "whole number"), (Action.QUERY, {"what": ["ls"]}, "must be text"),
     (Action.ESTIMATE, {"model": "a", "gpu_ratio": "max"}, "must be a number"),
     (Action.ESTIMATE, {"model": "a", "ttl_seconds": 5}, "does not take"), (Action.QUERY, [], "must be an object"),
     (Action.QUERY, {"what": "rm"}, "cannot be asked for"), (Action.LOAD, {"model": "-v"}, "begins with"),
     (Action.LOAD, {"model": "a", "parallel": 0}, "at least 1"), ("format_disk", {}, "format_disk")],
)  # fmt: skip
def test_it_refuses_what_it_does_not_know_and_runs_nothing(tmp_path, action, parameters, said):
    studio = FakeLMStudio(tmp_path)
    with pytest.raises(ValueError, match=said):
        execute(LMStudioManager(Folder.find(studio.home, environment={})), action, parameters)
    assert studio.calls() == []


@given(
    st.sampled_from(Action),
    st.dictionaries(st.sampled_from(["model", "what", "gpu_ratio", "parallel", "x"]) | st.text(max_size=5),
                    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.none())),
)  # fmt: skip
@settings(max_examples=80)
def test_any_parameters_are_taken_or_refused_with_a_sentence(action, parameters):
    try:
        taken = checked(action, parameters)
    except ValueError as error:
        assert str(error).endswith(".")
    else:
        assert set(taken) <= set(parameters)


def test_what_fails_keeps_its_problem(studio):
    manager = LMStudioManager(Folder.find(studio.home, environment={}))
    with pytest.raises(LmsError, match="not running"):
        execute(manager, Action.QUERY, {"what": "ps"})
