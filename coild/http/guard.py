"""Refuses requests that a web page in a browser could be behind.

A browser on the node can reach loopback. It names the page's site in `Origin` when a page posts,
and in `Host` when a site's name was pointed at 127.0.0.1 (DNS rebinding). Neither can be forged by
a page, so a request is refused unless `Host` is this machine or a name that was allowed, and
`Origin`, if there is one, is what `Host` says. An image, a frame or a link asks without `Origin`,
and whether it loads tells the page something: for these, `Sec-Fetch-Site` says that a page of
another site is behind it (W3C, Fetch Metadata). No page can talk to a unix socket.
"""

from __future__ import annotations

import ipaddress
import re

from sanic import Request

#: So many distinct Host headers are remembered as good: a client sends one.
_KNOWN_MAX = 64
_NO_HOST = ("",)
#: Typed by the user, or from a page of this very origin.
_OWN_SITES = frozenset({"none", "same-origin"})
#: `uri-host [ ":" port ]` (RFC 9110, section 7.2), an IPv6 address in brackets.
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]*)?")


class GuardError(Exception):
    """Base of what the guard refuses a request with."""


class ForbiddenError(GuardError):
    """A request that a web page may be behind."""


class MissingHostError(GuardError):
    """A request that does not name one host (RFC 9112, section 3.2)."""


class Guard:
    """Checks the Host and the Origin of requests."""

    def __init__(self, allowed_hosts: tuple[str, ...], *, remote: bool) -> None:
        """`remote`: others than this machine may ask, by whichever address they reach it."""
        self._allowed = frozenset({"localhost", *(host.strip("[]") for host in allowed_hosts)})
        self._remote = remote
        self._known: set[str] = set()

    def check(self, request: Request) -> None:
        """Raises ForbiddenError or MissingHostError, naming the header."""
        headers = request.headers
        hosts = headers.getall("host", _NO_HOST)
        if len(hosts) > 1:
            # It is not known by which of them another program goes.
            raise MissingHostError("there is more than one Host header: send one")
        host = hosts[0]
        if host not in self._known and not _on_unix_socket(request):
            self._check_host(request, host)
        if ("origin" in headers or "sec-fetch-site" in headers) and not _on_unix_socket(request):
            for header, own in (("Origin", {f"http://{host}"}), ("Sec-Fetch-Site", _OWN_SITES)):
                for value in headers.getall(header, ()):
                    if value not in own:
                        raise ForbiddenError(
                            f"requests from web pages are refused: {header} is {value!r}"
                        )

    def _check_host(self, request: Request, host: str) -> None:
        if "host" not in request.headers:
            if request.version == "1.0":
                return  # it has no Host, and no browser speaks it
            raise MissingHostError("there is no Host header, which HTTP/1.1 requires: send one")
        name = _name(host)
        if not self._is_allowed(name):
            raise ForbiddenError(
                f"Host is {host!r}, which is not this machine; allow it with --allowed-hosts {name}"
                if name
                else f"Host is {host!r}, which is no host name"
            )
        if len(self._known) < _KNOWN_MAX:
            self._known.add(host)

    def _is_allowed(self, name: str) -> bool:
        if name in self._allowed:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        # An address in Host was typed as one: it is not a name that was pointed here.
        return address.is_loopback or self._remote


def _on_unix_socket(request: Request) -> bool:
    return request.conn_info is not None and not request.conn_info.server_port


def _name(host: str) -> str:
    """The name in a Host header, without its port, in lower case; empty if it is malformed."""
    found = _HOST.fullmatch(host)
    return (found[1] or found[2]).lower().rstrip(".") if found else ""
