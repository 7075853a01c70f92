"""`just demo`: a daemon's day on a scratch directory, in a minute: who had it, replay, compact.

Every command is printed before it runs, and all of them are the real ones.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.kits.daemon.process import ROOT, Daemon, environment

#: Pods that come and go, besides the one that the story is about.
_PODS = 400


def main() -> int:
    """Play it; the exit status."""
    with tempfile.TemporaryDirectory(prefix="coild-demo-") as scratch:
        data_dir = Path(scratch) / "data"
        _say("coild --segment-size 1MiB --reuse-after 1s", "a daemon, with small journal files")
        with Daemon(data_dir, "--segment-size=1MiB", "--reuse-after=1s") as daemon:
            _say("POST /ip …", f"web-0 gets an address, and {_PODS} pods come and go")
            address = daemon.allocate("c-first").json()["address"]
            _traffic(daemon)
            daemon.release("c-first")
            time.sleep(1.2)
            _traffic(daemon)
            status = 0
            for command, why in (
                (f"coild-history {address} -n 5", "who had the first pod's address"),
                ("coild-history --container c-first -o json", "one container, for a script"),
                ("coild-replay --digest --until-seq 100", "the state at an earlier moment"),
                ("coild-replay --diff 5 25", "what changed between two moments"),
                ("coild-compact", "snapshot now, the events go to the archive"),
                ("coild-history --container c-first", "which answers the same"),
                ("coild-replay --check", "every invariant, after every event"),
                ("coild-verify --deep", "every checksum, digest and link"),
            ):
                _say(command, why)
                status |= _run(command, data_dir)
            _say("kill -9, and a new start", "from the snapshot")
            before = daemon.status()["pods"]
            daemon.kill()
            daemon.start()
            same = sorted(before.items()) == sorted(daemon.status()["pods"].items())
            sys.stdout.write(f"{len(before)} addresses held before, the same after: {same}\n")
            daemon.stop()
            return status if same else 1


def _traffic(daemon: Daemon) -> None:
    for number in range(_PODS // 2):
        name = f"c-{time.time_ns()}"
        daemon.allocate(name, f"pod-{number}")
        if number % 4:
            daemon.release(name, f"pod-{number}")


def _run(command: str, data_dir: Path) -> int:
    name, *arguments = shlex.split(command)
    module = f"tools.{name.removeprefix('coild-')}"
    sys.stdout.flush()
    return subprocess.run(
        [sys.executable, "-m", module, "--data-dir", str(data_dir), *arguments],
        cwd=ROOT,
        env=environment(),
        check=False,
    ).returncode


def _say(command: str, why: str) -> None:
    sys.stdout.write(f"\n# {why}\n$ {command}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
