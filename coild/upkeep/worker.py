"""The heavy part of keeping a journal, in a process of its own, and the daemon's end of it.

    coild.upkeep.worker DIRECTORY index               make the indexes that sealed segments lack
    coild.upkeep.worker DIRECTORY compact SEQUENCE    prepare a compaction of all up to there

Its output is one JSON object that says how it ended. It changes nothing that the writer
needs, so it may be killed at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
import time
from pathlib import Path

import msgspec

from coild.rules.holding import InconsistentEventError
from coild.rules.projection import Projection
from coild.vocabulary import VOCABULARY
from journal import (
    CompactionRunsError,
    JournalError,
    OsFileSystem,
    Prepared,
    index_sealed,
    prepare,
)

#: How long after a process was killed it is killed again: it may have been starting.
_KILL_SECONDS = 0.1
_NICE = 19


class Message(msgspec.Struct, omit_defaults=True):
    """The message by which the process ends."""

    prepared: Prepared | None = None
    #: Of indexes, by the first sequence of their segments; see `index_sealed`.
    indexes: dict[int, bytes] = {}
    error: str = ""
    #: Another compaction is at work.
    runs: bool = False


class UpkeepProcess:
    """Runs this module as a process, at the lowest priority. A `compactor.Worker`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: asyncio.subprocess.Process | None = None

    async def index(self) -> dict[int, bytes]:
        """`journal.index_sealed`. Raises JournalError, OSError."""
        return (await self._run("index")).indexes

    async def prepare(self, through: int) -> Prepared:
        """`journal.prepare` up to the sequence `through`. Raises JournalError, OSError."""
        prepared = (await self._run("compact", str(through))).prepared
        if prepared is None:
            raise JournalError("the compaction did not say what it did; this is a bug")
        return prepared

    def kill(self) -> None:
        """End what is at work, if anything is."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _run(self, *arguments: str) -> Message:
        running = asyncio.ensure_future(self._output(arguments))
        try:
            output, status = await asyncio.shield(running)
        finally:
            # A cancelled call does not want the rest. The process has to be gone before the loop
            # is, whether it was just being started, and however often this is cancelled.
            while not running.done():
                self.kill()
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([running], timeout=_KILL_SECONDS)
        try:
            message = msgspec.json.decode(output, type=Message)
        except ValueError:
            raise JournalError(
                f"coild.upkeep.worker ended with {status} before it was done"
            ) from None
        if message.runs:
            raise CompactionRunsError(self._directory)
        if message.error:
            raise JournalError(message.error)
        return message

    async def _output(self, arguments: tuple[str, ...]) -> tuple[bytes, int | None]:
        """What a process says, and its exit status."""
        # It must find the same modules as this process, whatever its own path would begin with.
        path = os.pathsep.join(filter(None, sys.path))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "coild.upkeep.worker", str(self._directory), *arguments),
            env=os.environ | {"PYTHONPATH": path},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            # By its number, whatever became of Python's own.
            stderr=2,
            # A signal that a terminal sends to all is for the daemon to pass on.
            start_new_session=True,
        )
        self._process = process
        try:
            output, _ = await process.communicate()
        finally:
            self._process = None
        return output, process.returncode


def main(arguments: list[str]) -> int:
    """Index or compact, as the arguments say; the exit status."""
    directory = Path(arguments[0])
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    # As in the daemon's own replay: what is made stays, and none of it is in circles.
    gc.disable()
    fs = OsFileSystem()
    try:
        if arguments[1] == "index":
            message = Message(indexes=index_sealed(fs, directory, VOCABULARY))
        else:
            through = int(arguments[2])
            message = Message(
                prepared=prepare(
                    fs, directory, through, VOCABULARY, Projection(), now=time.time_ns()
                )
            )
    except CompactionRunsError as error:
        message = Message(error=str(error), runs=True)
    except (JournalError, InconsistentEventError, OSError, ValueError) as error:
        message = Message(error=str(error))
    except MemoryError:
        message = Message(error="there is not enough memory to compact the journal")
    # A daemon that was killed does not listen any more.
    with contextlib.suppress(OSError):
        os.write(1, msgspec.json.encode(message) + b"\n")
    return 1 if message.error else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
