"""The app in the top-level folder `queue`, under a name that leaves the standard library's `queue` alone."""

from pathlib import Path

__path__ = [str(Path(__file__).resolve().parents[2] / "queue")]
