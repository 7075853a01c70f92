"""A systemd for a test alone, as the first process in its own namespaces.

Its root is an overlay: the machine's files below, a tmpfs above, so that units run from the paths
that they name and nothing is left. Of units there are those that a test installs, and few targets.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import httpx
import pytest

from tests.kits.daemon.process import ROOT, TIMEOUT_SECONDS, client_of, wait_for
from tests.kits.system.debian import package

UNITS = ROOT / "tools" / "systemd"
SERVICE = UNITS / "coild.service"
SOCKET = UNITS / "coild.socket"

#: $1 a directory to mount at, $2 packages to add, $3 and so on: pairs of directory and its place.
_BOOT = """
set -eu
root=$1 packages=$2; shift 2
mount --make-rprivate /
mount -t tmpfs tmpfs "$root"
mkdir "$root/upper" "$root/work" "$root/root"
for package in $packages; do
    for part in lib bin sbin usr; do
        [ -d "$package/$part" ] || continue
        place="$root/upper/usr/${part#usr}"; mkdir -p "$place"; cp -a "$package/$part/." "$place/"
    done
done
mount -t overlay -o "lowerdir=/,upperdir=$root/upper,workdir=$root/work" overlay "$root/root"
cd "$root/root"
for directory in run tmp root home etc/systemd usr/lib/systemd/system \
    usr/lib/systemd/system-generators; do
    mkdir -p "$directory"; mount -t tmpfs tmpfs "$directory"
done
# The machine may have a coild's journal: what is removed here is so in the upper layer alone.
rm -rf var/lib/coild
mkdir -p old proc sys dev etc/systemd/system
while [ $# -gt 0 ]; do mkdir -p ".$2"; mount --rbind "$1" ".$2"; shift 2; done
mount -t proc proc proc
mount --bind proc/sys proc/sys; mount -o remount,bind,ro proc/sys
mount -t tmpfs tmpfs sys; mkdir -p sys/fs/cgroup; mount -t cgroup2 none sys/fs/cgroup
mount -t tmpfs tmpfs dev
for device in null zero full random urandom tty; do
    touch "dev/$device"; mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/shm dev/pts; ln -s pts/ptmx dev/ptmx
for target in basic sysinit sockets multi-user shutdown umount; do
    printf '[Unit]\\nDescription=%s\\n' "$target" > "usr/lib/systemd/system/$target.target"
done
cp "$COILD_UNITS"/* usr/lib/systemd/system/
pivot_root . old
umount -l old
exec env -i container=test PATH="$PATH" LD_LIBRARY_PATH="$LD_LIBRARY_PATH" \
    /usr/lib/systemd/systemd --system --unit=multi-user.target --log-target=console
"""


def tool(name: str) -> list[str]:
    """A command of Debian's package systemd, of the system or fetched."""
    found = shutil.which(name)
    if found:
        return [found]
    layers = _layers()
    return ["env", f"LD_LIBRARY_PATH={_libraries(layers)}", str(layers[0] / "usr" / "bin" / name)]


def _layers() -> list[Path]:
    """The packages to add to the machine's files; none where systemd is installed."""
    if Path("/usr/lib/systemd/systemd").exists():
        return []
    return [package("systemd"), package("libsystemd-shared")]


def _libraries(layers: list[Path]) -> str:
    return ":".join(
        str(path) for layer in layers for path in layer.glob("usr/lib/*/systemd") if path.is_dir()
    )


class Systemd:
    """A running systemd with the units of tools/systemd; a context manager that ends it."""

    def __init__(self, directory: Path) -> None:
        """Skips the test, with the reason, where there can be none."""
        if os.geteuid() != 0:
            pytest.skip("a systemd of one's own needs root")
        self._log = directory / "systemd.log"
        self._cgroup = _own_cgroup()
        root = directory / "mount"
        root.mkdir()
        layers = _layers()
        # Where no sandbox hides them, as the unit's does with /home, /root and /tmp.
        paths = [
            Path(sys.base_prefix),
            ROOT,
            *(Path(p) for p in sys.path if (p and "-packages" in p) or p.endswith(".deps")),
        ]
        places = {path: f"/opt/coild/{index}" for index, path in enumerate(dict.fromkeys(paths))}
        binds = [str(word) for pair in places.items() for word in pair]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *("sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(self._cgroup)),
                    *("unshare", "-mpfuinC", "--kill-child", "sh", "-c", _BOOT, "boot"),
                    *(str(root), " ".join(map(str, layers)), *binds),
                ],
                env=os.environ
                | {
                    "COILD_UNITS": str(UNITS),
                    "LD_LIBRARY_PATH": "",
                    # A root that was made by su(1) may lack the directories of pivot_root(8).
                    "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
                },
                stdout=log,
                stderr=log,
            )
        try:
            wait_for(self._is_up, f"systemd to start, see {self._log}")
            self._install(*places.values())
        except BaseException:
            self.close()
            raise

    def _is_up(self) -> bool:
        if self._process.poll() is not None:
            pytest.skip(f"no systemd can be started here: {self._log.read_text().strip()}")
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        words = children.read_text().split()
        if not words:
            return False
        self._leader = int(words[0])
        return self.path("/run/systemd/private").exists()

    def _install(self, prefix: str, *paths: str) -> None:
        python = f"{prefix}/bin/python{sys.version_info.major}.{sys.version_info.minor}"
        command = self.path("/usr/local/bin/coild")
        command.unlink(missing_ok=True)
        command.write_text(
            f"#!/bin/sh\nexport PYTHONPATH={':'.join(paths)} PYTHONDONTWRITEBYTECODE=1 "
            f'LD_LIBRARY_PATH={prefix}/lib\nexec {python} -W error -m coild "$@"\n'
        )
        command.chmod(0o755)
        self.path("/etc/coild.toml").write_text("")
        # There is no journald.
        self.configure("[Service]\nStandardError=append:/run/coild.log\n", "log")

    def path(self, name: str) -> Path:
        """A file as a process outside finds it."""
        return Path(f"/proc/{self._leader}/root{name}")

    @property
    def log(self) -> str:
        """The daemon's log so far."""
        return self.path("/run/coild.log").read_text()

    def configure(self, text: str, name: str = "test") -> None:
        """Write a drop-in of coild.service, or remove it if it is empty."""
        file = self.path(f"/etc/systemd/system/coild.service.d/{name}.conf")
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        self.systemctl("daemon-reload")

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command in there."""
        return subprocess.run(
            ["nsenter", "--target", str(self._leader), "--all", "--", *words],
            capture_output=True,
            text=True,
            timeout=4 * TIMEOUT_SECONDS,
            check=False,
        )

    def systemctl(self, *words: str, check: bool = True) -> str:
        """The output of systemctl; with `check`, it must succeed."""
        done = self.run("systemctl", "--no-pager", *words)
        assert not check or done.returncode == 0, f"{words}: {done.stderr}{self._said()}"
        return done.stdout.strip()

    def _said(self) -> str:
        return self.log if self.path("/run/coild.log").exists() else ""

    def show(self, name: str, unit: str = "coild.service") -> str:
        """A property of a unit."""
        return self.systemctl("show", "--property", name, "--value", unit)

    @property
    def main(self) -> dict[str, str]:
        """/proc/PID/status of the daemon."""
        text = self.path(f"/proc/{self.show('MainPID')}/status").read_text()
        return {
            key: value.strip() for key, _, value in (s.partition(":") for s in text.splitlines())
        }

    def client(self) -> httpx.Client:
        """Asks the daemon over its unix socket."""
        return client_of(self.path("/run/coild/coild.sock"))

    def reset(self) -> None:
        """Stop both units and forget that anything failed."""
        self.systemctl("stop", "coild.socket", "coild.service")
        self.systemctl("reset-failed")

    def close(self) -> None:
        """End it, and all that runs in it."""
        self._process.kill()
        self._process.wait()
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while self._cgroup.exists() and time.monotonic() < deadline:
            for directory, _, _ in os.walk(self._cgroup, topdown=False):
                try:
                    Path(directory).rmdir()
                except OSError:
                    time.sleep(0.01)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _own_cgroup() -> Path:
    """A new group below the one of this process."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    found = next((words[1] for words in mounts if words[2] == "cgroup2"), None)
    if found is None:
        pytest.skip("a systemd of one's own needs the second version of control groups")
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    own = next(line[3:] for line in lines if line.startswith("0::"))
    group = Path(f"{found}{own}") / f"coild-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"a systemd of one's own needs a control group: {error.strerror}")
    return group
