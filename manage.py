#!/usr/bin/env python
"""Django's own entry point; `daemonpulse <command>` is the same with the data folder as an option."""

from daemonpulse.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
