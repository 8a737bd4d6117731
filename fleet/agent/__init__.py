"""The node agent: one small process beside a remote machine's daemon, and the client that talks to it.

It serves telemetry, lifecycle actions, LM Studio's JSON queries and its logs, and proxies nothing else. Imports no
Django.
"""
