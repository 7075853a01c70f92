"""An entry of a spool as bytes, and whose release it is: see `releases`.

Only the standard library's C modules are imported, for the plugin's sake.
"""

from __future__ import annotations

from binascii import crc32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_MAGIC = b"coild-spool 1\n"
_MAGIC_MARKED = b"coild-spool 2\n"
#: So many marks an entry has at most: there are one or two daemons. The oldest are dropped.
MARKS_MAX = 8


def is_for(marks: Sequence[str], journal: str, where: str | None) -> bool:
    """Whether a release with these marks is that daemon's; without marks, it is anybody's."""
    if not marks or f"={journal}" in marks:
        return True
    return any(mark[0] == "@" and (where is None or mark == f"@{where}") for mark in marks)


def may_be_for(marks: Sequence[str], journal: str) -> bool:
    """Whether nobody knows whose the release is, and that daemon was not asked yet."""
    return f"!{journal}" not in marks and any(mark[0] == "@" for mark in marks)


def marks_left(
    marks: Sequence[str], journal: str, where: str | None, *, had_any: bool
) -> list[str]:
    """The marks of an entry when that daemon has released it; none if nobody else has to."""
    left = [mark for mark in marks if mark != f"={journal}"]
    if had_any or where is None:
        left = [mark for mark in left if mark[0] != "@"]
    elif f"@{where}" in left:
        left.remove(f"@{where}")
    if any(mark[0] == "@" for mark in left):
        left = [*[mark for mark in left if mark != f"!{journal}"], f"!{journal}"]
    else:
        left = [mark for mark in left if mark[0] == "="]
    return left if len(left) <= MARKS_MAX else []


def merged(others: Sequence[str], mark: str) -> tuple[str, ...]:
    """The marks of another entry that stay when one with `mark` takes its place, and that."""
    kept = [other for other in others if other[1:] != mark[1:]]
    return (*kept[1 - MARKS_MAX :], mark)


def content_of(name: str, fields: tuple[str, ...]) -> bytes:
    """The bytes of the entry with this name; with more than three fields, it has marks."""
    if len(fields) > 3:
        return _marked_content(name, fields)
    return _content(name, *fields)


def _marked_content(name: str, fields: tuple[str, ...]) -> bytes:
    body = "\0".join(fields).encode() + b"\n"
    checksum = crc32(body, crc32(name.encode(errors="surrogateescape")))
    return _MAGIC_MARKED + b"%08x\n" % checksum + body


def _content(name: str, pod_namespace: str, pod_name: str, container_id: str) -> bytes:
    body = f"{pod_namespace}\0{pod_name}\0{container_id}\n".encode()
    # Somebody else's file may have a name that is no text.
    checksum = crc32(body, crc32(name.encode(errors="surrogateescape")))
    return _MAGIC + b"%08x\n" % checksum + body


def _holder(name: str, content: bytes) -> tuple[str, ...] | None:
    """Namespace, name and container ID, and what an entry with marks has besides.

    None if these are not the bytes that were written.
    """
    if content.startswith(_MAGIC_MARKED):
        return _marked(name, content)
    try:
        body = content[len(_MAGIC) + 9 :].decode().removesuffix("\n")
        pod_namespace, pod_name, container_id = body.split("\0")
    except ValueError:
        return None
    if content != _content(name, pod_namespace, pod_name, container_id):
        return None
    return pod_namespace, pod_name, container_id


def _marked(name: str, content: bytes) -> tuple[str, ...] | None:
    try:
        fields = tuple(content[len(_MAGIC_MARKED) + 9 :].decode().removesuffix("\n").split("\0"))
    except ValueError:
        return None
    known = len(fields) > 4 and all(mark[:1] in {"=", "@", "!"} for mark in fields[4:])
    return fields if known and content == _marked_content(name, fields) else None
