"""`manage.py native_host`: the same as `daemonpulse native-host`."""

from fleet.native.cli import native_host
from fleet.terminal import LightCommand


class Command(LightCommand):
    help = "Serves a browser extension; the browser starts it."
    run_main = staticmethod(native_host)
