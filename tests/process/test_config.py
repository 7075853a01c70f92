"""The configuration: where each key may stand, which place wins, and what is said of mistakes."""

from __future__ import annotations

import os
import re
import socket
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from coild import __version__
from coild.cli import main
from coild.config.config import SEGMENT_SIZE_MAX, SEGMENT_SIZE_MIN, Config, load
from coild.config.endpoint import Endpoint
from coild.config.layers import FileSettings, Settings, kebab, variable
from coild.rules.addresses import Pool, Span
from tests.kits.daemon import process as daemon_kit
from tests.kits.daemon.service import pool


class Result(NamedTuple):
    """What a run of the command line left."""

    status: int
    out: str
    err: str

    @property
    def effective(self) -> dict[str, Any]:
        """The configuration that --check-config printed."""
        assert (0, "") == (self.status, self.err)
        return tomllib.loads(self.out)


class CommandLine:
    """`coild` in this process, with a file and an environment of the test's own."""

    def __init__(
        self,
        directory: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self.file = directory / "coild.toml"
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        for name in list(os.environ):
            if name.startswith("COIL"):
                monkeypatch.delenv(name)

    def __call__(self, *flags: str, toml: str | None = None, **environment: str) -> Result:
        """Run it; a file, if there is to be one, is given by --config."""
        if toml is not None:
            self.file.write_text(toml)
            flags = ("--config", str(self.file), *flags)
        with self._monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            try:
                status = main(flags)
            except SystemExit as end:
                # argparse ends so.
                status = int(end.code or 0)
        return Result(status, *self._capsys.readouterr())

    def check(self, *flags: str, toml: str | None = None, **environment: str) -> Result:
        """Run it with --check-config."""
        return self(*flags, "--check-config", toml=toml, **environment)


@pytest.fixture
def coild(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> CommandLine:
    """The command line."""
    return CommandLine(tmp_path, monkeypatch, capsys)


class Key(NamedTuple):
    """A key in three places, each with a value of its own, and what comes of each.

    Values are as --check-config prints them: flag's, environment's, file's.
    """

    field: str
    flags: tuple[str, ...]
    variable: str
    toml: str
    effective: tuple[Any, Any, Any]


def pools(name: str, *subnets: str, block_size: int = 5) -> dict[str, Any]:
    """A pool as the effective configuration has it."""
    return {name: {"subnets": list(subnets), "block-size": block_size}}


KEYS = [
    Key(
        "http",
        ("--http", "127.0.0.2:1"),
        "[::1]:2",
        'http = "localhost:3"',
        ("127.0.0.2:1", "[::1]:2", "localhost:3"),
    ),
    Key(
        "socket",
        ("--socket", "/run/flag"),
        "/run/variable",
        'socket = "/run/file"',
        ("/run/flag", "/run/variable", "/run/file"),
    ),
    Key("allow_remote", ("--allow-remote",), "no", "allow-remote = true", (True, False, True)),
    Key(
        "allowed_hosts",
        ("--allowed-hosts", "a,B.example"),
        "c,d",
        'allowed-hosts = ["e", "::1"]',
        (["a", "b.example"], ["c", "d"], ["e", "::1"]),
    ),
    Key(
        "max_connections",
        ("--max-connections", "10"),
        "20",
        "max-connections = 30",
        (10, 20, 30),
    ),
    Key(
        "data_dir",
        ("--data-dir", "/data/flag"),
        "/data/variable",
        'data-dir = "/data/file"',
        ("/data/flag", "/data/variable", "/data/file"),
    ),
    Key(
        "segment_size",
        ("--segment-size", "1MiB"),
        "2M",
        "segment-size = 4194304",
        ("1MiB", "2MiB", "4MiB"),
    ),
    Key(
        "export_routes",
        ("--no-export-routes",),
        "yes",
        'export-routes = "auto"',
        (False, True, "auto"),
    ),
    Key("table_id", ("--table-id", "1"), "2", "table-id = 4294967295", (1, 2, 4294967295)),
    Key("protocol_id", ("--protocol-id", "5"), "6", "protocol-id = 255", (5, 6, 255)),
    Key(
        "after_reboot",
        ("--after-reboot", "keep"),
        "release",
        'after-reboot = "keep"',
        ("keep", "release", "keep"),
    ),
    Key(
        "proc",
        ("--proc", "/flag/proc"),
        "/variable/proc",
        'proc = "/file/proc"',
        ("/flag/proc", "/variable/proc", "/file/proc"),
    ),
    Key(
        "compact_after",
        ("--compact-after", "0"),
        "8MiB",
        "compact-after = 1048576",
        ("0", "8MiB", "1MiB"),
    ),
    Key(
        "node_name",
        ("--node-name", "flag"),
        "variable",
        'node-name = "file"',
        ("flag", "variable", "file"),
    ),
    Key(
        "scan_interval",
        ("--scan-interval", "1m"),
        "120s",
        'scan-interval = "3m"',
        ("1m", "2m", "3m"),
    ),
    Key("reuse_after", ("--reuse-after", "1s"), "0", 'reuse-after = "3s"', ("1s", "0", "3s")),
    Key(
        "log_level",
        ("--log-level", "debug"),
        "warning",
        'log-level = "error"',
        ("debug", "warning", "error"),
    ),
    Key(
        "log_format",
        ("--log-format", "json"),
        "plain",
        'log-format = "json"',
        ("json", "plain", "json"),
    ),
    Key(
        "pools",
        ("--pool", "flag=10.1.0.0/16,fd00:1::/64"),
        "variable=10.2.0.0/16",
        '[pools.file]\nsubnets = ["10.3.0.0/16"]',
        (
            pools("flag", "10.1.0.0/16", "fd00:1::/64"),
            pools("variable", "10.2.0.0/16"),
            pools("file", "10.3.0.0/16"),
        ),
    ),
]
EVERY_KEY = pytest.mark.parametrize("key", KEYS, ids=lambda key: key.field)


def environment(key: Key) -> dict[str, str]:
    """The environment variable of a key; pools have a short form there, as the flag has."""
    return {variable("pool" if key.field == "pools" else key.field): key.variable}


@EVERY_KEY
def test_every_key_can_stand_in_three_places(coild: CommandLine, key: Key) -> None:
    """Each key is read from its flag, its environment variable and the file alike."""
    name = kebab(key.field)
    found = (
        coild.check(*key.flags).effective[name],
        coild.check(**environment(key)).effective[name],
        coild.check(toml=key.toml).effective[name],
    )

    assert key.effective == found


@EVERY_KEY
def test_flags_come_before_environment_before_file(coild: CommandLine, key: Key) -> None:
    """Where a key stands in several places, the flag wins, then the environment."""
    name = kebab(key.field)
    both = coild.check(toml=key.toml, **environment(key)).effective
    all_three = coild.check(*key.flags, toml=key.toml, **environment(key)).effective

    assert key.effective[1] == both[name]
    assert key.effective[0] == all_three[name]


def test_the_table_of_keys_is_complete() -> None:
    """What is tested above is every key that the file can have."""
    assert set(FileSettings.__struct_fields__) == {key.field for key in KEYS}


def test_the_file_can_be_named_in_the_environment(coild: CommandLine) -> None:
    """COILD_CONFIG names the file as --config does."""
    coild.file.write_text('node-name = "from-the-file"')

    assert "from-the-file" == coild.check(COILD_CONFIG=str(coild.file)).effective["node-name"]


@pytest.mark.parametrize(
    ("flags", "variables", "toml", "name"),
    [
        ((), {"COIL_NODE_NAME": "v1"}, 'node-name = "file"', "v1"),
        ((), {"COIL_NODE_NAME": "v1", "COILD_NODE_NAME": "ours"}, "", "ours"),
        (("--node-name", "flag"), {"COIL_NODE_NAME": "v1"}, "", "flag"),
        ((), {}, "", socket.gethostname()),
    ],
)
def test_the_node_name_may_be_coil_v1s(
    coild: CommandLine,
    flags: tuple[str, ...],
    variables: dict[str, str],
    toml: str,
    name: str,
) -> None:
    """COIL_NODE_NAME counts as environment, after COILD_NODE_NAME; the default is the host name."""
    assert name == coild.check(*flags, toml=toml, **variables).effective["node-name"]


@pytest.mark.parametrize(
    ("flags", "variables", "size"),
    [
        (("--block-size", "3", "--pool", "a=10.0.0.0/24"), {}, 3),
        (("--pool", "a=10.0.0.0/24"), {"COILD_BLOCK_SIZE": "4"}, 4),
        (("--block-size", "0"), {"COILD_POOL": "a=10.0.0.0/24", "COILD_BLOCK_SIZE": "4"}, 0),
        (("--pool", "a=10.0.0.0/24"), {}, 5),
    ],
)
def test_the_block_size_is_that_of_pools_given_in_short(
    coild: CommandLine, flags: tuple[str, ...], variables: dict[str, str], size: int
) -> None:
    """--block-size is for all pools that flags or environment give, and 5 if nowhere."""
    effective = coild.check(*flags, **variables).effective

    assert pools("a", "10.0.0.0/24", block_size=size) == effective["pools"]


def test_several_pools_can_be_given_in_short(coild: CommandLine) -> None:
    """--pool may be repeated, and the variable holds pools separated by white space."""
    expected = pools("a", "10.1.0.0/24") | pools("b", "10.2.0.0/24", "fd00:2::/64")
    texts = ("a=10.1.0.0/24", "b=10.2.0.0/24,fd00:2::/64")

    assert expected == coild.check("--pool", texts[0], "--pool", texts[1]).effective["pools"]
    assert expected == coild.check(COILD_POOL=" \n ".join(texts)).effective["pools"]


def test_pools_of_the_file_have_sizes_of_their_own(coild: CommandLine) -> None:
    """Each pool's table has its block size; without one it is 5."""
    toml = """
        [pools.default]
        subnets = ["10.1.0.0/24", "fd00:1::/64"]
        [pools.web]
        subnets = ["10.2.0.0/24"]
        block-size = 0
    """

    assert (
        pools("default", "10.1.0.0/24", "fd00:1::/64") | pools("web", "10.2.0.0/24", block_size=0)
        == (coild.check(toml=toml).effective["pools"])
    )


def test_the_embedded_default_needs_nothing(tmp_path: Path) -> None:
    """Without flags, file and environment there is a configuration that works."""
    config = load(Settings(), None, {"XDG_STATE_HOME": str(tmp_path)})

    assert config.embedded
    subnets = pool(5, "10.64.0.0/16", "fd00:64::/64")
    gateways = tuple(map(Span.parse, ("10.64.0.1", "fd00:64::1")))
    assert {"default": replace(subnets, gateways=gateways)} == config.pools
    assert (Endpoint("127.0.0.1", 9383),) == config.http
    assert config.socket is None
    assert (600 * 10**9, 30 * 10**9) == (config.scan_interval, config.reuse_after)
    assert 16 << 20 == config.segment_size
    assert ("info", "plain", False, ()) == (
        config.log_level,
        config.log_format,
        config.allow_remote,
        config.allowed_hosts,
    )


@pytest.mark.parametrize(
    ("user", "state", "expected"),
    [
        (0, "/state", "/var/lib/coild"),
        (1000, "/state", "/state/coild"),
        (1000, "", "/home/someone/.local/state/coild"),
        (1000, "relative", "/home/someone/.local/state/coild"),
    ],
)
def test_data_is_kept_in_the_state_directory(
    monkeypatch: pytest.MonkeyPatch, user: int, state: str, expected: str
) -> None:
    """Root's data is in /var/lib, another user's where the XDG base directories say."""
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setenv("HOME", "/home/someone")

    assert Path(expected) == load(Settings(), None, {"XDG_STATE_HOME": state}).data_dir


def test_a_user_without_a_home_must_name_the_directory(
    coild: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no home, the data directory must be named, and then nothing is missing."""

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)

    assert "/data" == coild.check("--data-dir", "/data").effective["data-dir"]
    assert (
        2,
        "",
        ("coild: data-dir: this user has no home directory; choose another with --data-dir DIR\n"),
    ) == coild.check()


class Mistake(NamedTuple):
    """What someone wrote, the key that must be named, and what is said to be allowed."""

    key: str
    allowed: str
    flags: tuple[str, ...] = ()
    variables: Mapping[str, str] = MappingProxyType({})
    toml: str | None = None


IN_FILE = "coild.toml: "
TOO_LONG = "x" * 300
MISTAKES = {
    # Unknown keys, of the file and of its tables.
    "unknown key": Mistake(f"{IN_FILE}colour: ", "known are http, socket", toml="colour = 1"),
    "underscore": Mistake(f"{IN_FILE}data_dir: ", "data-dir", toml='data_dir = "/x"'),
    "block-size on top": Mistake(f"{IN_FILE}block-size: ", "known are", toml="block-size = 5"),
    "unknown key of a pool": Mistake(
        f"{IN_FILE}pools.size: ",
        "known are subnets, block-size",
        toml='[pools.a]\nsubnets = ["10.0.0.0/24"]\nsize = 5',
    ),
    "key with a line break": Mistake("a b: ", "known are", toml='"a\\nb" = 1'),
    "unknown flag": Mistake("--colour", "coild --help", ("--colour", "red")),
    "abbreviated flag": Mistake("--node", "coild --help", ("--node", "x")),
    "Coil v1's dash": Mistake("-http: ", "write --http;", ("-http", "127.0.0.1:9383")),
    "Coil v1's dash and =": Mistake("-table-id: ", "write --table-id;", ("-table-id=119",)),
    "Go's way to ask for help": Mistake("-help: ", "write --help;", ("-help",)),
    "one dash after good flags": Mistake(
        "no -scan-interval: ", "write --scan-interval;", ("--http", "off", "-scan-interval", "10m")
    ),
    "Coil v1's log level": Mistake("-loglevel: ", "write --log-level;", ("-loglevel", "debug")),
    "Coil v1's log format": Mistake("no --logformat: ", "--log-format;", ("--logformat=json",)),
    "Coil v1's log file": Mistake("-logfile: ", "stderr", ("-logfile", "/var/log/coild")),
    "Coil v1's etcd": Mistake("no -etcd-endpoints: ", "no etcd", ("-etcd-endpoints", "@etcd")),
    "Coil v1's etcd in Go's way": Mistake(
        "no --etcd-password: ", "no etcd", ("--etcd-password=x",)
    ),
    "one dash and no flag": Mistake("-colour", "unrecognized arguments", ("-colour",)),
    "flag without value": Mistake("--http", "expected one argument", ("--http",)),
    "argument": Mistake("start", "coild --help", ("start",)),
    # The file itself.
    "no TOML": Mistake("coild.toml: ", "line 1", toml="http: 1"),
    "wrong type": Mistake(f"{IN_FILE}http: ", "str", toml="http = 9383"),
    "wrong type of a list": Mistake(f"{IN_FILE}allowed-hosts", "str", toml="allowed-hosts = [1]"),
    "pools are no tables": Mistake(f"{IN_FILE}pools", "object", toml='pools = "10.0.0.0/8"'),
    "pool without subnets": Mistake(f"{IN_FILE}pools", "subnets", toml="[pools.a]"),
    # Addresses to listen on.
    "no port": Mistake("--http: ", "write it like 127.0.0.1:9383", ("--http", "127.0.0.1:")),
    "no brackets": Mistake("--http: ", "in brackets, like [::1]:9383", ("--http", "::1")),
    "off and on": Mistake("--http: ", "write 'off' alone", ("--http", "off,127.0.0.1")),
    "twice": Mistake("--http: ", "twice", ("--http", "[::1]:9383,[::1]")),
    "twice by name": Mistake("--http: ", "twice", ("--http", "localhost,127.0.0.1")),
    "twice as all": Mistake(
        "--http: ", "twice", ("--http", "127.0.0.1:80,0.0.0.0:80", "--allow-remote")
    ),
    "one of two remote": Mistake(
        f"{IN_FILE}http: ", "loopback", toml='http = ["127.0.0.1:80", "192.0.2.1:80"]'
    ),
    "no address": Mistake(f"{IN_FILE}http: ", "write 'off' alone", toml="http = []"),
    "off without a socket": Mistake("--http: ", "give --socket PATH", ("--http", "off")),
    "off in the file": Mistake(f"{IN_FILE}http: ", "no unix socket", toml='http = "off"'),
    "port too high": Mistake("--http: ", "0 (any free one) to 65535", ("--http", "[::1]:65536")),
    "negative port": Mistake("--http: ", "to 65535", ("--http", "127.0.0.1:-1")),
    "host name": Mistake("--http: ", "an IP address or localhost", ("--http", "node:80")),
    "remote": Mistake("--http: ", "--allow-remote", ("--http", "192.0.2.1:80")),
    "every address": Mistake("COILD_HTTP: ", "--allow-remote", variables={"COILD_HTTP": ":80"}),
    "remote in the file": Mistake(f"{IN_FILE}http: ", "loopback", toml='http = "0.0.0.0:80"'),
    "allow-remote": Mistake(
        "COILD_ALLOW_REMOTE: ", "true nor false", variables={"COILD_ALLOW_REMOTE": "maybe"}
    ),
    "allowed host": Mistake("--allowed-hosts: ", "without a port", ("--allowed-hosts", "a,b:80")),
    # Paths and names.
    "empty directory": Mistake(
        "COILD_DATA_DIR: ", "must not be empty", variables={"COILD_DATA_DIR": ""}
    ),
    "nobody's home": Mistake("--data-dir: ", "home", ("--data-dir", "~no-such-user-here/x")),
    "NUL in a path": Mistake(f"{IN_FILE}data-dir: ", "NUL", toml='data-dir = "a\\u0000b"'),
    "long socket": Mistake("--socket: ", "107 bytes at most", ("--socket", f"/{TOO_LONG}")),
    "node name": Mistake("--node-name: ", "1 to 253 characters", ("--node-name", TOO_LONG)),
    "node name's slash": Mistake(
        "COIL_NODE_NAME: ", "without '/'", variables={"COIL_NODE_NAME": "a/b"}
    ),
    # Numbers, durations and sizes.
    "no connections": Mistake("--max-connections: ", "1 to 1000000", ("--max-connections", "0")),
    "too many connections": Mistake(
        "COILD_MAX_CONNECTIONS: ", "1 to 1000000", variables={"COILD_MAX_CONNECTIONS": "9" * 5000}
    ),
    "connections that are no number": Mistake(
        f"{IN_FILE}max-connections: ", "1 to 1000000", toml='max-connections = "many"'
    ),
    "duration": Mistake("--reuse-after: ", "30s, 10m or 1h30m", ("--reuse-after", "30")),
    "negative duration": Mistake("--reuse-after: ", "write it like", ("--reuse-after=-1s",)),
    "endless duration": Mistake("--reuse-after: ", "at most", ("--reuse-after", "9" * 400 + "d")),
    "interval": Mistake(
        "COILD_SCAN_INTERVAL: ", "1s at least", variables={"COILD_SCAN_INTERVAL": "999ms"}
    ),
    "interval of 0": Mistake(f"{IN_FILE}scan-interval: ", "1s at", toml='scan-interval = "0"'),
    "size": Mistake("--segment-size: ", "write it like 16MiB", ("--segment-size", "16 apples")),
    "small size": Mistake("--segment-size: ", "1MiB to 1GiB", ("--segment-size", "1020KiB")),
    "compaction size": Mistake(
        "--compact-after: ", "write it like 16MiB", ("--compact-after", "often")
    ),
    "large size": Mistake(f"{IN_FILE}segment-size: ", "1GiB", toml='segment-size = "1028MiB"'),
    "negative size": Mistake(f"{IN_FILE}segment-size: ", "16MiB", toml="segment-size = -1"),
    "odd size": Mistake("--segment-size: ", "pages of 4096", ("--segment-size", "16777217")),
    # Choices.
    "level": Mistake("--log-level", "debug", ("--log-level", "loud")),
    "level of the environment": Mistake(
        "COILD_LOG_LEVEL: ", "debug, info, warning", variables={"COILD_LOG_LEVEL": "loud"}
    ),
    "level of the file": Mistake(
        f"{IN_FILE}log-level: ", "debug, info, warning, error", toml='log-level = "loud"'
    ),
    "format of the file": Mistake(
        f"{IN_FILE}log-format: ", "plain, json", toml='log-format = "xml"'
    ),
    # Pools.
    "pool without name": Mistake("--pool: ", "NAME=SUBNET", ("--pool", "10.0.0.0/24")),
    "pool without subnet": Mistake("--pool: ", "NAME=SUBNET", ("--pool", "a=")),
    "pool with a half subnet": Mistake("--pool: ", "like 10.64", ("--pool", "a=10.0.0.0/24,")),
    "no pool": Mistake("COILD_POOL: ", "a pool at least", variables={"COILD_POOL": " "}),
    "no pool in the file": Mistake(f"{IN_FILE}pools: ", "a pool at least", toml="[pools]"),
    "pool twice": Mistake(
        "--pool: ", "given twice", ("--pool", "a=10.1.0.0/24", "--pool", "a=10.2.0.0/24")
    ),
    "pool name": Mistake("--pool: ", "1 to 253 characters", ("--pool", "a/b=10.0.0.0/24")),
    "pool name of the file": Mistake(
        f"{IN_FILE}pools.a b: ", "control", toml='[pools."a\\nb"]\nsubnets = ["10.0.0.0/24"]'
    ),
    "empty subnets": Mistake(
        f"{IN_FILE}pools.a: ", "one subnet at least", toml="[pools.a]\nsubnets = []"
    ),
    "host bits": Mistake("--pool: ", "did you mean 10.0.0.0/24?", ("--pool", "a=10.0.0.1/24")),
    "host bits in the file": Mistake(
        f"{IN_FILE}pools.a: subnets: ",
        "did you mean fd00::/64?",
        toml='[pools.a]\nsubnets = ["fd00::1/64"]',
    ),
    "no subnet": Mistake("--pool: ", "write it with its length", ("--pool", "a=10.0.0.0")),
    "overlap inside a pool": Mistake(
        "--pool: ", "overlaps 10.0.0.0/16", ("--pool", "a=10.0.0.0/16,10.0.9.0/24")
    ),
    "overlap across pools": Mistake(
        f"{IN_FILE}pools.b: subnets: ",
        "overlaps fd00:1::/64",
        toml='[pools.a]\nsubnets = ["fd00:1::/64"]\n[pools.b]\nsubnets = ["fd00::/16"]',
    ),
    "same subnet twice": Mistake("--pool: ", "overlaps", ("--pool", "a=10.1.0.0/24,10.1.0.0/24")),
    "block larger than its subnet": Mistake(
        "--block-size: ", "at most 2", ("--pool", "a=10.0.0.0/30", "--block-size", "3")
    ),
    "default block larger than its subnet": Mistake(
        "block-size: ", "at most 2", ("--pool", "a=10.0.0.0/30")
    ),
    "block larger than the embedded subnet": Mistake(
        "COILD_BLOCK_SIZE: ", "at most 16", variables={"COILD_BLOCK_SIZE": "17"}
    ),
    "block larger than its subnet in the file": Mistake(
        f"{IN_FILE}pools.a: block-size: ",
        "at most 6",
        toml='[pools.a]\nsubnets = ["10.0.0.0/8", "fd00::/122"]\nblock-size = 7',
    ),
    "block size": Mistake("--block-size: ", "from 0 to 20", ("--block-size", "21")),
    "negative block size": Mistake("--block-size: ", "from 0 to 20", ("--block-size=-1",)),
    "block size in words": Mistake("--block-size: ", "exponent", ("--block-size", "five")),
    "block size of the file": Mistake(
        f"{IN_FILE}pools.a: block-size: ",
        "from 0 to 20",
        toml='[pools.a]\nsubnets = ["10.0.0.0/8"]\nblock-size = -1',
    ),
    "block size for the file's pools": Mistake(
        "--block-size: ",
        "write block-size there",
        ("--block-size", "4"),
        toml='[pools.a]\nsubnets = ["10.0.0.0/8"]',
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=list(MISTAKES))
def test_a_mistake_is_one_line_that_names_the_key(coild: CommandLine, mistake: Mistake) -> None:
    """Each mistake ends coild with status 2 and one line: the key, and what is allowed."""
    result = coild.check(*mistake.flags, toml=mistake.toml, **mistake.variables)

    assert (2, "") == (result.status, result.out)
    assert ["coild: "] == re.findall(r"^coild: ", result.err)
    assert 1 == len(result.err.splitlines())
    assert result.err.endswith("\n")
    assert mistake.key in result.err
    assert mistake.allowed in result.err


@pytest.mark.parametrize(
    "flags",
    [
        ("--pool", "a=10.0.0.0/30,fd00::/126", "--block-size", "2"),
        ("--pool", "a=10.0.0.0/32", "--block-size", "0"),
        ("--pool", "a=10.0.0.0/12", "--block-size", "20"),
        ("--pool", "a=10.0.0.0/25,10.0.0.128/25"),
        ("--scan-interval", "1s", "--reuse-after", "0"),
        ("--http", ":80", "--allow-remote"),
        ("--segment-size", str(SEGMENT_SIZE_MIN)),
        ("--segment-size", str(SEGMENT_SIZE_MAX)),
    ],
)
def test_what_is_just_allowed_is_accepted(coild: CommandLine, flags: tuple[str, ...]) -> None:
    """A block as large as its subnet, neighbours, bounds of durations and sizes: no mistakes."""
    assert coild.check(*flags).effective


def test_a_real_process_says_so_too(tmp_path: Path) -> None:
    """The installed command ends with status 2 and the same line, and touches no data directory."""
    data_dir = tmp_path / "data"
    result = daemon_kit.run("--data-dir", str(data_dir), COILD_SCAN_INTERVAL="soon")

    assert (2, "") == (result.returncode, result.stdout)
    assert (
        "coild: COILD_SCAN_INTERVAL: 'soon' is no duration: write it like 30s, 10m or 1h30m\n"
    ) == result.stderr
    assert not data_dir.exists()


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    """A port of another process ends coild with status 1, and the last line names the key."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = "{}:{}".format(*taken.getsockname())
        result = daemon_kit.run("--data-dir", str(tmp_path / "data"), "--http", address)
    lines = [line for line in result.stderr.splitlines() if line.startswith("coild: ")]

    assert (1, "") == (result.returncode, result.stdout)
    assert (
        f"coild: http: {address} is taken by another process; choose another with --http HOST:PORT "
        "(port 0 picks a free one)"
    ) == "\n".join(lines)
    assert "Traceback" not in result.stderr


def reread(config: Config, file: Path) -> Config:
    """What the printed configuration means as a file."""
    file.write_text(config.as_toml())
    return load(Settings(), file, {})


NAMES = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/"), min_size=1)
POOLS = st.dictionaries(NAMES.filter(lambda name: len(name) <= 253), st.integers(0, 8), max_size=4)


@settings(max_examples=60)
@given(
    node_name=NAMES.filter(lambda name: len(name) <= 253),
    sizes=POOLS,
    reuse_after=st.integers(0, 10**15),
    segment_pages=st.integers(256, 1 << 18),
    socket_name=st.none() | st.just("s"),
    allow_remote=st.booleans(),
    log_format=st.sampled_from(["plain", "json"]),
    export_routes=st.sampled_from(["auto", "always", "never"]),
    after_reboot=st.sampled_from(["release", "keep"]),
)
def test_the_printed_configuration_means_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    node_name: str,
    sizes: dict[str, int],
    reuse_after: int,
    segment_pages: int,
    socket_name: str | None,
    log_format: str,
    export_routes: str,
    after_reboot: str,
    *,
    allow_remote: bool,
) -> None:
    """What --check-config prints is a file that yields exactly the same configuration."""
    directory = tmp_path_factory.getbasetemp()
    made: dict[str, Pool] = {
        name: pool(size, f"10.{number}.0.0/16", f"fd00:{number}::/64")
        for number, (name, size) in enumerate(sizes.items())
    }
    config = Config(
        http=(
            (Endpoint("::", 0), Endpoint("localhost", 1))
            if allow_remote
            else (Endpoint("127.0.0.1", 0),)
        ),
        socket=directory / socket_name if socket_name else None,
        allow_remote=allow_remote,
        allowed_hosts=("a.example", "::1"),
        max_connections=segment_pages,
        data_dir=directory / "data",
        segment_size=segment_pages * 4096,
        compact_after=segment_pages << 10,
        node_name=node_name,
        pools=made or {"default": pool(0, "10.0.0.0/32")},
        scan_interval=10**9 + reuse_after,
        reuse_after=reuse_after,
        export_routes=export_routes,
        table_id=segment_pages,
        protocol_id=5 + segment_pages % 251,
        after_reboot=after_reboot,
        log_level="info",
        log_format=log_format,
        embedded=False,
    )

    assert config == reread(config, directory / "reread.toml")


def test_the_printed_default_means_the_same(tmp_path: Path) -> None:
    """As a file, the embedded default is what it was, but that somebody configured it."""
    config = load(Settings(), None, {"XDG_STATE_HOME": str(tmp_path)})
    again = reread(config, tmp_path / "coild.toml")

    assert not again.embedded
    assert config.as_toml() == again.as_toml()


def test_help_mentions_every_key(coild: CommandLine) -> None:
    """Every setting is a flag, and --help has it; the file's pools are shown as an example."""
    result = coild("--help")
    negations = {"--no-export-routes", "--no-reserve-edges"}
    shown = set(re.findall(r"--[a-z-]+", result.out)) - negations
    flags = {f"--{kebab(field)}" for field in Settings.__struct_fields__ if field != "pools"}

    assert (0, "") == (result.status, result.err)
    others = {"--config", "--check-config", "--print-completion", "--version", "--help"}
    assert flags | others == shown
    assert "[pools.default]" in result.out
    assert "COILD_" in result.out
    assert "examples:" in result.out


def test_version_is_the_packages(coild: CommandLine) -> None:
    """--version prints name and version, and ends."""
    assert (0, f"coild {__version__}\n", "") == coild("--version")


@pytest.mark.parametrize(
    ("text", "endpoint", "loopback"),
    [
        ("127.0.0.1:9383", Endpoint("127.0.0.1", 9383), True),
        ("localhost:0", Endpoint("localhost", 0), True),
        ("localhost", Endpoint("localhost", 9383), True),
        ("127.0.0.1", Endpoint("127.0.0.1", 9383), True),
        ("[::1]", Endpoint("::1", 9383), True),
        ("[::1]:80", Endpoint("::1", 80), True),
        ("127.9.9.9:80", Endpoint("127.9.9.9", 80), True),
        ("10.0.0.1:80", Endpoint("10.0.0.1", 80), False),
        ("[::]:80", Endpoint("::", 80), False),
        (":80", Endpoint("", 80), False),
    ],
)
def test_endpoints_know_who_can_reach_them(
    text: str, endpoint: Endpoint, *, loopback: bool
) -> None:
    """An address to listen on is loopback's exactly if only this machine can reach it."""
    assert endpoint == Endpoint.parse(text)
    assert loopback == endpoint.is_loopback
    assert endpoint == Endpoint.parse(str(endpoint))
