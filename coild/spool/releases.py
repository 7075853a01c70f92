r"""Releases that coild could not be told of, kept until it can.

A CNI runtime sends DEL once, and coild may be down just then. So the plugin leaves an entry here,
and exits with success. The daemon when it starts, or the plugin when it next runs, tells coild of
the release and removes the entry.

    <directory, 0700>/<container ID, percent-encoded>      one entry a container ID
        coild-spool 1 \n
        crc-32 of the file's name and all that follows, 8 hexadecimal digits \n
        pod namespace \0 pod name \0 container ID \n

That releases what the pod of these names has. Now an entry says which daemon's release it is (of
several), and its names are for people:

        coild-spool 2 \n
        crc-32 as above \n
        pod namespace \0 pod name \0 container ID \0 its second container ID, or nothing
            \0 mark ... \n

A mark is `=` and the ID of the journal that the release is for; `@` and where the daemon is, if its
journal's ID is not known; or `!` and the ID of a journal that held nothing when it was asked for an
`@`. An entry goes when all that it is for have released; an `@`, when any had what to release.

One entry for each container ID is enough: a container ID has one holder at a time, and an ADD
removes the entry before it asks for an address. What makes a late release harmless:

- An entry is complete and durable before it has its name: written aside, flushed, linked.
- A process that applies or replaces one holds flock on the entry's file, and the file is still the
  one with that name. A process that dies lets go of its lock, and leaves the entry to the next.
- The lock is held until the entry is gone from the disk. So a process that finds no entry, or gets
  the lock and removes it, knows that no other will apply it afterwards.

An unlink that a power cut undoes brings back an entry of a former boot, whose containers are gone.
Only the standard library's C modules are imported, for the plugin's sake.
"""

from __future__ import annotations

import errno
import posix

from coild.spool.entries import (
    REJECTED,
    Claim,
    SpoolBusyError,
    SpoolError,
    content_of,
    done,
    fields_of,
    merged,
    set_aside,
    spool_error,
)
from coild.spool.files import (
    READ_MAX,
    TEMPORARY,
    lock,
    make,
    read,
    remove_stale,
    replace,
    sync,
    unlink,
    write_aside,
)

__all__ = [
    "REJECTED",
    "Claim",
    "SpoolBusyError",
    "SpoolError",
    "add",
    "batches",
    "claim",
    "claims",
    "done",
    "file_name",
    "names",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: What the root of a file system of its own may hold; no entry has that name.
_OF_A_FILE_SYSTEM = "lost+found"

_NAME_BYTES_MAX = 200
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def file_name(container_id: str) -> str:
    """The name of the entry's file."""
    data = container_id.encode()
    name = "".join([chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in data])
    if len(name) <= _NAME_BYTES_MAX:
        return name
    from hashlib import blake2b  # noqa: PLC0415 - slow to import, for an ID that no runtime makes

    return f"{name[:100]}+{blake2b(data, digest_size=32).hexdigest()}"


def add(
    directory: str,
    pod_namespace: str,
    pod_name: str,
    container_id: str,
    deadline: float,
    on_rejected: Callable[[str], object] = lambda _path: None,
    *,
    mark: str = "",
    second: str = "",
) -> None:
    """Keep a release; durable on return. With a `mark`, it says whose it is, of both IDs.

    Waits until `deadline`, of time.monotonic(), for the process that has another holder's entry. A
    damaged one is set aside, and `on_rejected` is called with its new path. Raises SpoolError,
    SpoolBusyError.
    """
    name = file_name(container_id)
    fields: tuple[str, ...] = (pod_namespace, pod_name, container_id)
    if mark:
        fields = (*fields, second, mark)
    content = content_of(name, fields)
    try:
        make(directory)
        temporary = write_aside(directory, content)
        try:
            other = _publish(directory, temporary, name, content, deadline, on_rejected)
            if other is not None:
                try:
                    _replace(other, temporary, fields)
                finally:
                    other.close()
        finally:
            unlink(f"{directory}/{temporary}")
        sync(directory)
    except OSError as error:
        raise spool_error(directory, error) from None


def claim(
    directory: str,
    container_id: str,
    deadline: float,
    on_rejected: Callable[[str], object] = lambda _path: None,
) -> Claim | None:
    """The entry of this container ID, locked; None if there is none.

    Waits until `deadline`, of time.monotonic(), for the process that holds it. A damaged one is set
    aside, and `on_rejected` is called with its new path. Raises SpoolError, SpoolBusyError.
    """
    return _claim(directory, file_name(container_id), deadline, on_rejected)


def claims(
    directory: str, on_rejected: Callable[[str], object] = lambda _path: None
) -> Iterator[Claim]:
    """Every entry that no other process holds, one by one: see `batches`."""
    for entries in batches(directory, 1, on_rejected):
        yield from entries


def batches(
    directory: str, size: int, on_rejected: Callable[[str], object] = lambda _path: None
) -> Iterator[list[Claim]]:
    """All entries that no other process holds, so many at a time, locked while the caller has them.

    Those that are given to `done`, when their releases are durable, go; the others stay. A damaged
    one is set aside, and `on_rejected` is called with its new path. Raises SpoolError if the
    directory cannot be read, and at the end for an entry that cannot.
    """
    failure: SpoolError | None = None
    left = names(directory)
    while left:
        entries: list[Claim] = []
        try:
            while left and len(entries) < size:
                name = left.pop()
                try:
                    entry = _claim(directory, name, 0.0, on_rejected)
                except SpoolBusyError:
                    continue
                except SpoolError as error:
                    if len(entries) > 1 and error.errno in {errno.EMFILE, errno.ENFILE}:
                        # With half of them first: what they need takes open files as well.
                        left.append(name)
                        _put_half_back(entries, left)
                        break
                    failure = error
                    continue
                if entry is not None:
                    entries.append(entry)
            if entries:
                yield entries
        finally:
            for entry in entries:
                entry.close()
    if failure is not None:
        raise failure


def _put_half_back(entries: list[Claim], left: list[str]) -> None:
    half = len(entries) // 2
    for entry in entries[half:]:
        entry.close()
        left.append(entry.name)
    del entries[half:]


def names(directory: str) -> list[str]:
    """The files of entries, damaged or not; none if there is no directory. Raises SpoolError."""
    found = []
    try:
        for name in posix.listdir(directory):
            if name.startswith(TEMPORARY):
                remove_stale(f"{directory}/{name}")
            elif name != _OF_A_FILE_SYSTEM and not name.endswith(REJECTED):
                found.append(name)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise spool_error(directory, error) from None
    return found


def _claim(
    directory: str, name: str, deadline: float, on_rejected: Callable[[str], object]
) -> Claim | None:
    try:
        fd = lock(f"{directory}/{name}", deadline)
        if fd < 0:
            return None
        try:
            holder = _read_locked(fd, name)
            if holder is not None:
                entry = Claim(directory, name, fd, holder)
                fd = -1
                return entry
            # Under the lock: a process that waits for it finds no entry then.
            on_rejected(set_aside(directory, name))
        finally:
            if fd >= 0:
                posix.close(fd)
    except BlockingIOError:
        raise SpoolBusyError(f"{directory}/{name}: another process is applying it") from None
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.ENXIO}:
            raise spool_error(directory, error) from None
        # A link or a socket: nothing that was written here.
        on_rejected(set_aside(directory, name))
    return None


def _read_locked(fd: int, name: str) -> tuple[str, ...] | None:
    try:
        return fields_of(name, posix.read(fd, READ_MAX))
    except (IsADirectoryError, BlockingIOError):
        # The second is a pipe that some process holds open.
        return None


def _publish(
    directory: str,
    temporary: str,
    name: str,
    content: bytes,
    deadline: float,
    on_rejected: Callable[[str], object],
) -> Claim | None:
    """Give the file its name; if another entry has that, the claim on it."""
    path = f"{directory}/{name}"
    while True:
        try:
            posix.link(f"{directory}/{temporary}", path)
        except FileExistsError:
            pass
        else:
            return None
        if read(path) == content:
            # Its holder releases just this, and no ADD comes between.
            return None
        other = _claim(directory, name, deadline, on_rejected)
        if other is not None:
            return other


def _replace(other: Claim, temporary: str, fields: tuple[str, ...]) -> None:
    """Put the new entry into the place of another, whose marks it takes over. Raises OSError."""
    path = f"{other.directory}/{other.name}"
    marks = merged(other.marks, fields[4]) if len(fields) > 4 else ()
    if len(marks) < 2:
        posix.rename(f"{other.directory}/{temporary}", path)
        return
    fields = (*fields[:3], fields[3] or other.second, *marks)
    replace(other.directory, other.name, content_of(other.name, fields))
