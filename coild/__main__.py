"""The command `coild`, and `python -m coild`."""

import sys

from coild.process import signals


def main() -> int:
    """Run `coild`; the exit status."""
    signals.begin()
    # Not at the top: it takes a while to load.
    from coild.cli import main as run  # noqa: PLC0415

    return run()


if __name__ == "__main__":
    sys.exit(main())
