"""Finding words in texts that the database cannot read: newest first, within a bound that is told."""

from dataclasses import dataclass

from .models import Prompt

MAX_SEARCHED = 5000


@dataclass(slots=True)
class Found:
    """`searched` prompts were read, newest first; `is_all`: there were no more."""

    prompts: list[Prompt]
    searched: int
    is_all: bool


def search(prompts, words: str) -> Found:
    """The prompts whose text or answer contains all the words, whatever their case."""
    wanted = words.casefold().split()
    found, searched = [], 0
    for prompt in prompts.prefetch_related("attempts")[: MAX_SEARCHED + 1].iterator(chunk_size=200):
        if searched == MAX_SEARCHED:
            return Found(found, searched, is_all=False)
        searched += 1
        text = "\n".join([prompt.text, *(attempt.answer for attempt in prompt.attempts.all())]).casefold()
        if all(word in text for word in wanted):
            found.append(prompt)
    return Found(found, searched, is_all=True)
