"""Where a request begins and ends, by RFC 9112: what is not said in one way only is refused.

Sanic is lenient: a name with a space before its colon is another name to it, so that a length stays
unseen and the body is taken for the next request; int() takes more than digits; and of a target
with a host of its own that host is ignored. These rules look at the bytes before Sanic does.
"""

from __future__ import annotations

import re

from coild.rules.limits import FIELDS_MAX

#: No fragment: a target has none (section 3.2). Its other characters are the router's business.
_TARGET = bytes(range(0x21, 0x7F)).replace(b"#", b"")
_VERSIONS = {b"HTTP/1.1", b"HTTP/1.0"}
#: A field-name is a token, with nothing between it and the colon (section 5.1); a value has no
#: control characters but tabs, so that there is no fold, no bare CR and no NUL (5.2, 2.2).
_FIELD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++:[\t -~\x80-\xff]*+")
#: Such a field must be ASCII: str.strip() takes more for white space than RFC 9110 (5.6.3).
_ASCII_ONLY = re.compile(
    rb"(?:content-length|transfer-encoding|host|connection):.*[\x80-\xff]", re.IGNORECASE
)
_ENCODED = re.compile(rb"transfer-encoding:", re.IGNORECASE)
_HOST = re.compile(rb"host:[ \t]*(.*?)[ \t]*", re.IGNORECASE)
_ABSOLUTE = re.compile(rb"http://([^/?]+)(?:[/?].*)?", re.IGNORECASE)
#: The CRLF after what was before, `chunk-size [ chunk-ext ]` (section 7.1).
_CHUNK = re.compile(rb"\r\n[0-9A-Fa-f]{1,32}(?:;[\t -~]{0,256})?")
_LENGTH = {10: re.compile("[0-9]+"), 16: re.compile("[0-9A-Fa-f]+")}

#: Fields that were found good. A client sends the same again and again, and to look each of them up
#: takes a tenth of the time.
_good: set[bytes] = set()
_GOOD_MAX = 512
_GOOD_BYTES_MAX = 128


class FramingError(Exception):
    """The request does not say in one way only where it ends, or whom it is for."""


class TooManyFieldsError(Exception):
    """The request has too many header fields."""


def check_head(head: bytes) -> None:
    """Check a request line and its fields, without the CRLF of the last.

    Raises FramingError and TooManyFieldsError.
    """
    first, *fields = head.split(b"\r\n")
    words = first.split(b" ")
    if len(words) != 3 or words[2] not in _VERSIONS or words[1].translate(None, _TARGET):
        raise FramingError("this is no HTTP/1.1: the request line is malformed")
    if len(fields) > FIELDS_MAX:
        raise TooManyFieldsError(f"the request has more than {FIELDS_MAX} header fields")
    if not _good.issuperset(fields):
        _check_fields(fields, words[2])
    if not words[1].startswith(b"/") and words[1] != b"*":
        _check_absolute(words[1], fields)


def _check_fields(fields: list[bytes], version: bytes) -> None:
    for field in fields:
        if not _FIELD.fullmatch(field):
            raise FramingError(_reason(field))
        if _ENCODED.match(field) and version == b"HTTP/1.0":
            raise FramingError("HTTP/1.0 has no Transfer-Encoding: send HTTP/1.1 or a length")
        if not field.isascii() and _ASCII_ONLY.match(field):
            raise FramingError("a header that says where the request ends is not ASCII")
        if len(field) <= _GOOD_BYTES_MAX and not _ENCODED.match(field):
            if len(_good) >= _GOOD_MAX:
                _good.clear()
            _good.add(field)


def _check_absolute(target: bytes, fields: list[bytes]) -> None:
    """A target with a host of its own must name the one that Host does (section 3.2.2)."""
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        raise FramingError("the target of the request is neither a path nor an http:// URL")
    hosts = [found[1].lower() for field in fields if (found := _HOST.fullmatch(field))]
    if hosts != [absolute[1].lower()]:
        raise FramingError("the target of the request names another host than its Host header")


def _reason(field: bytes) -> str:
    if field.startswith((b" ", b"\t")):
        return "a header goes on on another line: send each on one"
    name, _, _ = field.partition(b":")
    if name.rstrip(b" \t") != name:
        return "a header has white space before its colon: send `Name: value`"
    return "this is no HTTP/1.1: a header is malformed"


def is_chunk_line(line: bytes) -> bool:
    """Whether this is the line before a chunk's data, with the CRLF in front of it."""
    return _CHUNK.fullmatch(line) is not None


def parse_length(text: str, base: int) -> int:
    """A Content-Length (base 10), or the size of a chunk (16). Raises ValueError."""
    if base == 10:
        text = text.rstrip(" \t")
    if not _LENGTH[base].fullmatch(text):
        raise ValueError(f"{text!r} is no length")
    return int(text, base)
