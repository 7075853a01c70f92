"""An entry of a spool: its bytes, whose release it is, and the claim on one that is locked.

`releases` has the form of an entry. Only the standard library's C modules are imported, for the
plugin's sake.
"""

from __future__ import annotations

import posix
from binascii import crc32

from coild.spool.files import replace, sync

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

#: The name that a damaged entry is given.
REJECTED = ".rejected"
#: How an entry of three names begins, and one that has marks.
MAGIC, _MAGIC_MARKED = b"coild-spool 1\n", b"coild-spool 2\n"
_HEAD_BYTES = len(MAGIC) + len("00000000\n")
#: So many marks an entry has at most: there are one or two daemons. The oldest are dropped.
_MARKS_MAX = 8


class SpoolError(Exception):
    """The spool cannot be read or written; one line that names the directory and the reason."""

    #: The system's number of the reason; 0 if it was not an error of the system.
    errno = 0


class SpoolBusyError(SpoolError):
    """Another process held the entry for as long as one could wait."""


def spool_error(directory: str, error: OSError) -> SpoolError:
    """The error to raise in place of the system's."""
    raised = SpoolError(f"the spool {directory}: {error.strerror or error}")
    raised.errno = error.errno or 0
    return raised


def content_of(name: str, fields: Sequence[str]) -> bytes:
    """The bytes of the entry with this name; with more than three fields, it has marks."""
    body = "\0".join(fields).encode() + b"\n"
    # Another program's file may have a name that is not text.
    checksum = crc32(body, crc32(name.encode(errors="surrogateescape")))
    return (_MAGIC_MARKED if len(fields) > 3 else MAGIC) + b"%08x\n" % checksum + body


def fields_of(name: str, content: bytes) -> tuple[str, ...] | None:
    """Namespace, name and container ID, and what an entry with marks has besides.

    None if these are not the bytes that were written.
    """
    try:
        fields = tuple(content[_HEAD_BYTES:].decode().removesuffix("\n").split("\0"))
    except ValueError:
        return None
    marked = len(fields) > 4 and all(mark[:1] in {"=", "@", "!"} for mark in fields[4:])
    known = marked or len(fields) == 3
    return fields if known and content == content_of(name, fields) else None


def merged(others: Sequence[str], mark: str) -> tuple[str, ...]:
    """The marks of another entry that stay when one with `mark` takes its place, and that."""
    kept = [other for other in others if other[1:] != mark[1:]]
    return (*kept[1 - _MARKS_MAX :], mark)


class Claim:
    """An entry that is locked: no other process applies it meanwhile, and no ADD goes on."""

    def __init__(self, directory: str, name: str, fd: int, fields: tuple[str, ...]) -> None:
        self.pod_namespace, self.pod_name, self.container_id = fields[:3]
        self.second = fields[3] if len(fields) > 3 else ""
        #: Whose the release is; if empty, it is of the pod of these names, whichever daemon has it.
        self.marks = fields[4:]
        self.directory = directory
        self.name = name
        self._fd = fd

    @property
    def container_ids(self) -> list[str]:
        """The container IDs that are to be released."""
        return [self.container_id, self.second] if self.second else [self.container_id]

    def is_for(self, journal: str, where: str | None) -> bool:
        """Whether it is that daemon's; without a `where`, the daemon asks of its own spool."""
        if not self.marks or f"={journal}" in self.marks:
            return True
        return any(mark[0] == "@" and (where is None or mark == f"@{where}") for mark in self.marks)

    def may_be_for(self, journal: str) -> bool:
        """Whether it is not known whose the release is, and that daemon was not asked yet."""
        return f"!{journal}" not in self.marks and any(mark[0] == "@" for mark in self.marks)

    def left(self, journal: str, where: str | None, *, had_any: bool) -> list[str]:
        """The marks that are left when that daemon has released; `had_any`: it had what to release.

        None are left if the entry is done.
        """
        left = [mark for mark in self.marks if mark != f"={journal}"]
        if had_any or where is None:
            left = [mark for mark in left if mark[0] != "@"]
        elif f"@{where}" in left:
            left.remove(f"@{where}")
        if any(mark[0] == "@" for mark in left):
            left = [*[mark for mark in left if mark != f"!{journal}"], f"!{journal}"]
        else:
            left = [mark for mark in left if mark[0] == "="]
        return left if len(left) <= _MARKS_MAX else []

    def applied(self, marks: list[str]) -> None:
        """The release is durable in a coild; these marks are left. Raises SpoolError."""
        if not marks:
            done((self,))
        elif marks != list(self.marks):
            fields = (self.pod_namespace, self.pod_name, self.container_id, self.second, *marks)
            try:
                replace(self.directory, self.name, content_of(self.name, fields))
                sync(self.directory)
            except OSError as error:
                raise spool_error(self.directory, error) from None

    def remove(self) -> None:
        """Remove the entry; `done` makes that durable. Raises OSError."""
        posix.unlink(f"{self.directory}/{self.name}")

    def reject(self) -> str:
        """Set the entry aside: coild will never take it. Its new path. Raises SpoolError."""
        return set_aside(self.directory, self.name)

    def close(self) -> None:
        """Let go of the lock; what was not applied or rejected stays for the next."""
        posix.close(self._fd)


def done(entries: Sequence[Claim]) -> None:
    """The releases of these, which are of one spool, are durable: remove them, durably.

    Raises SpoolError.
    """
    if not entries:
        return
    directory = entries[0].directory
    failure: OSError | None = None
    for entry in entries:
        try:
            entry.remove()
        except FileNotFoundError:
            pass  # another process was faster
        except OSError as error:
            failure = error
    try:
        sync(directory)
    except OSError as error:
        failure = error
    if failure is not None:
        raise spool_error(directory, failure)


def set_aside(directory: str, name: str) -> str:
    """Give a file that coild does not take for an entry another name; the path of that.

    Raises SpoolError.
    """
    path = f"{directory}/{name}{REJECTED}"
    try:
        posix.rename(f"{directory}/{name}", path)
        sync(directory)
    except OSError as error:
        raise spool_error(directory, error) from None
    return path
