"""What LM Studio tells of models, their loaded copies and downloads, read leniently (contract §2.1, §2.5, §7.3, §10).

A daemon may be anybody's: what is not of its field's type is unknown, and its texts are clean.
"""

import math
from datetime import UTC, datetime

from fleet.daemons.errors import DaemonError, Reason
from fleet.daemons.types import Download, InstanceConfig, InstanceState, ModelInfo, Processing
from fleet.texts import clean

DEFAULT_SLOTS = 4  # "Max Concurrent Predictions" of an LLM where the server does not say (contract §6)
MAX_KEY = 300
MAX_NAME = 100
MAX_WORD = 40
MAX_FORMAT = 20
MAX_JOB_ID = 200
MAX_ITEMS = 64
MAX_SLOTS = 1023  # contract §6
MAX_CONTEXT = 2**31 - 1
MOST = 2**62
MOST_IDLE_SECONDS = 366 * 86400.0  # longer is as good as never
LAST_MOMENT = 32_503_680_000_000  # unix milliseconds: the year 3000, far inside what a date can hold
MILLISECONDS = 1000  # in a second


def model_info(row: object) -> ModelInfo | None:
    """A row of GET /api/v1/models; None for one without a key, which must not hide the others."""
    row = _object(row)
    if not (key := text(row.get("key"), MAX_KEY)):
        return None
    is_llm = row.get("type") != "embedding"
    capabilities, quantization = _object(row.get("capabilities")), _object(row.get("quantization"))
    instances = [_config(item) for item in _list(row.get("loaded_instances")) if _id(item)]
    slots = [one.parallel for one in instances if one.parallel]
    return ModelInfo(
        key=key,
        name=text(row.get("display_name"), MAX_KEY) or key,
        type="llm" if is_llm else "embedding",
        loaded=tuple(one.id for one in instances),
        slots=max(slots) if slots else (DEFAULT_SLOTS if is_llm else None),
        size_bytes=_count(row.get("size_bytes"), MOST),
        context_length=_count(row.get("max_context_length"), MAX_CONTEXT),
        reasoning_options=_texts(_object(capabilities.get("reasoning")).get("allowed_options"), MAX_WORD),
        publisher=text(row.get("publisher"), MAX_NAME),
        architecture=text(row.get("architecture"), MAX_NAME),
        parameters=text(row.get("params_string"), MAX_WORD),
        quantization=text(quantization.get("name"), MAX_WORD),
        bits_per_weight=_amount(quantization.get("bits_per_weight")),
        format=text(row.get("format"), MAX_FORMAT),
        vision=_flag(capabilities.get("vision")),
        tools=_flag(capabilities.get("trained_for_tool_use")),
        variants=_texts(row.get("variants"), MAX_KEY),
        selected_variant=text(row.get("selected_variant"), MAX_KEY),
        instances=tuple(instances),
    )


def _config(item: dict) -> InstanceConfig:
    config = _object(item.get("config"))
    known = ("context_length", "parallel")
    options = {
        text(name, MAX_WORD): value
        for name, value in list(config.items())[:MAX_ITEMS]
        if name not in known and isinstance(value, int) and abs(value) < MOST
    }
    slots, context = _count(config.get("parallel"), MAX_SLOTS), _count(config.get("context_length"), MAX_CONTEXT)
    return InstanceConfig(_id(item), context, slots, options)


def instance_state(row: dict, is_embedding: bool, now: Processing) -> InstanceState:
    """A row of listLoaded, with what the copy does `now`."""
    ttl, used = _amount(row.get("ttlMs")), _amount(row.get("lastUsedTime"))
    return InstanceState(
        id=text(row.get("identifier"), MAX_KEY),
        model=text(row.get("modelKey"), MAX_KEY),
        is_embedding=is_embedding,
        context_length=_count(row.get("contextLength"), MAX_CONTEXT),
        ttl_seconds=None if ttl is None else min(ttl / MILLISECONDS, MOST_IDLE_SECONDS),
        last_used_at=None if used is None or used > LAST_MOMENT else used / MILLISECONDS,
        status=now.status,
        queued=now.queued,
        device=text(row.get("deviceIdentifier"), MAX_KEY),
    )


def processing(told: object) -> Processing:
    """A result of getInstanceProcessingState."""
    told = _object(told)
    queued = told.get("queued")
    return Processing(text(told.get("status"), MAX_WORD), 0 if queued == 0 else _count(queued, MAX_CONTEXT))


def download(answer: dict) -> Download:
    """A download's job object. Raises DaemonError for an answer that tells no status."""
    if not (status := text(answer.get("status"), MAX_WORD)):
        raise DaemonError(Reason.NOT_UNDERSTOOD, "a download without a status")
    total, done = _amount(answer.get("total_size_bytes")), _amount(answer.get("downloaded_bytes"))
    return Download(
        job_id=text(answer.get("job_id"), MAX_JOB_ID),
        status=status,
        total_bytes=None if total is None else round(total),
        downloaded_bytes=None if done is None else round(done),
        bytes_per_second=_amount(answer.get("bytes_per_second")),
        finishes_at=_unix(answer.get("estimated_completion")),
    )


def text(value: object, most: int) -> str:
    """One clean line; "" for what is no text."""
    return clean(value, most) if isinstance(value, str) else ""


def _texts(value: object, most: int) -> tuple[str, ...]:
    return tuple(told for one in _list(value)[:MAX_ITEMS] if (told := text(one, most)))


def _id(item: object) -> str:
    return text(_object(item).get("id"), MAX_KEY)


def _object(value: object) -> dict:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list:
    return value if isinstance(value, list) else []


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _count(value: object, most: int) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most else None


def _amount(value: object) -> float | None:
    """A number that is not negative; JSON as Python reads it also has NaN."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value < MOST and math.isfinite(value) else None


def _unix(value: object) -> float | None:
    """Unix seconds of an ISO 8601 time, which is in UTC where it does not say."""
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else None
        return None if at is None else (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
