"""The plugin as a runtime runs it, and servers that do not behave like coild."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec

from tests.kits.daemon.process import ROOT, TIMEOUT_SECONDS, ended

VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
#: A port that nobody listens on: that of tcpmux, which no machine has had for long.
NOBODY = "http://127.0.0.1:1"
#: The ID of the journal that a stub pretends to have.
STUB_JOURNAL = "5" * 32
#: A function from a request to its answer: status and body.
_Answer = Callable[[str, str, Any], tuple[int, dict[str, Any]]]


class Outcome(msgspec.Struct, frozen=True):
    """How a run ended."""

    status: int
    stdout: bytes
    stderr: str

    @property
    def answer(self) -> Any:
        """The one JSON object on stdout."""
        return json.loads(self.stdout)

    @property
    def code(self) -> int:
        """The code of a CNI error, which must be one."""
        answer = self.answer
        assert self.status == 1
        assert (
            {"cniVersion", "code", "msg"} <= set(answer) <= {"cniVersion", "code", "msg", "details"}
        )
        assert answer["cniVersion"] in VERSIONS
        assert answer["msg"]
        assert "Traceback" not in self.stderr
        number = answer["code"]
        assert isinstance(number, int)
        return number

    @property
    def addresses(self) -> list[str]:
        """The addresses of a result, without prefix lengths."""
        assert (0, "") == (self.status, self.stderr), self
        return [entry["address"].partition("/")[0] for entry in self.answer["ips"]]


def install_plugin(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `coild-ipam --install` of this checkout."""
    return ended(
        [
            sys.executable,
            "-W",
            "error",
            "-m",
            "tools.ipam",
            "--install",
            str(directory),
            *arguments,
        ],
        cwd=ROOT,
    )


def new_id() -> str:
    """A container ID as runtimes make them."""
    return uuid4().hex * 2


class Plugin:
    """The installed executable, one coild to talk to, and a spool of its own."""

    def __init__(self, executable: Path, where: str, spool: Path) -> None:
        self.executable = executable
        self.where = where
        self.spool = spool

    def config(self, version: str = "1.1.0", *, top: Any = None, **ipam: Any) -> dict[str, Any]:
        """A network configuration; underscores in names of `ipam` are dashes."""
        options = {"type": "coild-ipam", "coild": self.where, "spool": str(self.spool)}
        options |= {name.replace("_", "-"): value for name, value in ipam.items()}
        return {"cniVersion": version, "name": "pods", "type": "ptp", "ipam": options} | (top or {})

    @staticmethod
    def variables(
        command: str, container: str, ifname: str = "eth0", args: str = ""
    ) -> dict[str, str]:
        """The environment that a runtime makes."""
        return {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": "/run/netns/none",
            "CNI_IFNAME": ifname,
            "CNI_ARGS": args,
            "CNI_PATH": "/opt/cni/bin",
        }

    def execute(self, stdin: bytes, variables: dict[str, str]) -> Outcome:
        """Run with exactly this."""
        done = subprocess.run(
            [self.executable],
            input=stdin,
            env=variables,
            capture_output=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr.decode())

    def run(
        self,
        command: str,
        container: str,
        version: str = "1.1.0",
        *,
        ifname: str = "eth0",
        args: str = "",
        top: Any = None,
        **ipam: Any,
    ) -> Outcome:
        """Run one command for a container."""
        config = self.config(version, top=top, **ipam)
        return self.execute(
            json.dumps(config).encode(), self.variables(command, container, ifname, args)
        )

    def start(self, command: str, container: str, **ipam: Any) -> subprocess.Popen[bytes]:
        """Begin a run, whose configuration comes later: see `finish`."""
        return subprocess.Popen(
            [self.executable],
            env=self.variables(command, container),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def finish(self, process: subprocess.Popen[bytes], **ipam: Any) -> Outcome:
        """Give it the configuration, and wait."""
        with process:
            stdin = json.dumps(self.config(**ipam)).encode()
            stdout, stderr = process.communicate(stdin, timeout=TIMEOUT_SECONDS)
        return Outcome(process.returncode, stdout, stderr.decode())

    def entries(self) -> list[str]:
        """The files in the spool."""
        return sorted(path.name for path in self.spool.iterdir()) if self.spool.exists() else []


@contextlib.contextmanager
def stub(answer: _Answer) -> Iterator[str]:
    """A server that gives these answers; its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, body = answer(self.command, self.path, json.loads(data) if data else None)
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Coild-Journal", STUB_JOURNAL)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = _handle  # noqa: N815 - so they are called

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def raw_server(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that does as told with each connection, when a request came; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                with sock, contextlib.suppress(OSError):
                    sock.recv(65536)
                    answer(sock)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
