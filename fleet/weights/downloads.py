"""Which file a downloaded model is, from what `lms ls --json` tells (contract §7.2)."""

from pathlib import Path

from fleet.lms.errors import LmsError, Problem
from fleet.weights.finding import find

GGUF_ONLY = "Only GGUF files tell how much memory a model takes"
LOOK_AT_FOLDER = "Look whether it lies there, and was downloaded to its end."


def file_of(folder: Path, rows: object, model: str, size_bytes: int | None = None) -> Path:
    """The first GGUF file of a model. `rows` is LM Studio's list, or anything else where it could not be had; then the
    size decides. Raises LmsError for a model of another format, and for one whose file is not there."""
    row = row_of(rows, model)
    kind = row.get("format")
    if isinstance(kind, str) and kind.lower() != "gguf":
        shown = "MLX" if kind in ("safetensors", "mlx_placeholder") else kind  # contract §7.2: it says so of MLX
        raise LmsError(Problem.FAILED, f"{GGUF_ONLY}, and {model} is {shown}.", advice="Use LM Studio's own estimate.")
    path, size = row.get("path"), size_bytes or row.get("sizeBytes")
    paths = [path] if isinstance(path, str) else []
    size = size if isinstance(size, int) and not isinstance(size, bool) else None
    if found := find(folder, paths, size):
        return found
    sentence = f"The GGUF file of {model} was not found below {folder}."
    raise LmsError(Problem.MODEL_NOT_FOUND, sentence, advice=LOOK_AT_FOLDER)


def row_of(rows: object, model: str) -> dict:
    """What the list says of a model on this machine; {} when nothing. A variant has a row only while it is selected."""
    listed = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    here = [row for row in listed if row.get("deviceIdentifier") is None]  # others lie on an LM Link device
    if "@" not in model:
        return next((row for row in here if model in (row.get("modelKey"), row.get("indexedModelIdentifier"))), {})
    keys = ("modelKey", "indexedModelIdentifier", "selectedVariant")
    return next((row for row in here if model in [row.get(key) for key in keys]), {})
