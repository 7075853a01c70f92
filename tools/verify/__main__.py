"""`python -m tools.verify` is `coild-verify`."""

import sys

from tools.verify.cli import main

sys.exit(main())
