"""What a machine can tell of itself: GPUs, processors, memory. Imports no Django: the node agent uses it too."""
