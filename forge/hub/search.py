"""Models to download, as the hub on the internet lists them. What it tells is other people's text: it is cleaned.

Nothing here runs by itself: the hub hears of this server only when somebody searches.
"""

import re
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from fleet.texts import clean
from forge.hub.place import HubUnavailable, endpoint

FORMATS = ("gguf", "mlx")
SORTS = {"downloads": "downloads", "likes": "likes", "trending": "trending_score"}
WANTED = ["author", "downloads", "gated", "lastModified", "likes"]
PER_PAGE = 20
LAST_PAGE = 20  # a list that is longer wants other words, not more pages
MAX_AT_A_TIME = 2  # a hub that is slow must not hold up all threads that answer pages
WAIT_SECONDS = 2.0
MAX_FILES = 5000
MAX_TEXT = 200
MOST = 2**62

REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
SHARD = re.compile(r"-\d{5}-of-\d{5}$")
QUANTIZATION = re.compile(
    r"(?<![A-Z0-9])(?:UD-)?(?:I?Q\d(?:_(?:K|[0-9]|NL|P|S|M|L|XL|XS|XXS))*|TQ\d_\d|BF16|FP?16|FP?32|MXFP4(?:_MOE)?|NVFP4)"
    r"(?![A-Z0-9])"
)
BITS = re.compile(r"(?<!\d)(\d{1,2})-?bits?\b", re.IGNORECASE)
NO_MODEL = ("mmproj", "imatrix")  # a vision model's eyes, and what a quantization was made with

BUSY = "The hub is being asked by others right now. Try again in a moment."


@dataclass(frozen=True, slots=True)
class Found:
    """A repository in a list. `downloads`: of the last 30 days; what is None was not told."""

    id: str
    author: str
    url: str  # its model card
    downloads: int | None
    likes: int | None
    updated: datetime | None
    is_gated: bool  # its owner wants terms accepted first

    @property
    def downloads_in_words(self) -> str:
        return "unknown" if self.downloads is None else f"{self.downloads:,}"

    @property
    def owner(self) -> str:
        return self.id.partition("/")[0]

    @property
    def name(self) -> str:
        return self.id.partition("/")[2]


@dataclass(frozen=True, slots=True)
class Results:
    models: tuple[Found, ...]
    has_more: bool
    page: int


@dataclass(frozen=True, slots=True)
class Quantization:
    """One way to have a model. `wish` is what a node is asked for, "" where the repository has just this one.

    `size_bytes`: all its files together; None = not told.
    """

    name: str
    size_bytes: int | None
    files: int
    wish: str = ""


@dataclass(frozen=True, slots=True)
class Repository(Found):
    """One repository with what it has to download, the smallest first."""

    files: tuple[Quantization, ...] = ()


def is_name(id: object) -> bool:
    return isinstance(id, str) and REPOSITORY.fullmatch(id) is not None


def search(text: str = "", format: str = "gguf", sort: str = "downloads", page: int = 1) -> Results:
    """One page of the repositories whose names have the text in them. Raises HubUnavailable."""
    page = min(max(page, 1), LAST_PAGE)
    first = (page - 1) * PER_PAGE
    with _asking() as api:
        told = api.list_models(
            search=text or None, filter=format, sort=SORTS[sort], limit=first + PER_PAGE + 1, expand=WANTED
        )
        rows = list(islice(told, first, None))
    models = tuple(_found(row) for row in rows[:PER_PAGE] if is_name(row.id))
    return Results(models, len(rows) > PER_PAGE and page < LAST_PAGE, page)


def repository(id: str) -> Repository:
    """A repository with its files. Raises HubUnavailable, and ValueError for what is no repository's name."""
    if not is_name(id):
        raise ValueError("a repository's name is owner/name")
    with _asking() as api:
        row = api.model_info(id, files_metadata=True)
        told = [(one.rfilename, _count(one.size)) for one in islice(row.siblings or (), MAX_FILES)]
    row.id = row.id if is_name(row.id) else id  # it may have been renamed
    return _found(
        row, Repository, files=quantizations(id, {name: size for name, size in told if isinstance(name, str)})
    )


@contextmanager
def _asking() -> Iterator:
    """The library, a few callers at a time; what it raises while it is used becomes HubUnavailable."""
    if not _places.acquire(timeout=WAIT_SECONDS):
        raise HubUnavailable(BUSY)
    try:
        from forge.hub.client import asking  # slow to import, and large: most processes never search

        with asking() as api:
            yield api
    finally:
        _places.release()


_places = threading.BoundedSemaphore(MAX_AT_A_TIME)


def _found(row, kind: type = Found, **more):
    """What the library read, with nothing taken on trust but its id, which was checked."""
    author = row.author if isinstance(row.author, str) else row.id.partition("/")[0]
    return kind(
        id=row.id,
        author=clean(author, MAX_TEXT),
        url=f"{endpoint()}/{row.id}",
        downloads=_count(row.downloads),
        likes=_count(row.likes),
        updated=row.last_modified,
        is_gated=bool(row.gated),
        **more,
    )


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST else None


def quantizations(id: str, files: dict[str, int | None]) -> tuple[Quantization, ...]:
    """What a repository's files are: names → sizes. GGUF by quantization, or all weights of an MLX repository."""
    gguf = {name: size for name, size in files.items() if name.lower().endswith(".gguf") and _is_model(name)}
    if gguf:
        return tuple(sorted(_of_gguf(gguf), key=lambda one: (one.size_bytes or 0, one.name)))
    weights = [size for name, size in files.items() if name.lower().endswith((".safetensors", ".npz"))]
    return (Quantization(_bits(id), _sum(weights), len(weights)),) if weights else ()


def quantization_of(file: str) -> str:
    """The quantization that a GGUF file's name or its folder's tells, "Q4_K_M"; "" where neither does."""
    folder, _, name = file.upper().rpartition("/")
    stem = SHARD.sub("", name.removesuffix(".GGUF").replace("-OF-", "-of-"))
    told = QUANTIZATION.findall(stem) or QUANTIZATION.findall(folder)
    return told[-1] if told else ""


def _of_gguf(files: dict[str, int | None]) -> Iterator[Quantization]:
    """Shards are added up. Where two models have the same quantization, the larger counts: it may be that one."""
    groups: dict[str, dict[str, list]] = defaultdict(lambda: defaultdict(list))
    for name, size in files.items():
        groups[quantization_of(name)][SHARD.sub("", name[: -len(".gguf")])].append(size)
    for quantization, models in groups.items():
        sizes = max(models.values(), key=lambda sizes: (_sum(sizes) is None, _sum(sizes) or 0))
        name = clean(quantization, MAX_TEXT) or "not told"
        yield Quantization(name, _sum(sizes), len(sizes), wish=quantization)


def _is_model(name: str) -> bool:
    return not any(word in name.lower() for word in NO_MODEL)


def _bits(id: str) -> str:
    """ "4-bit" of an MLX repository's name."""
    name = id.partition("/")[2]
    if bits := BITS.search(name):
        return f"{bits[1]}-bit"
    told = QUANTIZATION.findall(name.upper())
    return told[-1] if told else "MLX"


def _sum(sizes: Iterable[int | None]) -> int | None:
    sizes = list(sizes)
    return None if None in sizes else sum(sizes)
