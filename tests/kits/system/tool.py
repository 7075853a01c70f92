"""Operators' tools run in the test's own process, which has all that they import."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import msgspec

from tests.kits.daemon.process import ROOT

_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
#: Each tool that reads a journal, as pyproject.toml has it: its name, and the module of its `main`.
TOOLS = {
    command.removeprefix("coild-"): target.removesuffix(":main")
    for command, target in _PROJECT["scripts"].items()
    if command.startswith("coild-") and command != "coild-ipam"
}

#: What is an entry point; its arguments are those of the process if none are given.
Main = Callable[[Sequence[str] | None], int]


@contextlib.contextmanager
def in_utc() -> Iterator[None]:
    """Local time is UTC."""
    try:
        with mock.patch.dict(os.environ, TZ="UTC"):
            time.tzset()
            yield
    finally:
        time.tzset()


def run_here(main: Main, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The result of a process that calls `main`, with UTC as its local time.

    Starting Python and importing takes longer than most of a tool's work. Tests of signals, pipes,
    a terminal or the environment need a process.
    """
    out, error = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    # What is logged goes to stderr.
    handler = logging.StreamHandler(error)
    logging.getLogger().addHandler(handler)
    try:
        with in_utc(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            status = main(arguments)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    finally:
        logging.getLogger().removeHandler(handler)
    text, words = (stream.buffer.getvalue().decode() for stream in (out, error))
    return subprocess.CompletedProcess(arguments, status, text, words)


def records(text: str) -> list[dict[str, Any]]:
    """JSON lines, as tools print them for scripts."""
    return [msgspec.json.decode(line) for line in text.splitlines()]
