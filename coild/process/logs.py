"""Log lines on stderr, for people or as JSON."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import select
import sys
import threading
from datetime import UTC, datetime
from queue import SimpleQueue
from time import monotonic
from typing import Any

import msgspec

from coild.process import signals
from coild.rules.printable import printable, printable_json

#: So many lines wait for a reader of the log; some megabytes at most.
_LINES_MAX = 10_000
#: So many drawings of a progress bar do; the last clears it away.
_DRAWINGS_MAX = 8
#: How long an end waits for the reader of the log.
_PATIENCE_SECONDS = 0.5


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339, UTC), level, logger, message, error."""

    def format(self, record: logging.LogRecord) -> str:
        """The line for `record`."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        try:
            document = msgspec.json.encode(line).decode()
        except UnicodeEncodeError:
            # Half of a character, as in the name of a file, is not of JSON's.
            whole = {
                key: text.encode(errors="backslashreplace").decode() for key, text in line.items()
            }
            document = msgspec.json.encode(whole).decode()
        return printable_json(document)


class PlainFormatter(logging.Formatter):
    """One line for people, whatever is in it; a traceback has lines of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - its name in logging
        """The line without a traceback."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - its name in logging
        """The lines of a traceback."""
        return "\n".join(map(printable, super().formatException(ei).split("\n")))


class Writer(logging.Handler):
    """Writes lines to a descriptor in a thread of its own: to log never waits for a reader.

    What is more than its queue holds is dropped and counted, and told when lines are taken again.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        # A signal's handler that logs as well may interrupt its `put`, which no other lock allows.
        # An event in it is set when all before it is written.
        self._lines: SimpleQueue[bytes | threading.Event] = SimpleQueue()
        #: How many lines were dropped so far, and how many of them are yet to be told of.
        self.dropped = self._untold = 0
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line, or drop it."""
        if self._lines.qsize() >= _LINES_MAX:
            self.dropped += 1
            self._untold += 1
            return
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - as logging has it
            self.handleError(record)
            return
        self._lines.put(_as_line(line))

    def show(self, text: str) -> None:
        """Queue what a progress bar draws, or drop it: what was not read has been overtaken."""
        if self._lines.qsize() < _DRAWINGS_MAX:
            self._lines.put(text.encode(errors="replace"))

    def drain(self, seconds: float) -> None:
        """Wait until all is written, but no longer than that."""
        written = threading.Event()
        self._lines.put(written)
        written.wait(seconds)

    def _run(self) -> None:
        signals.leave_to_main()
        while True:
            line = self._lines.get()
            if not isinstance(line, threading.Event):
                self._write_safely(line)
            # What was dropped came after all that was queued.
            if self._untold and (self._lines.empty() or isinstance(line, threading.Event)):
                self._write_safely(_as_line(self._tell_dropped()))
            if isinstance(line, threading.Event):
                line.set()

    def _tell_dropped(self) -> str:
        count, self._untold = self._untold, 0
        text = "%d lines of the log were dropped, for nobody read them"
        record = logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, (count,), None)
        return self.format(record)

    def _write_safely(self, data: bytes) -> None:
        # The reader is gone, or the disk is full: the next line may be taken.
        with contextlib.suppress(OSError):
            self._write(data)

    def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:
                # Other programs share it and made it so: it is left that way.
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()


class Screen:
    """The terminal that the log goes to, as a file for a progress bar, which never waits for it.

    It may be stopped (Ctrl-S), or at the other end of a slow line.
    """

    def __init__(self) -> None:
        # A bar is drawn with what that can show.
        self.encoding = getattr(sys.stderr, "encoding", None) or "ascii"
        writers = (each for each in logging.getLogger().handlers if isinstance(each, Writer))
        self._writer = next(writers, None)
        self.columns: int | None = None
        if self.isatty():
            with contextlib.suppress(OSError):
                # One that does not know its size says 0.
                self.columns = os.get_terminal_size(2).columns or None

    def isatty(self) -> bool:
        """Whether there is one."""
        return self._writer is not None and os.isatty(2)

    def write(self, text: str) -> None:
        """Draw, as soon as that can be done."""
        if self._writer is not None:
            self._writer.show(text)

    def flush(self) -> None:
        """Nothing is kept here."""


def dropped() -> str:
    """How many lines were dropped, as a line; empty if none."""
    count = sum(each.dropped for each in logging.getLogger().handlers if isinstance(each, Writer))
    return f"{count} lines of the log were dropped, for nobody read them" if count else ""


def last_word(text: str) -> None:
    """Write a line to stderr behind all that was logged; an end is not put off by its reader."""
    deadline = monotonic() + _PATIENCE_SECONDS
    for handler in logging.getLogger().handlers:
        if isinstance(handler, Writer):
            handler.drain(_PATIENCE_SECONDS)
    stream = sys.stderr
    if stream is None:
        return

    def write() -> None:
        line = f"{text}\n"
        with contextlib.suppress(OSError):
            try:
                # Not by its buffer, whose lock an end would wait for.
                descriptor = stream.fileno()
            except OSError:
                # Not a file: a program calls this as a function, with a stream of its own.
                stream.write(line)
            else:
                os.write(descriptor, line.encode(errors="backslashreplace"))

    thread = threading.Thread(target=write, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        # There may be no more threads. What cannot be written at once is not waited for then.
        with contextlib.suppress(OSError, ValueError):
            if select.select([], [stream], [], 0)[1]:
                write()
        return
    thread.join(max(0.1, deadline - monotonic()))


def _as_line(text: str) -> bytes:
    return text.encode(errors="backslashreplace") + b"\n"


def configure(level: str, style: str) -> None:
    """Send all log lines to stderr, `style` plain or json. Call once."""
    handler = Writer(2)
    atexit.register(handler.drain, _PATIENCE_SECONDS)
    handler.setFormatter(
        JsonFormatter()
        if style == "json"
        else PlainFormatter("%(asctime)s %(levelname)-7s %(message)s")
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Sanic reports each client that hangs up as information, and its own mode as a warning.
    for name in ("sanic", "sanic.root", "sanic.error", "sanic.server"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.ERROR)
