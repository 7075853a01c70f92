"""File systems for tests of the journal: the real one without its flushes, and one with hooks.

`tests.crash.simulated.disk` has the one that simulates power cuts.
"""

from __future__ import annotations

import asyncio
import fnmatch
import functools
import itertools
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from journal.fs import FileSystem, OsFileSystem

#: No test waits longer for a thread; it fails then.
TIMEOUT_SECONDS = 20.0
#: The calls that change something, or make it last.
CHANGES = frozenset(
    {"make_directory", "create", "write", "rename", "remove", "sync", "sync_data", "sync_directory"}
)


class FastFileSystem(OsFileSystem):
    """The real one without its flushes, for tests of a crash of the process alone."""

    def sync_directory(self, path: Path) -> None:
        """Leave it to the kernel."""

    def sync(self, fd: int) -> None:
        """Leave it to the kernel."""

    def sync_data(self, fd: int) -> None:
        """Leave it to the kernel."""


FS = FastFileSystem()


class Gate:
    """Blocks a call: `entered` is set when it came, `release` lets it go on."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.release = threading.Event()

    def stand(self) -> None:
        """Wait to be released."""
        self.entered.set()
        assert self.release.wait(TIMEOUT_SECONDS), "a blocked call was never released"

    async def wait_entered(self) -> None:
        """Wait for the call to come, while the loop goes on."""
        came = await asyncio.to_thread(self.entered.wait, TIMEOUT_SECONDS)
        assert came, "the blocked call never came"


class Call(NamedTuple):
    """A call of a method of FileSystem."""

    method: str
    #: The file's name at that time, without its directory.
    name: str
    #: What the method was called with: a path or a descriptor first.
    arguments: tuple[Any, ...]
    options: dict[str, Any]


#: Gets a call and what carries it out; returns or raises in its place.
Hook = Callable[[Call, Callable[[], Any]], Any]


class HookedFileSystem(FastFileSystem):
    """A disk whose calls are recorded, and pass through hooks that fail, block or do more.

    The hook that was added first comes first.
    """

    def __init__(self) -> None:
        #: What was called: the method and the file's name.
        self.calls: list[tuple[str, str]] = []
        #: By the file's name.
        self.bytes_read: Counter[str] = Counter()
        self._hooks: list[Hook] = []
        self._names: dict[int, str] = {}

    def around(self, hook: Hook) -> None:
        """Pass every call from now on to `hook`."""
        self._hooks.append(hook)

    def before(self, methods: Iterable[str], step: Callable[[], object]) -> None:
        """Do a step before each call of these methods from now on."""

        def hook(call: Call, go_on: Callable[[], Any]) -> Any:
            if call.method in methods:
                step()
            return go_on()

        self.around(hook)

    def fail(
        self, method: str, error: int, *, name: str = "*", nth: int = 1, forever: bool = False
    ) -> None:
        """Fail the `nth` such call from now on, and with `forever` all after it.

        `name` is a pattern for the file's name.
        """

        def fail() -> None:
            raise OSError(error, os.strerror(error))

        self._at(method, name, range(nth, 2**63 if forever else nth + 1), fail)

    def block(self, method: str, *, name: str = "*", nth: int = 1) -> Gate:
        """Block the `nth` such call from now on until the gate is released."""
        gate = Gate()
        self._at(method, name, range(nth, nth + 1), gate.stand)
        return gate

    def heal(self) -> None:
        """Let every call work from now on."""
        self._hooks.clear()

    def count(self, method: str, name: str = "*") -> int:
        """How many such calls there were, the failed ones included."""
        return sum(m == method and fnmatch.fnmatch(n, name) for m, n in self.calls.copy())

    def _at(self, method: str, name: str, numbers: range, step: Callable[[], object]) -> None:
        number = itertools.count(1)

        def hook(call: Call, go_on: Callable[[], Any]) -> Any:
            called = call.method == method and fnmatch.fnmatch(call.name, name)
            if called and next(number) in numbers:
                step()
            return go_on()

        self.around(hook)

    def _pass(self, call: Call, go_on: Callable[[], Any]) -> Any:
        self.calls.append((call.method, call.name))
        if call.method == "close":
            # Before another file gets the number.
            self._names.pop(call.arguments[0], None)
        for hook in reversed(self._hooks.copy()):
            go_on = functools.partial(hook, call, go_on)
        result = go_on()
        if call.method in {"create", "open", "open_directory"}:
            self._names[result] = call.name
        elif call.method == "read":
            self.bytes_read[call.name] += len(result)
        elif call.method == "rename":
            _, target = call.arguments
            renamed = [fd for fd, name in self._names.copy().items() if name == call.name]
            self._names.update(dict.fromkeys(renamed, target.name))
        return result


def _hooked(method: str) -> Callable[..., Any]:
    real = getattr(FastFileSystem, method)

    def called(disk: HookedFileSystem, *arguments: Any, **options: Any) -> Any:
        first = arguments[0]
        name = first.name if isinstance(first, Path) else disk._names.get(first, "?")
        call = Call(method, name, arguments, options)
        return disk._pass(call, lambda: real(disk, *arguments, **options))

    return called


for _method in dir(FileSystem):
    if not _method.startswith("_"):
        setattr(HookedFileSystem, _method, _hooked(_method))
