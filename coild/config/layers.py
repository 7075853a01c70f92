"""The settings as the user wrote them, in three places, before they are checked.

Flags come before environment, environment before file. Each place yields `Settings`: one tree, with
nothing in it but what was written there. `Layers` finds the strongest value and where it came from,
so that an error names the place to change.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from coild.config.files import read_limited

DEFAULT_BLOCK_SIZE = 5
#: Thousands of pools fit; what is longer is another file.
_FILE_BYTES_MAX = 4 << 20

_T = TypeVar("_T")


class SettingError(Exception):
    """One line that names the key and the reason."""

    def __init__(self, key: str, reason: str) -> None:
        # A key or a value of the file may hold a line break.
        super().__init__(" ".join(f"{key}: {reason}".splitlines()))


class ConfigError(SettingError):
    """The value is of the wrong form: each start fails until it is changed."""


class StartError(SettingError):
    """The thing that the value names is missing now: another start may find it."""


class PoolSettings(msgspec.Struct, rename="kebab", forbid_unknown_fields=True):
    """`[pools.NAME]` of the file."""

    subnets: list[str]
    block_size: int = DEFAULT_BLOCK_SIZE
    reserved: list[str] = []
    reserve_edges: bool = False
    gateway: str | list[str] = []


class FileSettings(msgspec.Struct, rename="kebab", forbid_unknown_fields=True):
    """The keys of the file. None: not written there."""

    http: str | list[str] | None = None
    socket: str | None = None
    allow_remote: bool | None = None
    allowed_hosts: list[str] | None = None
    max_connections: str | int | None = None
    data_dir: str | None = None
    segment_size: str | int | None = None
    compact_after: str | int | None = None
    node_name: str | None = None
    pools: dict[str, PoolSettings] | None = None
    scan_interval: str | None = None
    reuse_after: str | None = None
    export_routes: bool | str | None = None
    table_id: str | int | None = None
    protocol_id: str | int | None = None
    after_reboot: str | None = None
    proc: str | None = None
    log_level: str | None = None
    log_format: str | None = None


class Settings(FileSettings):
    """The keys of flags and environment: those of the file, and pools in their short form."""

    pool: list[str] | None = None
    block_size: str | int | None = None
    reserved: list[str] | None = None
    reserve_edges: bool | str | None = None
    gateway: list[str] | None = None


class Layers:
    """Settings by place, the strongest first."""

    def __init__(self, layers: list[tuple[Callable[[str], str], FileSettings]]) -> None:
        self._layers = layers

    def find(self, field: str) -> tuple[str, Any]:
        """The strongest value of a field, and its key as the user wrote it; None if nowhere.

        Raises ConfigError if it is text that is not UTF-8.
        """
        for label, settings in self._layers:
            value = getattr(settings, field, None)
            if value is not None:
                try:
                    for text in value if isinstance(value, list) else [value]:
                        require_utf8(text)
                except ValueError as error:
                    raise ConfigError(label(field), str(error)) from None
                return label(field), value
        return kebab(field), None

    def get(self, field: str, default: _T, parse: Callable[[Any], _T]) -> _T:
        """The strongest value of a field, parsed. Raises ConfigError and StartError."""
        key, value = self.find(field)
        if value is None:
            return default
        try:
            return parse(value)
        except ValueError as error:
            raise ConfigError(key, str(error)) from None
        except OSError as error:
            # A relative path, and the working directory is gone.
            raise StartError(key, f"cannot use {value!r}: {error.strerror}") from None


def require_utf8(value: object) -> None:
    """Raises ValueError if it is text with bytes that are not UTF-8, as the system gives them."""
    try:
        str(value).encode()
    except UnicodeEncodeError:
        text = str(value).encode(errors="surrogateescape").decode(errors="backslashreplace")
        raise ValueError(f"'{text}' is not UTF-8") from None


def kebab(field: str) -> str:
    """A field as a key of the file."""
    return field.replace("_", "-")


def variable(field: str) -> str:
    """A field as an environment variable."""
    return f"COILD_{field.upper()}"


def boolean(value: str | bool) -> bool:  # noqa: FBT001
    """The truth value that a word stands for. Raises ValueError."""
    if isinstance(value, bool):
        return value
    if value.lower() in {"1", "true", "yes"}:
        return True
    if value.lower() in {"", "0", "false", "no"}:
        return False
    raise ValueError(f"{value!r} is neither true nor false")


def from_environment(environment: Mapping[str, str]) -> Settings:
    """The variables COILD_…; lists are separated by commas, pools by white space."""
    found: dict[str, Any] = {}
    for field in Settings.__struct_fields__:
        value = environment.get(variable(field))
        if value is None or field == "pools":
            continue
        found[field] = value
    for field in ("pool", "reserved", "gateway"):
        if field in found:
            found[field] = found[field].split()
    if "allowed_hosts" in found:
        found["allowed_hosts"] = found["allowed_hosts"].split(",")
    return Settings(**found)


def from_file(file: Path | None) -> FileSettings:
    """Read the TOML file. Raises ConfigError, and StartError if it cannot be read now.

    A pipe by name, or a file of more than 4 MiB, is not a configuration.
    """
    if file is None:
        return FileSettings()
    try:
        return msgspec.toml.decode(read_limited(file, _FILE_BYTES_MAX), type=FileSettings)
    except RecursionError:
        raise ConfigError(str(file), "it is nested too deeply") from None
    except OSError as error:
        # What is not there yet, or not mounted, may come; a name that is too long never does.
        kind = ConfigError if error.errno == errno.ENAMETOOLONG else StartError
        raise kind("--config", f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        wrong = f"it is not UTF-8: byte {error.object[error.start]:#x} at offset {error.start}"
        raise ConfigError(str(file), wrong) from None
    except ValueError as error:
        text, _, path = str(error).partition(" - at `$")
        key = path.rstrip("`").lstrip(".").replace("[...]", "")
        if "unknown field" in text:
            known = PoolSettings if key.startswith("pools") else FileSettings
            name = text.rpartition("`")[0].rpartition("`")[2]
            key = f"{key}.{name}" if key else name
            text = (
                f"there is no such key; known are {', '.join(map(kebab, known.__struct_fields__))}"
            )
        raise ConfigError(f"{file}: {key}" if key else str(file), text) from None
