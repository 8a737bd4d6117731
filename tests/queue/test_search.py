"""Finding words in texts that the database cannot read."""

import pytest

from daemonpulse.queue import search as search_module
from daemonpulse.queue.models import Prompt
from daemonpulse.queue.search import search

from .prompts import done, submit

pytestmark = pytest.mark.django_db


def found(owner, words: str) -> list[str]:
    return [prompt.text for prompt in search(Prompt.objects.of(owner), words).prompts]


def test_it_finds_all_the_words_whatever_their_case(alice):
    for text in ("Otters hold hands", "otters swim", "Hands off"):
        submit(alice, text)

    assert found(alice, "OTTERS") == ["otters swim", "Otters hold hands"]
    assert found(alice, "hands otters") == ["Otters hold hands"]
    assert found(alice, "herons") == []


def test_it_finds_words_of_the_answer_and_across_both(alice, node):
    done(alice, node, answer="Rayleigh scattering", text="Why is the sky blue?")

    assert found(alice, "rayleigh") == found(alice, "sky scattering") == ["Why is the sky blue?"]


@pytest.mark.parametrize(("text", "words"), [("Straße", "STRASSE"), ("ΣΊΣΥΦΟΣ", "σίσυφος"), ("a  b\nc", "c a")])
def test_it_folds_case_as_people_do(alice, text, words):
    submit(alice, text)

    assert found(alice, words) == [text]


def test_it_finds_only_in_what_it_is_given(alice, bob):
    submit(bob, "a secret of Bob")

    assert found(alice, "secret") == []


def test_it_tells_when_it_did_not_read_everything(alice, monkeypatch):
    monkeypatch.setattr(search_module, "MAX_SEARCHED", 3)
    for number in range(4):
        submit(alice, f"otter {number}")

    result = search(Prompt.objects.of(alice), "otter")

    assert ([prompt.text for prompt in result.prompts], result.searched, result.is_all) == (
        ["otter 3", "otter 2", "otter 1"],
        3,
        False,
    )


def test_it_tells_when_it_read_everything(alice, monkeypatch):
    monkeypatch.setattr(search_module, "MAX_SEARCHED", 3)
    for number in range(3):
        submit(alice, f"otter {number}")

    assert search(Prompt.objects.of(alice), "otter").is_all is True


def test_it_reads_many_with_few_queries(alice, django_assert_max_num_queries):
    Prompt.submit_many(owner=alice, drafts=[{"model": "otter", "text": f"otter {n}"} for n in range(100)])

    with django_assert_max_num_queries(3):
        search(Prompt.objects.of(alice), "otter")
