"""Loaded before Django's settings: the tests have a data folder of their own."""

import atexit
import os
import shutil
import tempfile

folder = tempfile.mkdtemp(prefix="daemonpulse-tests-")
atexit.register(shutil.rmtree, folder, ignore_errors=True)
os.environ["DAEMONPULSE_DATA_DIR"] = folder
os.environ.setdefault("DAEMONPULSE_LOG_LEVEL", "ERROR")
os.environ.pop("DATABASE_URL", None)
