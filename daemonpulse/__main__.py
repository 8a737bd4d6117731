from daemonpulse.cli import main

raise SystemExit(main())
