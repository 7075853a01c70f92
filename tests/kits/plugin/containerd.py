"""Debian's containerd for tests: in namespaces of its own, of which nothing is left afterwards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any, Self

from tests.kits.daemon.process import TIMEOUT_SECONDS, wait_for
from tests.kits.system.debian import package

#: ctr takes CNI's configuration and plugins from fixed places below /etc and /opt, and containerd's
#: shims put their sockets into a fixed place below /run. So each is another directory here: /run an
#: empty one, the others with links to all that is in the machine's, but for `cni`.
_SETUP = """\
set -e
read -r pid rest < /proc/self/stat
for name in etc opt; do
    mkdir -p machine/$name $name
    mount --rbind /$name machine/$name
    for entry in machine/$name/* machine/$name/.[!.]*; do
        if [ -e "$entry" ] || [ -L "$entry" ]; then ln -s "$PWD/$entry" $name/; fi
    done
    rm -f $name/cni
    mkdir $name/cni
    mount --bind $name /$name
done
ln -s "$PWD/net.d" /etc/cni/net.d
ln -s "$PLUGIN_PATH" /opt/cni/bin
mount -t tmpfs tmpfs /run
mount -t proc proc /proc
echo $pid > pid
exec containerd --config config.toml --log-level warn
"""
#: Kubernetes' interface is a third of containerd's start, and ctr does not use it.
_CONFIG = """\
version = 2
root = "{0}/root"
state = "/run/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{0}/socket"
"""


class Containerd:
    """A containerd in the caller's network namespace, with mounts and processes of its own.

    A context manager that ends it, and all that it started. `plugin_path` is its /opt/cni/bin.
    """

    def __init__(self, directory: Path, plugin_path: Path) -> None:
        self._directory = directory
        self._log_path = directory / "log"
        (directory / "net.d").mkdir(parents=True)
        (directory / "rootfs/bin").mkdir(parents=True)
        shutil.copy(package("busybox-static") / "bin/busybox", directory / "rootfs/bin")
        (directory / "config.toml").write_text(_CONFIG.format(directory))
        path = [package("containerd") / "usr/bin", package("runc") / "usr/sbin"]
        self._environment = {
            "PATH": ":".join([*map(str, path), "/usr/sbin:/usr/bin:/sbin:/bin"]),
            "PLUGIN_PATH": str(plugin_path),
        }
        with self._log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *("unshare", "--mount", "--propagation", "private"),
                    # Its end is the end of all of them.
                    *("--pid", "--fork", "--kill-child"),
                    *("sh", "-c", _SETUP),
                ],
                cwd=directory,
                env=self._environment,
                stdout=log,
                stderr=log,
            )
        try:
            wait_for(self._is_up, "containerd to start")
        except BaseException:
            self.stop()
            raise

    def _is_up(self) -> bool:
        assert self.process.poll() is None, (
            f"containerd did not start:\n{self._log_path.read_text()}"
        )
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(self._directory / "socket")) == 0

    def configure(self, network: dict[str, Any]) -> None:
        """Let this be the network of the containers that are started from now on."""
        (self._directory / "net.d/10-test.conflist").write_text(json.dumps(network))

    def run(self, container_id: str, *command: str) -> str:
        """`ctr run --cni` a busybox command, and remove the container after it; what it wrote."""
        return self.ctr(
            # Not detached: ctr removes the network only when it has seen the container's end.
            *("run", "--cni", "--rm"),
            # Not below a group that is named like containerd's namespace: nobody would remove it.
            *("--cgroup", "", "--rootfs", str(self._directory / "rootfs")),
            *(container_id, "/bin/busybox", *command),
        )

    def ctr(self, *arguments: str) -> str:
        """Execute ctr beside containerd; what it wrote."""
        pid = (self._directory / "pid").read_text().strip()
        completed = subprocess.run(
            [
                *("nsenter", "--target", pid, "--mount", "--pid"),
                *("ctr", "--address", str(self._directory / "socket"), *arguments),
            ],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        assert 0 == completed.returncode, f"{completed.stderr}\n{self._log_path.read_text()}"
        return completed.stdout

    def stop(self) -> None:
        """End containerd and all that it started."""
        file = self._directory / "pid"
        if self.process.poll() is None and file.exists():
            # The first process of its namespace: with it, the kernel ends every one in it; and its
            # parent, which waits for it, ends too.
            os.kill(int(file.read_text()), signal.SIGKILL)
        else:
            self.process.kill()
        self.process.wait(TIMEOUT_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
