"""`python -m tools.replay` is `coild-replay`."""

import sys

from tools.replay.cli import main

sys.exit(main())
