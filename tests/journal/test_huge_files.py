"""A file that says it has 60 GiB takes no memory: its size is compared with its format first."""

# expected == actual

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from coild import cli
from coild.config.parser import Parser
from journal.format.archive import CHUNK_BYTES, compress, decompress
from journal.format.codec import SEGMENT_BYTES_MAX
from journal.format.segments import list_archive, list_segments
from journal.format.snapshot import list_snapshots
from journal.write.custody import acquire_lock
from tests.kits.daemon.process import ROOT, ended
from tests.kits.journal.disks import FS
from tests.kits.journal.verify import Made
from tests.kits.plugin.cni import raw_server
from tools import compact
from tools.run import NO_MEMORY, run
from tools.verify import cli as verify

HUGE = 60 << 30
MEMORY = 2 << 30
_FOOTER_BYTES = 48
#: A start without a daemon: what refuses or steps over a file is the journal's.
START = """
import sys
from pathlib import Path
from coild.rules.projection import Projection
from coild.rules.events import SCHEMA, Event
from coild.vocabulary import record_of
from journal import JournalError, OsFileSystem
from journal.write.recovery import recover
from journal.format.scan import list_decoder

state = Projection()
try:
    found = recover(OsFileSystem(), Path(sys.argv[1]), schema=SCHEMA, segment_bytes=1 << 16, now=1,
                    decoder=list_decoder(Event), deliver=state.apply_all, restore=state.restore,
                    record_of=record_of)
except JournalError as error:
    sys.exit(str(error))
for path, reason in found.rejected:
    print(path.name, reason)
"""


def limited(*command: str) -> subprocess.CompletedProcess[str]:
    """Run python with 2 GiB of address space."""
    return ended(
        [sys.executable, *command],
        cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
    )


def tool(name: str, directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a tool on a journal."""
    return limited("-m", f"tools.{name}", "--journal", str(directory), *arguments)


KINDS: dict[str, Callable[[Path], Path]] = {
    "snapshot": lambda directory: list_snapshots(FS, directory)[0].path,
    "last segment": lambda directory: list_segments(FS, directory)[-1].path,
    "sealed segment": lambda directory: list_segments(FS, directory)[0].path,
    "archived segment": lambda directory: list_archive(FS, directory)[0].path,
}


@pytest.mark.parametrize("emptied", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_huge_file_of_the_journal_is_corrupt(made: Made, kind: str, *, emptied: bool) -> None:
    """Verify names it and says 2, whether it begins as it should or with zeros."""
    path = KINDS[kind](made.directory)
    if emptied:
        os.truncate(path, 0)
    os.truncate(path, HUGE)
    done = tool("verify", made.directory)

    assert "Traceback" not in done.stderr
    assert 2 == done.returncode
    assert path.name in done.stderr
    if not emptied and kind != "archived segment":
        assert str(HUGE) in done.stderr


@pytest.mark.parametrize("kind", ["last segment", "sealed segment"])
def test_a_start_refuses_a_huge_segment(made: Made, kind: str) -> None:
    """The error names the file and its size; nothing is changed."""
    path = KINDS[kind](made.directory)
    os.truncate(path, HUGE)
    done = limited("-c", START, str(made.directory))

    assert 1 == done.returncode
    assert "Traceback" not in done.stderr
    assert str(path) in done.stderr
    assert str(HUGE) in done.stderr
    assert path.stat().st_size == HUGE


def test_a_start_steps_over_a_huge_snapshot(made: Made) -> None:
    """One that is too long is as good as none, and why is told."""
    path = KINDS["snapshot"](made.directory)
    os.truncate(path, HUGE)
    done = limited("-c", START, str(made.directory))

    assert 0 == done.returncode, done.stderr
    assert path.name in done.stdout
    assert str(HUGE) in done.stdout


def test_no_repair_cuts_off_a_segment_that_it_did_not_read(made: Made) -> None:
    """What is good in a segment that grew is not lost, so it is not given up."""
    path = KINDS["last segment"](made.directory)
    size = path.stat().st_size
    os.truncate(path, HUGE)
    done = tool("repair", made.directory, "--truncate-tail")

    assert "Traceback" not in done.stderr
    assert done.returncode
    assert str(HUGE) in done.stderr
    os.truncate(path, size)
    assert 0 == verify.main(["--journal", str(made.directory)])


def test_an_archive_does_not_decode_to_more_than_its_segment(made: Made) -> None:
    """Few bytes that say that they are the largest segment are told before they are decoded."""
    path = KINDS["archived segment"](made.directory)
    zeros = compress(bytes(2 * CHUNK_BYTES))
    chunk = zeros[: int.from_bytes(zeros[-_FOOTER_BYTES - 8 : -_FOOTER_BYTES - 4], "little")]
    first = compress(decompress(path.read_bytes())[:CHUNK_BYTES].ljust(CHUNK_BYTES, b"\0"))
    forged = [first[: int.from_bytes(first[-_FOOTER_BYTES - 4 : -_FOOTER_BYTES], "little")]]
    forged += [chunk] * (SEGMENT_BYTES_MAX // CHUNK_BYTES - 1)
    path.write_bytes(b"".join((*forged, _trailer(forged, SEGMENT_BYTES_MAX))))
    done = tool("verify", made.directory)

    assert 2 == done.returncode
    assert path.name in done.stderr
    assert path.stat().st_size < 1 << 20


def _trailer(chunks: list[bytes], segment_bytes: int) -> bytes:
    """The trailer of an archive of these chunks of equal length."""
    table = b"".join(len(chunk).to_bytes(4, "little") for chunk in chunks)
    size = segment_bytes // len(chunks)
    digest = hashlib.blake2b(b"".join(chunks), digest_size=16).digest()
    rest = struct.pack("<HHIIQ16s", 1, 0, size, len(chunks), segment_bytes, digest)
    crc = zlib.crc32(rest, zlib.crc32(table)).to_bytes(4, "little")
    head = struct.pack("<II", 0x184D2A5E, len(table) + _FOOTER_BYTES)
    return head + table + b"\x89JARC\r\n\x1a" + crc + rest


@pytest.mark.parametrize("what", ["sparse", "endless", "pipe"])
def test_a_configuration_that_is_none(tmp_path: Path, what: str) -> None:
    """What fails at each start is 2, with the file's name; nobody writes to the pipe."""
    path = tmp_path / "coild.toml"
    if what == "endless":
        path.symlink_to("/dev/zero")
    elif what == "pipe":
        os.mkfifo(path)
    else:
        path.touch()
        os.truncate(path, HUGE)
    done = limited("-m", "coild", "--config", str(path), "--check-config")

    assert 2 == done.returncode
    assert done.stderr.startswith(f"coild: {path}: it ")
    assert 1 == done.stderr.count("\n")


def test_a_configuration_from_a_pipe_that_is_open(tmp_path: Path) -> None:
    """As a shell's <(...) gives it, and an empty one from /dev/null."""
    script = 'exec "$0" -m coild --check-config --config <(sleep 0.1; echo "max-connections = 7")'
    done = ended(["bash", "-c", script, sys.executable], cwd=ROOT)

    assert "max-connections = 7\n" in done.stdout
    assert "" == done.stderr
    assert 0 == limited("-m", "coild", "--config", os.devnull, "--check-config").returncode


def _be_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _be_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


ADDRESSES: dict[str, Callable[[Path], object]] = {
    "named pipe": _be_pipe,
    "can't decode byte 0xff": lambda path: path.write_bytes(b"\xff"),
    "nonnumeric port": lambda path: path.write_text("localhost:here"),
    "control characters": lambda path: path.write_text("a b:1"),
    "AF_UNIX path too long": lambda path: path.write_text("unix:/" + 200 * "a"),
    "Is a directory": _be_directory,
}


@pytest.mark.parametrize("reason", ADDRESSES)
def test_where_a_daemon_listens_is_an_address(
    made: Made, tmp_path: Path, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else it is a line that names the file or the address, with 1; no order is left behind."""
    (tmp_path / "http").touch()
    ADDRESSES[reason](tmp_path / "http")
    with contextlib.closing(acquire_lock(FS, made.directory)):
        status = compact.main(["--journal", str(made.directory)])
    told = capsys.readouterr().err

    assert 1 == status
    assert 1 == told.count("\n")
    assert reason in told
    assert [] == list(made.directory.glob("*.order"))


def test_a_huge_file_of_an_address(made: Made, tmp_path: Path) -> None:
    """It is told by its name and size."""
    path = tmp_path / "http"
    path.touch()
    os.truncate(path, HUGE)
    with contextlib.closing(acquire_lock(FS, made.directory)):
        done = tool("compact", made.directory)

    assert 1 == done.returncode
    assert 1 == done.stderr.count("\n")
    assert f"{path}: it has {HUGE} bytes" in done.stderr


@pytest.mark.parametrize(
    ("status", "body"),
    [
        ("200 OK", b'"' + b"a" * (2 << 20)),
        ("200 OK", b'{"sequence": "1"}'),
        ("500 Error", b"[" * 5000),
        ("500 Error", b"[]"),
        ("500 Error", b"{}"),
    ],
)
def test_an_answer_that_is_not_coild_s(
    made: Made, tmp_path: Path, status: str, body: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """What answers in the daemon's place is told as such."""

    def answer(sock: socket.socket) -> None:
        sock.sendall(f"HTTP/1.1 {status}\r\nConnection: close\r\n\r\n".encode() + body)

    with raw_server(answer) as where, contextlib.closing(acquire_lock(FS, made.directory)):
        (tmp_path / "http").write_text(where.removeprefix("http://"))
        exit_status = compact.main(["--journal", str(made.directory)])
    told = capsys.readouterr().err

    assert 1 == exit_status
    assert "did not answer" in told
    assert 1 == told.count("\n")


def test_a_tool_without_memory_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """A line and the status of a journal that cannot be read, whatever took the memory."""

    def fail(_arguments: object) -> int:
        raise MemoryError

    assert 3 == run(Parser("coild-verify", "", ""), fail, [], exit_unreadable=3)
    assert f"coild-verify: {NO_MEMORY}\n" == capsys.readouterr().err


def test_a_start_without_memory_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 1: there may be more another time."""

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("coild.cli.load", fail)

    assert 1 == cli.main([])
    assert capsys.readouterr().err.startswith("coild: there is not enough memory")
