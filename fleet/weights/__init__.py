"""What a model's file says of the memory it will take: read from its metadata, without loading it.

`reading.read(path)` gives an `Architecture`, `cache` turns it into bytes. Imports no Django: the node agent uses it
too; numpy and gguf are imported in a process of their own only (`python -m fleet.weights FILE`).
"""
