"""Whom a request is for, as the log names it: pool, namespace, pod and containers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import msgspec
from sanic import Request

from coild.rules.allocator import NoPoolError

#: So many of the containers that one request names are named.
_CONTAINERS_MAX = 3
#: Names that are valid are shorter.
_NAME_MAX = 260


def about(request: Request, pool_for: Callable[[str], str]) -> str:
    """The names in the path or the body, as far as they can be read; empty if there are none.

    `pool_for` gives the pool of a namespace. Raises nothing: the request may be any.
    """
    namespace, pod, containers = _of_path(request) or _of_body(request.body)
    parts = []
    if namespace:
        try:
            parts.append(f"pool {pool_for(namespace)!r}")
        except NoPoolError:
            parts.append("no pool")
        parts.append(f"namespace {_short(namespace)!r}")
    if pod:
        parts.append(f"pod {_short(pod)!r}")
    if containers:
        named = ", ".join(repr(_short(each)) for each in containers[:_CONTAINERS_MAX])
        more = len(containers) - _CONTAINERS_MAX
        parts.append(f"container {named}{f' and {more} more' if more > 0 else ''}")
    return ", ".join(parts)


def _of_path(request: Request) -> tuple[str, str, list[str]] | None:
    parts = request.match_info
    if "container" not in parts:
        return None
    namespace, pod, container = (
        unquote(str(parts.get(name, "")), errors="backslashreplace")
        for name in ("namespace", "pod", "container")
    )
    return namespace, pod, [container]


def _of_body(body: bytes) -> tuple[str, str, list[str]]:
    try:
        found: Any = msgspec.json.decode(body) if body else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        return "", "", []
    containers = found.get("container-ids")
    if not isinstance(containers, list):
        containers = [found.get("container-id")]
    return (
        _text(found.get("pod-namespace")),
        _text(found.get("pod-name")),
        [each for each in containers if isinstance(each, str)],
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _short(name: str) -> str:
    return name if len(name) <= _NAME_MAX else f"{name[:_NAME_MAX]}…"
