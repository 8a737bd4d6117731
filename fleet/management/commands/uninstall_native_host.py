"""`manage.py uninstall_native_host`: the same as `daemonpulse uninstall-native-host`."""

from fleet.native.cli import uninstall
from fleet.terminal import LightCommand


class Command(LightCommand):
    help = "Takes back what install-native-host wrote."
    run_main = staticmethod(uninstall)
