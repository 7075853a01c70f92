"""The plugin's command line, used without CNI_COMMAND: help, version, installation."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path

from coild.config.parser import EXIT_FAILURE, EXIT_USAGE, Parser
from tools.cni.errors import notice
from tools.cni.install import DIRECTORY, NAME, InstallError, default_python, install

_EPILOG = """\
A container runtime starts this program with CNI_COMMAND (ADD, DEL, CHECK, GC, STATUS or VERSION) in
the environment and the network configuration on stdin: CNI versions 0.3.1 to 1.1.0.

keys of "ipam" in the network configuration, all optional:
  coild         unix:/path of the daemon's --socket (default: unix:/run/coild/coild.sock), or an
                address like http://127.0.0.1:9383, which any local user can use, and can serve
                in place of a coild that is down
  address-type  "ipv4" (default), "ipv6" or "dual"
  subnet        the subnet of the addresses, or a list with one per family: the result has its
                prefix length, and no pod gets its first or last address (default: the subnet of
                coild's pool)
  gateway       an address, or a list with one per family, that no pod gets (default: that of
                coild's pool; if it has none, fe80::1, and an IPv4 address that the plugin allocates
                once for the node; with a subnet: none)
  routes        [{"dst": "0.0.0.0/0", "gw": "..."}] (default: default routes; with a subnet: none)
  resolvConf    a file like /etc/resolv.conf, for the result's dns
  timeout       the seconds that a run may take (default: 10; 0.1 to 300)
  spool         where releases are kept while coild is down (default: /var/lib/coild/spool)
ADD refuses other keys, and options that it does not support: IP= in CNI_ARGS, "ips", "ipRanges" and
"dns" of runtimeConfig, "ips" of args.cni. coild chooses the address. DEL releases it whatever CNI
version the configuration has by then.

examples:
  coild-ipam --install                      into /opt/cni/bin; prints a configuration to start from
  coild-ipam --install > 10-coild.conflist && mv 10-coild.conflist /etc/cni/net.d/
  coild-ipam --install /host/opt/cni/bin --python /usr/bin/python3 --unchecked
"""

#: Usable as it is.
_CONFLIST = {
    "cniVersion": "1.0.0",
    "name": "pods",
    "plugins": [
        {"type": "ptp", "ipam": {"type": NAME, "coild": "unix:/run/coild/coild.sock"}},
    ],
}


def talk() -> int:
    """Carry out the command line; the exit status."""
    try:
        status = _run(_parser())
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        # What is in the buffer cannot be written: Python would report it when it exits.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return _fail(f"stdout: {error.strerror}", EXIT_FAILURE)
    return status


def _run(parser: Parser) -> int:
    try:
        arguments = parser.parse_args()
        if arguments.install is None:
            parser.error("nothing to do: a container runtime runs this, or use --install")
    except SystemExit as end:
        return int(end.code or 0)
    return _install(arguments.install, arguments.python, unchecked=arguments.unchecked)


def _parser() -> Parser:
    description = "Give containers their addresses from coild: a CNI IPAM plugin."
    parser = Parser(NAME, description, _EPILOG)
    parser.add_argument(
        "--install",
        metavar="DIR",
        nargs="?",
        const=str(DIRECTORY),
        help=f"put the executable {NAME} and its library into DIR (default: {DIRECTORY}), and print"
        " a configuration to start from",
    )
    parser.add_argument(
        "--python",
        metavar="PATH",
        help="with --install: the interpreter that runs it, Python 3.9 or newer, as the node knows"
        f" it (default: {default_python()})",
    )
    parser.add_argument(
        "--unchecked",
        action="store_true",
        help="with --python: do not run it to check it, because it is only on the node",
    )
    return parser


def _install(directory: str, python: str | None, *, unchecked: bool) -> int:
    if not directory:
        return _fail("an empty directory name is none; see coild-ipam --help", EXIT_USAGE)
    # As the executable finds its library: by its own absolute path.
    try:
        where = Path(os.path.abspath(directory))  # noqa: PTH100 - no link is followed
        chosen = default_python() if python is None else python
        _, notices = install(where, chosen, unchecked=unchecked)
    except InstallError as error:
        return _fail(f"cannot install: {error}", EXIT_FAILURE)
    except FileNotFoundError:
        # Of `abspath`: all others are told as InstallError.
        return _fail("the current directory was removed: name the whole path", EXIT_FAILURE)
    for text in notices:
        notice(text)
    if sys.stdout is None:
        return _fail("stdout: it was closed", EXIT_FAILURE)
    sys.stdout.write(json.dumps(_CONFLIST, indent=2) + "\n")
    return 0


def _fail(text: str, status: int) -> int:
    notice(text)
    return status
