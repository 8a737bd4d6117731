"""`manage.py agent`: the same as `daemonpulse agent`."""

from fleet.agent.cli import main
from fleet.terminal import LightCommand


class Command(LightCommand):
    help = "Runs the node agent. See `daemonpulse agent --help`."
    run_main = staticmethod(main)
