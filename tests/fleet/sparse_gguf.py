"""GGUF files as big as real models that take no room: header, metadata and tensor list, then a hole.

`sparse_model(folder / "otter-8B-Q4_K_M.gguf")` has 8 billion weights: 4.9 GB by its size, 20 kB on the disk.
"""

import os
from collections.abc import Iterator
from pathlib import Path

OWN = ("general.", "tokenizer.", "split.")  # keys that do not belong to the architecture
Q4_K_M = 15  # the number of that file type in the metadata


def sparse_model(
    path: Path,
    *,
    architecture: str = "llama",
    layers: int = 32,
    embedding: int = 4096,
    heads: int = 32,
    kv_heads: int | list[int] = 8,
    head_length: int = 0,
    feed_forward: int = 14336,
    vocabulary: int = 128_256,
    context: int = 131_072,
    experts: int = 0,
    metadata: dict[str, object] | None = None,
    tensors: dict[str, tuple[int, ...]] | None = None,
    tokens: int = 0,
    shards: int = 1,
    file_type: int = Q4_K_M,
) -> list[Path]:
    """Write a model whose tensors are those of a Q4_K_M and return its files; as it stands, that of an 8B Llama.

    `metadata` adds to it, or changes it: names without a dot before them get the architecture's ("attention.causal" is
    "llama.attention.causal"), those of "general", "tokenizer" and "split" stay; None leaves a key out. `tensors` adds
    some of f32: name without ".weight", shape. `tokens` writes so many tokens and merges of a tokenizer, 150,000 in
    half a second; `shards` splits the file as llama.cpp does.
    """
    from gguf import GGUFWriter

    told = {
        "general.name": path.stem,
        "general.file_type": file_type,
        "context_length": context,
        "embedding_length": embedding,
        "block_count": layers,
        "feed_forward_length": feed_forward,
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": head_length or embedding // heads,
        "vocab_size": vocabulary,
        "tokenizer.ggml.model": "gpt2" if tokens else "none",
    }
    if head_length:
        told |= {"attention.key_length": head_length, "attention.value_length": head_length}
    if experts:
        told |= {"expert_count": experts, "expert_used_count": min(experts, 8)}
    rows = list(_tensors(layers, embedding, heads, kv_heads, head_length, feed_forward, vocabulary, experts))
    rows += [(name, shape, "F32") for name, shape in (tensors or {}).items()]
    writer = GGUFWriter(None, architecture, split_max_tensors=-(-len(rows) // shards) if shards > 1 else 0)
    for name, value in (told | (metadata or {})).items():
        if value is not None:
            _add(writer, name if name.startswith(OWN) else f"{architecture}.{name}", value)
    if tokens:
        writer.add_token_list([f"token{number}" for number in range(tokens)])
        writer.add_token_types([1] * tokens)
        writer.add_token_merges([f"t{number} k{number}" for number in range(tokens)])
    return _written(writer, path, rows)


def _add(writer, name: str, value: object) -> None:
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    add.get(type(value), writer.add_array)(name, value)


def _tensors(
    layers: int,
    embedding: int,
    heads: int,
    kv_heads: int | list[int],
    head_length: int,
    feed_forward: int,
    vocabulary: int,
    experts: int,
) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Name, shape (rows first) and type of each. Q4_K_M takes the better type for what matters most."""
    length = head_length or embedding // heads
    yield "token_embd", (vocabulary, embedding), "Q4_K"
    yield "output", (vocabulary, embedding), "Q6_K"
    yield "output_norm", (embedding,), "F32"
    for layer in range(layers):
        better = "Q6_K" if layer < layers // 8 or layer % 3 == 2 else "Q4_K"
        groups = kv_heads[layer] if isinstance(kv_heads, list) else kv_heads
        each = (experts,) if experts else ()
        kind = "_exps" if experts else ""
        block = f"blk.{layer}"
        yield f"{block}.attn_norm", (embedding,), "F32"
        yield f"{block}.ffn_norm", (embedding,), "F32"
        yield f"{block}.ffn_gate{kind}", (*each, feed_forward, embedding), "Q4_K"
        yield f"{block}.ffn_up{kind}", (*each, feed_forward, embedding), "Q4_K"
        yield f"{block}.ffn_down{kind}", (*each, embedding, feed_forward), better
        if experts:
            yield f"{block}.ffn_gate_inp", (experts, embedding), "F32"
        if groups:
            yield f"{block}.attn_q", (heads * length, embedding), "Q4_K"
            yield f"{block}.attn_k", (groups * length, embedding), "Q4_K"
            yield f"{block}.attn_v", (groups * length, embedding), better
            yield f"{block}.attn_output", (embedding, heads * length), "Q4_K"


def _written(writer, path: Path, rows: list[tuple[str, tuple[int, ...], str]]) -> list[Path]:
    import numpy
    from gguf import GGMLQuantizationType, quant_shape_to_byte_shape

    for name, shape, kind in rows:
        of = GGMLQuantizationType[kind]
        stored = shape if kind == "F32" else quant_shape_to_byte_shape(shape, of)
        kept, size = (numpy.float32, 4) if kind == "F32" else (numpy.uint8, 1)
        total = size
        for number in stored:
            total *= number
        writer.add_tensor_info(f"{name}.weight", stored, numpy.dtype(kept), total, of)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    files = [Path(file.name) for file in writer.fout]
    for file, tensors in zip(writer.fout, writer.tensors, strict=True):
        data = sum(writer.ggml_pad(tensor.nbytes, writer.data_alignment) for tensor in tensors.values())
        os.truncate(file.fileno(), writer.ggml_pad(file.tell(), writer.data_alignment) + data)
    writer.close()
    return files
