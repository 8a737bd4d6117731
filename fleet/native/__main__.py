"""`python -m fleet.native`: what the launcher that a browser starts runs."""

import sys

from fleet.native.cli import native_host

if __name__ == "__main__":
    sys.exit(native_host(sys.argv[1:]))
