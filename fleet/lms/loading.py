"""`lms load` and its estimate: the arguments, and what its text says (contract §7.4)."""

import math
import re

from fleet.lms.answers import Answer
from fleet.lms.cli import value
from fleet.lms.errors import LmsError, Problem

MOST = 2**31 - 1
UNITS = {"bytes": 1, "byte": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
         "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}  # fmt: skip
FIGURE = r"\s*([\d,]+(?:\.\d+)?)\s*([A-Za-z]+)"
GPU = re.compile(rf"^\s*Estimated GPU Memory:{FIGURE}", re.MULTILINE | re.IGNORECASE)
TOTAL = re.compile(rf"^\s*Estimated Total Memory:{FIGURE}", re.MULTILINE | re.IGNORECASE)
CONFIDENCE = re.compile(r"^\s*Confidence:\s*(\w+)", re.MULTILINE | re.IGNORECASE)
MODEL = re.compile(r"^\s*Model:\s*(\S+)\s*$", re.MULTILINE)
IDENTIFIER = re.compile(r'use the identifier "([^"\n]+)"')


def arguments(
    model: str,
    context_length: int | None = None,
    gpu_ratio: float | None = None,
    parallel: int | None = None,
    ttl_seconds: int | None = None,
    identifier: str | None = None,
) -> list[str]:
    """The argv of a load that asks nobody anything. Raises ValueError with a sentence."""
    args = ["load", value(model), "-y"]
    numbers = {"--context-length": context_length, "--parallel": parallel, "--ttl": ttl_seconds}
    for flag, number in numbers.items():
        if number is not None:
            args += [flag, _whole(flag, number)]
    if gpu_ratio is not None:
        args += ["--gpu", _ratio(gpu_ratio)]
    if identifier is not None:
        args += ["--identifier", value(identifier)]
    return args


def _whole(flag: str, number: object) -> str:
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= MOST:
        raise ValueError(f"{flag[2:].replace('-', ' ')} must be a whole number of at least 1.")
    return str(number)


def _ratio(ratio: object) -> str:
    """`off` and `max` for the ends: what the command's own help shows."""
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 <= ratio <= 1:
        raise ValueError("The GPU ratio must be a number from 0 to 1.")
    return {0: "off", 1: "max"}.get(ratio) or f"{max(ratio, 0.0001):.4f}".rstrip("0")


def is_same_model(asked: str, model: dict) -> bool:
    """Whether what was loaded is what was asked for: by its key, or by the key of one of its variants."""
    return asked in (model.get("modelKey"), model.get("selectedVariant"), model.get("indexedModelIdentifier"))


def identifier_in(answer: Answer) -> str | None:
    """The instance's name, from the sentence that `lms load` ends with."""
    found = IDENTIFIER.search(answer.text)
    return found[1] if found else None


def check_found(answer: Answer, model: str) -> None:
    """Raises LmsError when `lms` found no such model."""
    if answer.exit_code and answer.says("model not found"):
        raise LmsError(Problem.MODEL_NOT_FOUND, f"LM Studio has no model {model} on that machine.", answer.text)


def estimate_in(answer: Answer, model: str) -> dict:
    """{"gpu_bytes", "total_bytes", "fits", "confidence", "text"}; what the text does not tell is None.

    Raises LmsError when it tells nothing, or tells of another model.
    """
    check_found(answer, model)
    text = answer.text
    named = MODEL.search(text)
    if named and named[1] not in (model, model.partition("@")[0]):
        sentence = f"LM Studio has no model {model}: it estimated {named[1]} instead."
        raise LmsError(Problem.WRONG_MODEL, sentence, text)
    gpu, total, fits = _bytes(GPU.search(text)), _bytes(TOTAL.search(text)), _fits(text.lower())
    if gpu is None and total is None and fits is None:
        raise answer.failure(Problem.FAILED if answer.exit_code else Problem.NOT_UNDERSTOOD)
    told = CONFIDENCE.search(text)  # it is told only when it is low
    confidence = told[1].lower() if told else "high" if total is not None else None
    return {"gpu_bytes": gpu, "total_bytes": total, "fits": fits, "confidence": confidence, "text": text}


def _bytes(match: re.Match | None) -> int | None:
    """Binary units since February 2026, GB before (contract §7.4)."""
    if match is None:
        return None
    unit, number = UNITS.get(match[2].lower()), match[1].replace(",", "")
    amount = float(number) * unit if unit and number else math.inf
    return round(amount) if amount < 2**62 else None


def _fits(text: str) -> bool | None:
    if "will fail to load" in text:
        return False
    return True if "may be loaded" in text else None
