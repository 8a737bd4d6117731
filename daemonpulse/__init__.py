"""The project: settings, urls, command line, supervisor, event log and live updates, keys and tokens."""

__version__ = "0.1.0"
