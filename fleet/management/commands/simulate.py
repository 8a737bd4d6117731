"""`manage.py simulate`: the same as `daemonpulse simulate`."""

from fleet.simulator.cli import main
from fleet.terminal import LightCommand


class Command(LightCommand):
    help = "Runs the simulated daemon. See `daemonpulse simulate --help`."
    run_main = staticmethod(main)
