"""`python -m coild` is `coild`."""

import sys

from coild.cli import main

if __name__ == "__main__":
    sys.exit(main())
