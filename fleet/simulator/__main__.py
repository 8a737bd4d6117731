import sys

from fleet.simulator.cli import main

sys.exit(main(sys.argv[1:]))
