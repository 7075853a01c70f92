"""`python -m tools.history` is `coild-history`."""

import sys

from tools.history.cli import main

sys.exit(main())
