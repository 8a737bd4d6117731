import sys

from fleet.agent.cli import main

sys.exit(main(sys.argv[1:]))
