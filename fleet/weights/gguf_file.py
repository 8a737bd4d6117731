"""Reading a GGUF file with the gguf package. Imports numpy, so only `python -m fleet.weights` imports this."""

import re
import struct
import sys
from pathlib import Path

import numpy
from gguf import GGUFReader, GGUFValueType, LlamaFileType, ReaderField

from fleet.weights.architecture import MAX_LAYERS, Architecture
from fleet.weights.metadata import Tensor, architecture_of

PART = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$", re.IGNORECASE)
TOKENS = "tokenizer.ggml.tokens"
GUESSED = 1024  # LlamaFileType.GUESSED: added to a type that the file's maker did not name
LENGTH_BYTES = 8
ARRAY_HEAD_BYTES = 12  # the type of its items (uint32), and how many (uint64)


class HeaderReader(GGUFReader):
    """A GGUFReader that skips what is in long arrays.

    A tokenizer has some 100,000 of everything, and GGUFReader makes numpy objects of each: 18 s and 790 MB for 150,000
    tokens and 280,000 merges, so 0.4 s and 41 MB. Should the package ever stop calling this method, reading is slow
    again and no less right.
    """

    def _get_field_parts(self, orig_offs: int, raw_type: int):
        if GGUFValueType(raw_type) is GGUFValueType.ARRAY:
            kind = self._get(orig_offs, numpy.uint32)
            count = self._get(orig_offs + kind.nbytes, numpy.uint64)
            if count[0] > MAX_LAYERS:
                size = ARRAY_HEAD_BYTES + self._items_bytes(orig_offs + ARRAY_HEAD_BYTES, kind[0], int(count[0]))
                return size, [kind, count], [], [GGUFValueType.ARRAY, GGUFValueType(kind[0])]
        return super()._get_field_parts(orig_offs, raw_type)

    def _items_bytes(self, offset: int, kind: int, count: int) -> int:
        """Bytes of so many items from here. Raises ValueError when the file is not as long."""
        of = GGUFValueType(kind)
        least = LENGTH_BYTES if of is GGUFValueType.STRING else numpy.dtype(self.gguf_scalar_to_np[of]).itemsize
        if count * least > len(self.data) - offset:
            raise ValueError(f"an array claims to have {count} items")
        return self._texts_bytes(offset, count) if of is GGUFValueType.STRING else count * least

    def _texts_bytes(self, offset: int, count: int) -> int:
        length, view, end = struct.Struct(self._order + "Q"), memoryview(self.data), offset
        for _ in range(count):
            end += LENGTH_BYTES + length.unpack_from(view, end)[0]
        return end - offset

    @property
    def _order(self) -> str:
        return "<" if (sys.byteorder == "little") == (self.byte_order == "I") else ">"


def parts_of(path: Path) -> list[Path]:
    """The files of a model: this one, or all of a model that was split (llama.cpp's gguf-split names them)."""
    found = PART.match(path.name)
    if not found:
        return [path]
    names = [f"{found['stem']}-{number:05}-of-{found['count']}.gguf" for number in range(1, int(found["count"]) + 1)]
    return [path.with_name(name) for name in names] or [path]


def read_file(path: Path) -> Architecture:
    """What the file, and the other parts of a split model, say. Raises ValueError with half a sentence, and whatever
    a damaged file makes gguf and numpy raise."""
    tensors, first = [], None
    for part in parts_of(path):
        if not part.is_file():
            raise ValueError(f"its part {part.name} is missing")
        reader = HeaderReader(part)
        first = first or reader
        tensors += [Tensor(one.name, int(one.n_elements), int(one.n_bytes)) for one in reader.tensors]
    return architecture_of(_metadata(first), tensors, _tokens(first, tensors), _file_type(first))


def _metadata(reader: GGUFReader) -> dict[str, object]:
    """The keys that tell of the model; its tokenizer's are left out."""
    name = _contents(reader.get_field("general.architecture"))
    wanted = ("general.", f"{name}.")
    return {key: _contents(field) for key, field in reader.fields.items() if key.startswith(wanted)}


def _contents(field: ReaderField | None) -> object:
    return field.contents() if field else None


def _tokens(reader: GGUFReader, tensors: list[Tensor]) -> int:
    field = reader.get_field(TOKENS)
    if field is None or field.types[:1] != [GGUFValueType.ARRAY]:
        return 0
    return int(field.parts[4][0])  # after the key's length, the key, the type and the type of the items


def _file_type(reader: GGUFReader) -> str:
    number = _contents(reader.get_field("general.file_type"))
    try:
        return LlamaFileType(number & ~GUESSED).name.removeprefix("MOSTLY_").removeprefix("ALL_")
    except (ValueError, TypeError):
        return ""
