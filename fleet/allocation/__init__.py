"""How a model is laid out over the GPUs: what is wished, planned, carried to a daemon and kept. No Django, no I/O."""
