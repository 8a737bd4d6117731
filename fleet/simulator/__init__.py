"""The simulated daemon: an HTTP server with LM Studio's interface and scripted models instead of a GPU.

It is the first-run demo where no daemon is found, and the double in tests: `python -m fleet.simulator`.
"""
