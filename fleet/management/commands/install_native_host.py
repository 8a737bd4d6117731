"""`manage.py install_native_host`: the same as `daemonpulse install-native-host`."""

from fleet.native.cli import install
from fleet.terminal import LightCommand


class Command(LightCommand):
    help = "Lets a browser extension reach the LM Studio of this machine."
    run_main = staticmethod(install)
