"""JSON by the C functions that the package `json` is built on, without importing that package."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_SPACE = " \t\n\r"


def _refuse(name: str) -> float:
    """NaN and infinities are not JSON (RFC 8259, section 6)."""
    raise ValueError(f"{name} is no JSON number")


class _Context:
    """The attributes of a decoder that the C scanner uses."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_refuse)
    memo: dict[str, str] = {}  # noqa: RUF012 - an older scanner's


try:
    from _json import encode_basestring_ascii as _quote
    from _json import make_scanner

    _scan: Callable[[str, int], tuple[Any, int]] = make_scanner(_Context)  # type: ignore[arg-type]
except (ImportError, AttributeError, TypeError):  # an interpreter without the C functions
    import json

    _quote = json.encoder.encode_basestring_ascii
    _scan = vars(json.JSONDecoder(parse_constant=_refuse))["scan_once"]


def decode(data: bytes) -> Any:
    """The value in the JSON text `data`. Raises ValueError with the reason."""
    text = data.decode()
    start = len(text) - len(text.lstrip(_SPACE))
    try:
        value, end = _scanned(text, start)
    except StopIteration as stop:
        raise ValueError(f"no value at character {stop.value}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if text[end:].strip(_SPACE):
        raise ValueError(f"there is more after its end, at character {end}")
    return value


def _scanned(text: str, start: int) -> tuple[Any, int]:
    try:
        return _scan(text, start)
    except SystemError:
        # Before Python 3.13, the scanner finds its exception only once this was imported.
        import json.decoder  # noqa: F401, PLC0415 - no good configuration needs it

        return _scan(text, start)


def encode(value: Any) -> str:
    """JSON of dictionaries, lists, strings, integers, booleans and None. Raises TypeError."""
    if isinstance(value, str):
        return _quote(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join([f"{_quote(k)}:{encode(v)}" for k, v in value.items()]) + "}"
    if isinstance(value, list):
        return "[" + ",".join([encode(item) for item in value]) + "]"
    raise TypeError(f"{type(value).__name__} is not written as JSON")
