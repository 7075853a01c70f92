"""The command line: flags to settings, errors to one line and an exit status."""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from coild.config.config import AFTER_REBOOT, LOG_FORMATS, LOG_LEVELS, load
from coild.config.layers import ConfigError, Settings, StartError
from coild.config.parser import EXIT_FAILURE, EXIT_USAGE, Parser
from coild.process import logs, signals
from coild.process.open_files import shortage
from coild.process.threads import NO_THREAD, is_shortage
from coild.rules.limits import CONNECTIONS_MAX
from coild.rules.printable import printable
from journal import JournalCorruptError, JournalError, JournalUnsupportedError

_EPILOG = """\
Every flag is also an environment variable (--scan-interval: COILD_SCAN_INTERVAL; repeated values
are separated by spaces) and, except those of pools, a key of the TOML file (scan-interval = "10m").
Flags override the environment, which overrides the file. In the file, pools are tables:

  [pools.default]
  subnets = ["10.64.0.0/16", "fd00:64::/64"]
  block-size = 5
  gateway = ["10.64.0.1", "fd00:64::1"]
  reserve-edges = true
  reserved = ["10.64.0.8/29", "10.64.1.1", "10.64.2.5-10.64.2.9"]

examples:
  coild                                             the embedded default on 127.0.0.1:9383
  coild --pool default=10.20.0.0/16 --pool web=10.30.0.0/24,fd00:30::/112 --block-size 4
  coild --config /etc/coild.toml --check-config     print the resulting configuration
  curl -s "http://$(cat /var/lib/coild/http)/status"

exit status: 0 stopped by a signal; 1 the daemon failed, or could not start for a reason that may
pass (a port that is in use, a file that is missing or not permitted): start it again; 2 wrong
usage or configuration, which fails at each start.
"""


#: Flags of Coil v1 that have another name here, and the advice on those that coild lacks.
_RENAMED = {"loglevel": "--log-level", "logformat": "--log-format"}
_GONE = {
    "etcd-": "coild keeps its own journal and needs no etcd: leave it out",
    "logfile": "coild logs to stderr: leave it out",
}


class _Parser(Parser):
    """Errors are one line, which knows how Coil v1 wrote its flags."""

    _words: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._words = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        message = next(filter(None, map(self._hint, self._words)), message)
        sys.exit(_fail(EXIT_USAGE, f"{message}; see coild --help"))

    def _hint(self, word: str) -> str:
        """The advice on a word that is a flag of Coil v1; empty if it is not one."""
        found = re.fullmatch("(--?)([a-z][a-z-]+)(?:=.*)?", word, re.DOTALL)
        if found is None or found[0] in self._option_string_actions:
            return ""
        dashes, name = found.groups()
        for start, advice in _GONE.items():
            if name.startswith(start):
                return f"there is no {dashes}{name}: {advice}"
        flag = _RENAMED.get(name, f"--{name}")
        if flag == f"{dashes}{name}" or flag not in self._option_string_actions:
            return ""
        return f"there is no {dashes}{name}: write {flag}"


def _parser() -> Parser:
    description = "Give pods their IP addresses over REST, from a durable journal."
    parser = _Parser("coild", description, _EPILOG)
    add = parser.add_argument
    add("--config", metavar="FILE", help="TOML file to read")
    add(
        "--data-dir",
        metavar="DIR",
        help="where the journal is kept, mode 0700 (default: /var/lib/coild for root, else "
        "$XDG_STATE_HOME/coild)",
    )
    add(
        "--http",
        metavar="HOST:PORT[,HOST:PORT…]",
        help="TCP addresses to listen on; localhost is both families, port 0 picks a free one; off"
        ": no TCP, only --socket; DIR/http says where coild listens (default: 127.0.0.1:9383)",
    )
    add("--socket", metavar="PATH", help="unix socket to listen on as well, mode 0660")
    add(
        "--allowed-hosts",
        metavar="NAME[,NAME…]",
        help="names to accept in Host headers, besides those of loopback",
    )
    add(
        "--max-connections",
        metavar="N",
        help="connections at a time, on TCP and on the unix socket each; beyond that, idle ones are"
        f" closed, then new ones refused (default: {CONNECTIONS_MAX})",
    )
    add(
        "--node-name",
        metavar="NAME",
        help="name of this node; also COIL_NODE_NAME (default: the host name)",
    )
    add(
        "--block-size",
        metavar="N",
        help="exponent of the size of the blocks of the pools given by --pool: 5 means 32 addresses"
        " (default: 5)",
    )
    add(
        "--scan-interval",
        metavar="DURATION",
        help="how often to look for empty blocks, and how long a block must be empty before it is "
        "given back (default: 10m)",
    )
    add(
        "--reuse-after",
        metavar="DURATION",
        help="how long a released address is not reused while another is free (default: 30s)",
    )
    add(
        "--table-id",
        metavar="N",
        help="routing table of the kernel for a route to each block of this node (default: 119)",
    )
    add(
        "--protocol-id",
        metavar="N",
        help="protocol that marks these routes as coild's (default: 30)",
    )
    add("--segment-size", metavar="SIZE", help="size of a journal file (default: 16MiB)")
    add(
        "--compact-after",
        metavar="SIZE",
        help="journal growth that starts a compaction, which writes a snapshot and archives what it"
        " covers; 0: never (default: 64MiB)",
    )
    add(
        "--pool",
        metavar="NAME=SUBNET[,SUBNET…]",
        action="append",
        help="a pool of addresses; may be repeated (default: default=10.64.0.0/16,fd00:64::/64, "
        "with the gateways 10.64.0.1 and fd00:64::1)",
    )
    add(
        "--reserved",
        metavar="NAME=ADDRESS[,RANGE,SUBNET…]",
        action="append",
        help="addresses of that pool never to hand out, like web=10.30.0.9,10.30.0.16-10.30.0.20; "
        "may be repeated",
    )
    add(
        "--gateway",
        metavar="NAME=ADDRESS[,ADDRESS…]",
        action="append",
        help="the gateway of that pool's pods, one in each subnet, never handed out; may be "
        "repeated",
    )
    add(
        "--reserve-edges",
        action=argparse.BooleanOptionalAction,
        help="never hand out the first and the last address of an IPv4 subnet, and the first of an "
        'IPv6 subnet, of the pools given by --pool (default: only if a request has "details")',
    )
    add(
        "--allow-remote",
        action="store_true",
        default=None,
        help="allow an --http address that other machines can reach",
    )
    add(
        "--export-routes",
        action=argparse.BooleanOptionalAction,
        help="keep a route to each block of this node on lo, for BIRD or FRR to announce, and do "
        "not start without (default: if permitted; with --table-id or --protocol-id: always)",
    )
    add(
        "--after-reboot",
        choices=AFTER_REBOOT,
        help="release or keep addresses that were held before the node was booted "
        "(default: release)",
    )
    add(
        "--proc",
        metavar="DIR",
        help="the container runtime's proc file system, whose PID 1 and boot ID tell of reboots; "
        "for a coild that runs in its own container (default: /proc)",
    )
    add("--log-level", choices=LOG_LEVELS, help="(default: info)")
    add("--log-format", choices=LOG_FORMATS, help="(default: plain)")
    add(
        "--check-config",
        action="store_true",
        help="validate the configuration, print it as TOML, and exit",
    )
    return parser


def _settings(arguments: dict[str, Any]) -> Settings:
    if arguments["allowed_hosts"] is not None:
        arguments["allowed_hosts"] = arguments["allowed_hosts"].split(",")
    return Settings(
        **{key: arguments[key] for key in Settings.__struct_fields__ if key in arguments}
    )


def main(argv: Sequence[str] | None = None) -> int:  # noqa: PLR0911 - one for each way to end
    """Run `coild`; the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Help and configuration may hold what an old locale cannot show.
        sys.stdout.reconfigure(errors="replace")
    parser = _parser()
    try:
        arguments = vars(parser.parse_args(argv))
    except OSError as error:
        return _fail(EXIT_FAILURE, f"cannot write to stdout: {error.strerror}")
    file = arguments["config"] or os.environ.get("COILD_CONFIG")
    try:
        config = load(_settings(arguments), Path(file) if file else None, os.environ)
        if arguments["check_config"]:
            return _show(config.as_toml())
        if reason := shortage():
            return _fail(EXIT_FAILURE, reason)
        logs.configure(config.log_level, config.log_format)
        signals.configure()
        # Not at the top: Sanic takes a quarter of a second to import, --help should not.
        from coild.daemon import run  # noqa: PLC0415

        return run(config)
    except ConfigError as error:
        return _fail(EXIT_USAGE, str(error))
    except (JournalCorruptError, JournalUnsupportedError) as error:
        return _fail(EXIT_FAILURE, f"{error}; run: coild-verify --data-dir {config.data_dir}")
    except (JournalError, StartError, MemoryError) as error:
        # The last has no words of its own.
        return _fail(EXIT_FAILURE, str(error) or "there is not enough memory to start")
    except RuntimeError as error:
        if not is_shortage(error):
            raise
        return _fail(EXIT_FAILURE, NO_THREAD)


def _show(text: str) -> int:
    if sys.stdout is None:
        return _fail(EXIT_FAILURE, "cannot write to stdout: it was closed")
    try:
        print(text, end="", flush=True)  # noqa: T201
    except OSError as error:
        return _fail(EXIT_FAILURE, f"cannot write to stdout: {error.strerror}")
    return 0


def _fail(status: int, text: str) -> int:
    # A caller that closed stderr, or does not read it, still gets the status.
    logs.last_word(f"coild: {printable(text)}")
    return status
