"""LM Studio on this machine: its folder, its command line, its lifecycle.

Imports no Django: the node agent and the native messaging host use it too.
"""
