"""The rows of the CNI plugin: an ADD beside a bare interpreter, and beside host-local's."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.bench.table import Row
from tests.bench.wrk import median
from tests.kits.daemon.process import Daemon
from tests.kits.plugin.cni import install_plugin
from tests.kits.system.debian import package

#: What is held while host-local is measured beside: its cost grows with that.
_HELD = 2000
#: Pairs of runs, one after the other; the medians count.
_RUNS = 300


class _Program:
    """A plugin with a network, or any program, to be run and timed from outside."""

    def __init__(self, command: list[str], config: Path) -> None:
        self._command = command
        self._config = config

    def run(self, command: str, container_id: str) -> float:
        """How long a run takes, from fork to exit, in seconds. Raises SystemExit if it fails."""
        variables = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container_id,
            "CNI_NETNS": "/run/netns/none",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": "/opt/cni/bin",
        }
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, str(self._config), os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        ]
        started = time.perf_counter()
        process = os.posix_spawn(self._command[0], self._command, variables, file_actions=actions)
        _, status = os.waitpid(process, 0)
        took = time.perf_counter() - started
        if status:
            raise SystemExit(f"{' '.join(self._command)} failed: {command} of {container_id}")
        return took


def rows(scratch: Path) -> Iterator[Row]:
    """Measure the installed plugin with a daemon; the rows as they come."""
    installed = install_plugin(scratch / "cni")
    if installed.returncode:
        raise SystemExit(installed.stderr)
    executable = scratch / "cni" / "coild-ipam"
    python = executable.read_text().partition("\n")[0].removeprefix("#!").split()[0]
    with Daemon(scratch / "cni-data", "--pool", "default=10.64.0.0/16") as daemon:
        where = {"coild": f"http://{daemon.address}", "spool": str(scratch / "cni-data" / "spool")}
        ours = _Program([str(executable)], _config(scratch, "coild-ipam", where))
        bare = _Program([python, "-I", "-S", "-c", "pass"], Path(os.devnull))
        ours_ms, bare_ms = _in_turn(ours, lambda: bare.run("ADD", ""))
        yield Row(
            "CNI ADD, from fork to exit / python3 -I -S -c pass",
            ours_ms / bare_ms,
            2.5,
            at_most=True,
            note=f"{ours_ms:.1f} / {bare_ms:.1f} ms",
        )
        for number in range(_HELD):
            daemon.allocate(f"held-{number}")
        local = _Program(
            [str(package("containernetworking-plugins") / "usr/lib/cni/host-local")],
            _config(
                scratch,
                "host-local",
                {"ranges": [[{"subnet": "10.65.0.0/16"}]], "dataDir": str(scratch / "host-local")},
            ),
        )
        for number in range(_HELD):
            local.run("ADD", f"held-{number}")
        yield _beside(ours, local)


def _beside(ours: _Program, local: _Program) -> Row:
    def one() -> float:
        took = local.run("ADD", "timed")
        local.run("DEL", "timed")
        return took

    ours_ms, local_ms = _in_turn(ours, one)
    return Row(
        f"CNI ADD with {_HELD:,} addresses held / host-local's",
        ours_ms / local_ms,
        1.0,
        at_most=True,
        note=f"{ours_ms:.1f} / {local_ms:.1f} ms",
    )


def _in_turn(ours: _Program, other: Callable[[], float]) -> tuple[float, float]:
    """The medians of an ADD and of the other, one after the other, in ms."""
    times: list[tuple[float, float]] = []
    for number in range(_RUNS):
        took = ours.run("ADD", f"timed-{number}")
        ours.run("DEL", f"timed-{number}")
        times.append((took, other()))
    first, second = zip(*times, strict=True)
    return 1000 * median(first), 1000 * median(second)


def _config(scratch: Path, name: str, ipam: dict[str, Any]) -> Path:
    """A file with a network's configuration."""
    path = scratch / f"{name}.json"
    network = {"cniVersion": "1.0.0", "name": "pods", "type": "ptp", "ipam": {"type": name} | ipam}
    path.write_text(json.dumps(network))
    return path
