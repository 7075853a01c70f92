"""The configuration: one tree of checked values, and the parser of each."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from coild.config.endpoint import DEFAULT_PORT, OFF, Endpoint, parse_endpoints
from coild.config.layers import (
    ConfigError,
    FileSettings,
    Layers,
    Settings,
    boolean,
    from_environment,
    from_file,
    kebab,
    require_utf8,
    variable,
)
from coild.config.pools import pools_in_force
from coild.rules.addresses import Pool
from coild.rules.limits import CONNECTIONS_MAX, NAME_PATTERN, NAME_RULE
from coild.rules.units import format_duration, format_size, parse_duration, parse_size

LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("plain", "json")
AFTER_REBOOT = ("release", "keep")
#: Whether to export the routes of blocks: if permitted, in any case, or not at all.
AUTO, ALWAYS, NEVER = "auto", "always", "never"

#: Those of Coil v1.
DEFAULT_TABLE = 119
DEFAULT_PROTOCOL = 30
#: The tables and the protocols whose routes are the kernel's and the administrator's
#: (rtnetlink.h: unspecified, default, main, local; unspecified to static).
_TABLES_TAKEN = {0, 253, 254, 255}
_PROTOCOL_MIN = 5
DEFAULT_PROC = Path("/proc")
DEFAULT_HTTP = f"127.0.0.1:{DEFAULT_PORT}"
NOWHERE = (
    "TCP is off, and there is no unix socket to listen on instead: give --socket PATH, or pass one "
    "as systemd does (LISTEN_FDS)"
)
REMOTE = (
    "can be reached from other machines, and whoever reaches it can release any address; use a "
    "loopback address, or give --allow-remote"
)
#: Below, roll-over would be most of the work; above, one segment takes long to fill ahead.
SEGMENT_SIZE_MIN = 1 << 20
SEGMENT_SIZE_MAX = 1 << 30


class Config(msgspec.Struct, frozen=True):
    """The configuration of a daemon. Durations are in ns, sizes in bytes."""

    #: None of them: no TCP.
    http: tuple[Endpoint, ...]
    socket: Path | None
    allow_remote: bool
    allowed_hosts: tuple[str, ...]
    #: On each socket.
    max_connections: int
    data_dir: Path
    segment_size: int
    #: 0: never by itself.
    compact_after: int
    node_name: str
    pools: dict[str, Pool]
    scan_interval: int
    reuse_after: int
    #: AUTO, ALWAYS or NEVER.
    export_routes: str
    table_id: int
    protocol_id: int
    after_reboot: str
    log_level: str
    log_format: str
    #: Whether no pools were configured.
    embedded: bool
    #: The proc file system of the container runtime's PID namespace.
    proc: Path = DEFAULT_PROC

    def as_toml(self) -> str:
        """The configuration as a file that yields it."""
        values = ((field, getattr(self, field)) for field in FileSettings.__struct_fields__)
        tree = {
            kebab(field): _AS_WRITTEN.get(field, lambda same: same)(value)
            for field, value in values
            if value is not None
        }
        return msgspec.toml.encode(tree, enc_hook=str).decode()


def _pool_table(pool: Pool) -> dict[str, Any]:
    table: dict[str, Any] = {
        "subnets": list(map(str, pool.subnets)),
        "block-size": pool.block_size,
    }
    if pool.reserved:
        table["reserved"] = list(map(str, pool.reserved))
    if pool.reserve_edges:
        table["reserve-edges"] = True
    if pool.gateways:
        table["gateway"] = list(map(str, pool.gateways))
    return table


def load(flags: Settings, file: Path | None, environment: Mapping[str, str]) -> Config:
    """The configuration that results. Raises ConfigError and StartError."""
    layers = Layers(
        [
            (lambda field: f"--{kebab(field)}", flags),
            (variable, from_environment(environment)),
            # Coil v1's name for it.
            (lambda _: "COIL_NODE_NAME", Settings(node_name=environment.get("COIL_NODE_NAME"))),
            (lambda field: f"{file}: {kebab(field)}", from_file(file)),
        ]
    )
    allow_remote = layers.get("allow_remote", default=False, parse=boolean)
    http = layers.get("http", parse_endpoints(DEFAULT_HTTP), parse_endpoints)
    for endpoint in () if allow_remote else http:
        if not endpoint.is_loopback:
            raise ConfigError(layers.find("http")[0], f"{endpoint} {REMOTE}")
    path = layers.get("socket", None, _socket_path)
    # Whether what is passed is a socket, and to this process, is seen when it is taken.
    if not http and path is None and not environment.get("LISTEN_FDS"):
        raise ConfigError(layers.find("http")[0], NOWHERE)
    pools, embedded = pools_in_force(layers)
    return Config(
        http=http,
        socket=path,
        allow_remote=allow_remote,
        allowed_hosts=layers.get("allowed_hosts", (), _hosts),
        max_connections=layers.get("max_connections", CONNECTIONS_MAX, _max_connections),
        data_dir=layers.get("data_dir", None, _directory) or default_data_dir(environment),
        segment_size=layers.get("segment_size", 16 << 20, _segment_size),
        compact_after=layers.get("compact_after", 64 << 20, lambda value: parse_size(str(value))),
        node_name=layers.get("node_name", "", _node_name) or _host_name(),
        pools=pools,
        scan_interval=layers.get("scan_interval", parse_duration("10m"), _scan_interval),
        reuse_after=layers.get("reuse_after", parse_duration("30s"), parse_duration),
        export_routes=_export_routes(layers),
        table_id=layers.get("table_id", DEFAULT_TABLE, _table),
        protocol_id=layers.get("protocol_id", DEFAULT_PROTOCOL, _protocol),
        after_reboot=layers.get(
            "after_reboot", "release", lambda value: _one_of(value, AFTER_REBOOT)
        ),
        log_level=layers.get("log_level", "info", lambda value: _one_of(value, LOG_LEVELS)),
        log_format=layers.get("log_format", "plain", lambda value: _one_of(value, LOG_FORMATS)),
        embedded=embedded,
        proc=layers.get("proc", DEFAULT_PROC, _directory),
    )


def default_data_dir(environment: Mapping[str, str]) -> Path:
    """`/var/lib/coild` for root, else `coild` in the user's state directory (XDG base dirs).

    Raises ConfigError if the user has none.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/coild")
    state = environment.get("XDG_STATE_HOME", "")
    # "All paths set in these environment variables must be absolute", says the XDG specification.
    try:
        home = Path(state) if state.startswith("/") else Path.home() / ".local/state"
        require_utf8(home)
        return home / "coild"
    except ValueError as error:
        raise ConfigError("data-dir", f"{error}; choose another with --data-dir DIR") from None
    except RuntimeError:
        raise ConfigError(
            "data-dir", "this user has no home directory; choose another with --data-dir DIR"
        ) from None


def _http_value(endpoints: tuple[Endpoint, ...]) -> str | list[str]:
    """The endpoints as the file has them."""
    texts = list(map(str, endpoints))
    return texts if len(texts) > 1 else texts[0] if texts else OFF


#: From a value to what the file has for it, unless that is the value itself or its text.
_AS_WRITTEN: dict[str, Callable[[Any], Any]] = {
    "http": _http_value,
    "segment_size": format_size,
    "compact_after": format_size,
    "scan_interval": format_duration,
    "reuse_after": format_duration,
    "export_routes": {AUTO: AUTO, ALWAYS: True, NEVER: False}.__getitem__,
    "pools": lambda pools: {name: _pool_table(pool) for name, pool in pools.items()},
}


def _export_routes(layers: Layers) -> str:
    """If a table or a protocol is named, routes are wanted; else they are made if permitted."""
    named = any(layers.find(field)[1] is not None for field in ("table_id", "protocol_id"))
    return layers.get("export_routes", ALWAYS if named else AUTO, _export)


def _export(value: str | bool) -> str:  # noqa: FBT001
    if value == AUTO:
        return AUTO
    return ALWAYS if boolean(value) else NEVER


def _table(value: str | int) -> int:
    table = _number(value, 0xFFFFFFFF)
    if table is None or table in _TABLES_TAKEN:
        raise ValueError(
            f"{value!r} is no table for routes of blocks: 1 to 4294967295, but for 253 to 255, "
            "which are the system's own"
        )
    return table


def _protocol(value: str | int) -> int:
    protocol = _number(value, 0xFF)
    if protocol is None or protocol < _PROTOCOL_MIN:
        raise ValueError(
            f"{value!r} is no protocol for routes of blocks: {_PROTOCOL_MIN} to 255, those below "
            "are the system's own"
        )
    return protocol


def _number(value: str | int, largest: int) -> int | None:
    text = str(value)
    return int(text) if re.fullmatch("[0-9]{1,10}", text) and int(text) <= largest else None


def _one_of(value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise ValueError(f"{value!r} is not one of {', '.join(allowed)}")
    return value


def _segment_size(value: str | int) -> int:
    size = parse_size(str(value))
    if not SEGMENT_SIZE_MIN <= size <= SEGMENT_SIZE_MAX or size % 4096:
        raise ValueError(
            f"{value!r} is out of bounds: {format_size(SEGMENT_SIZE_MIN)} to "
            f"{format_size(SEGMENT_SIZE_MAX)}, in whole pages of 4096 bytes"
        )
    return size


def _scan_interval(value: str) -> int:
    interval = parse_duration(value)
    if interval < 10**9:
        raise ValueError(f"{value!r} is too short: 1s at least")
    return interval


def _max_connections(value: str | int) -> int:
    number = _number(value, 1_000_000)
    if not number:
        raise ValueError(f"{value!r} is no number of connections: 1 to 1000000")
    return number


def _directory(value: str) -> Path:
    path = _path(value)
    # Linux has NAME_MAX and PATH_MAX (limits.h), the latter with a NUL.
    if max(map(len, map(os.fsencode, path.parts))) > 255 or len(os.fsencode(path)) > 4095:
        raise ValueError(f"{value!r} is too long: 255 bytes between slashes, 4095 in all")
    return path


def _path(value: str) -> Path:
    if not value:
        raise ValueError("it must not be empty")
    if "\0" in value:
        raise ValueError(f"{value!r} is no path: it has a NUL character")
    try:
        path = Path(value).expanduser().absolute()
    except RuntimeError:
        raise ValueError(f"{value!r} names a user without a home directory") from None
    # The working directory and the home directory are the system's.
    require_utf8(path)
    return path


def _socket_path(value: str) -> Path:
    path = _path(value)
    # struct sockaddr_un has 108 bytes for the path, one of them for the NUL (unix(7)).
    if len(os.fsencode(path)) > 107:
        raise ValueError(f"{path} is too long for a unix socket: 107 bytes at most")
    return path


def _node_name(value: str) -> str:
    if not re.search(NAME_PATTERN, value):
        raise ValueError(f"{value!r} is no node name: it must be {NAME_RULE}")
    return value


def _host_name() -> str:
    """The node's name where none is given. Raises ConfigError."""
    name = socket.gethostname()
    try:
        require_utf8(name)
        return _node_name(name)
    except ValueError as error:
        raise ConfigError(
            "node-name", f"none is given, and the host name will not do: {error}; give --node-name"
        ) from None


def _hosts(values: list[str]) -> tuple[str, ...]:
    hosts = tuple(host.strip().lower() for host in values)
    for host in hosts:
        try:
            known = re.fullmatch(r"[a-z0-9._-]+", host) or ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            known = None
        if not known:
            raise ValueError(f"{host!r} is no host name: write names or addresses without a port")
    return hosts
