"""The file of a model below LM Studio's models folder (contract §7.2, §8.3)."""

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

FIRST_PART = re.compile(r"^(.+)-0*1-of-(\d{5})\.gguf$", re.IGNORECASE)
LATER_PART = re.compile(r"^.+-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)
PROJECTOR = "mmproj"  # what it turns images into tokens with lies beside a model, and is none
DEPTH = 5  # folders; publisher, repository and file are three
MOST_FOLDERS = 5000
MAX_SETTINGS_BYTES = 2**20


def models_folder(home: Path) -> Path:
    """Where LM Studio keeps its models: what settings.json says, else `<home>/models`. `home` is LM Studio's folder."""
    try:
        with (home / "settings.json").open("rb") as file:
            told = json.loads(file.read(MAX_SETTINGS_BYTES).decode("utf-8-sig")).get("downloadsFolder")
    except (OSError, ValueError, AttributeError, RecursionError):
        told = None
    is_path = isinstance(told, str) and told.strip() and "\0" not in told
    return home / told if is_path else home / "models"


def find(folder: Path, paths: list[str], size_bytes: int | None) -> Path | None:
    """The first GGUF file of a model; None when it cannot be told.

    `paths` are what LM Studio says of it, below the folder: a file, or a folder that holds one model, or one of
    `size_bytes`. When none of them is there, the only model in the whole folder of exactly that size is taken. What is
    found lies in the folder by its name; a link may lead elsewhere, as people do with big files.
    """
    for path in paths:
        if found := _at(folder, path, size_bytes):
            return found
    return _of_size(_models(folder), size_bytes)


def _at(folder: Path, path: str, size_bytes: int | None) -> Path | None:
    parts = PurePosixPath(path.replace("\\", "/")).parts
    if not parts or ".." in parts or "\0" in path or parts[0] == "/" or ":" in parts[0]:
        return None
    place = folder.joinpath(*parts)
    if _is_model(place.name):
        return _first(place) if place.is_file() else None
    if not place.is_dir():
        return None
    models = list(_models(place))
    return _only(models) or _of_size(models, size_bytes)


def _first(place: Path) -> Path:
    """The first part of a split model, of which another may have been named."""
    return place.with_name(re.sub(r"-\d{5}(-of-\d{5}\.gguf)$", r"-00001\1", place.name, flags=re.IGNORECASE))


def _is_model(name: str) -> bool:
    return name.lower().endswith(".gguf") and not name.lower().startswith(PROJECTOR)


def _models(folder: Path) -> Iterator[Path]:
    """The models below it: single files, and the first part of those that are split."""
    for place, names in _walked(folder):
        for name in names:
            is_first = FIRST_PART.match(name) or not LATER_PART.match(name)
            if _is_model(name) and is_first and (place / name).is_file():
                yield place / name


def _walked(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Folders and what they hold, in order. Links are followed, so its depth is what ends it."""
    for seen, (place, inner, names) in enumerate(os.walk(folder, followlinks=True)):
        depth = len(Path(place).relative_to(folder).parts)
        inner[:] = sorted(inner) if depth < DEPTH and seen < MOST_FOLDERS else []
        yield Path(place), sorted(names)


def _of_size(models: Iterable[Path], size_bytes: int | None) -> Path | None:
    """The only one of this size; whether the size counts a projector beside it is not known, so both are right."""
    if not size_bytes:
        return None
    return _only([model for model in models if size_bytes in _sizes(model)])


def _only(models: list[Path]) -> Path | None:
    """The one there is, by its shortest name: several links to a file are one."""
    files = {os.path.realpath(model): model for model in sorted(models, key=lambda model: -len(model.parts))}
    return next(iter(files.values())) if len(files) == 1 else None


def _sizes(model: Path) -> set[int]:
    try:
        size = sum(part.stat().st_size for part in _parts(model))
        beside = [other for other in model.parent.iterdir() if other.name.lower().startswith(PROJECTOR)]
        return {size} | {size + other.stat().st_size for other in beside}
    except OSError:
        return set()


def _parts(model: Path) -> list[Path]:
    """All parts of a split model, as they lie there."""
    found = FIRST_PART.match(model.name)
    if not found:
        return [model]
    pattern = re.compile(rf"^{re.escape(found[1])}-\d{{5}}-of-{found[2]}\.gguf$", re.IGNORECASE)
    return [other for other in model.parent.iterdir() if pattern.match(other.name)]
