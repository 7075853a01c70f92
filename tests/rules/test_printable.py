"""What is not seen, or moves what is, reaches no terminal and no log as it is."""

# expected == actual

from __future__ import annotations

import gc
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from coild.process.logs import JsonFormatter, PlainFormatter
from coild.rules.printable import printable, printable_json
from tests.kits.daemon.process import Daemon, command, environment
from tests.kits.journal.history import EPOCH, allocated, beginning, released, write

#: Of each kind one or more: bidi controls, format, blank letters, C0, DEL, C1, separators, astral.
HIDDEN = (
    "\u202e\u2066\u2069\u200e\u061c\u200b\u200d\ufeff\u00ad\u2060\u3164\u2800\ufe0f\u034f"
    "\x1b\x7f\x85\x9b\u2028\u2029\U000e0041\U000e0100\ue000"
)
NAME = f"web{HIDDEN}0é"
#: The API takes no controls in names; a journal may have any.
TAKEN = "".join(character for character in NAME if not "\x7f" <= character <= "\x9f")
TAKEN = TAKEN.replace("\x1b", "")


def shown(text: str) -> bool:
    """Whether nothing of what is hidden is in lines that are written."""
    return not set(text) & set(HIDDEN)


def tool(name: str, journal: Path, *arguments: str) -> str:
    """All that a tool writes."""
    done = subprocess.run(
        command("--journal", str(journal), *arguments, module=f"tools.{name}"),
        env=environment(PYTHONIOENCODING="utf-8"),
        capture_output=True,
        check=False,
        timeout=60,
    )
    return done.stdout.decode() + done.stderr.decode()


@pytest.mark.parametrize("character", [*HIDDEN, "\udcff", "\n", "\t"])
def test_what_is_hidden_is_escaped(character: str) -> None:
    """Such a character is ASCII in a line, and in JSON an escape that means the same."""
    assert printable(f"a{character}é").endswith("é")
    assert printable(f"a{character}").isascii()
    assert printable(f"a{character}").isprintable()
    document = printable_json(json.dumps(f"a{character}é", ensure_ascii=False))

    assert character not in document
    assert json.loads(document) == f"a{character}é"


def test_what_is_seen_stays() -> None:
    """Names in any script are shown as they are, and so are backslashes."""
    for text in ("web-0", "é", "日本", "שלום", "a\\b", "🙂"):
        assert printable(text) == text
        assert printable_json(text) == text


@pytest.mark.parametrize("show", [printable, printable_json])
def test_only_what_is_not_ascii_is_looked_at(show: Callable[[str], str]) -> None:
    """A long name costs no step for each of its characters, whatever is at its end."""
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    # The first use imports a codec; what others left behind is collected at any moment.
    show("\u202e")
    gc.disable()
    sys.setprofile(count)
    try:
        text = show("c" * 10_000 + "…\u202e")
    finally:
        sys.setprofile(None)
        gc.enable()

    assert text == "c" * 10_000 + "…\\u202e"
    assert calls < 100


@pytest.mark.parametrize("formatter", [PlainFormatter("%(message)s"), JsonFormatter()])
def test_no_log_line_has_it(formatter: logging.Formatter) -> None:
    """A message, a traceback's text and half a character are lines that can be shown."""
    try:
        raise ValueError(NAME)
    except ValueError:
        record = logging.LogRecord(
            "coild", logging.INFO, "", 0, "%s", (f"{NAME}\udcff",), sys.exc_info()
        )
    text = formatter.format(record)

    assert shown(text)
    assert "\udcff" not in text
    assert "ValueError" in text
    if isinstance(formatter, JsonFormatter):
        assert NAME in msgspec.json.decode(text)["message"]


@pytest.mark.parametrize("style", ["plain", "json"])
def test_a_pod_with_such_a_name(tmp_path: Path, style: str) -> None:
    """The daemon takes it; its log, the tables and the JSON of the tools show none of it raw."""
    with Daemon(tmp_path / "data", COILD_LOG_FORMAT=style, COILD_LOG_LEVEL="debug") as daemon:
        assert daemon.allocate("c1", TAKEN).status_code == 200
        assert daemon.allocate("c1", TAKEN).status_code == 409
        assert daemon.allocate("c2", TAKEN, TAKEN, **{"address-type": TAKEN}).status_code == 400
        # What no mark vouches for would not be shown.
        assert daemon.stop() == 0
    journal = tmp_path / "data" / "journal"
    # Whole only now: it is written beside the answers.
    log = daemon.log

    assert "409" in log
    assert shown(log)
    table = tool("history", journal, "--held")
    assert "\\u202e" in table
    assert shown(table)
    for arguments in (["-o", "json"], ["-o", "json", "--pod", f"default/{TAKEN}"]):
        line = tool("history", journal, *arguments)
        assert shown(line)
        assert json.loads(line)["pod-name"] == TAKEN


def test_every_view_of_the_history(tmp_path: Path) -> None:
    """States, differences, gaps and checks name such pods, pools and containers with escapes."""
    held = allocated(1, f"c{HIDDEN}", 0, pod=NAME)
    write(tmp_path / "journal", [*beginning(), held, released(2, held)])
    journal = tmp_path / "journal"
    end = len(beginning()) + 1
    for name, *arguments in (
        ("history", "10.64.0.0"),
        ("history", "10.64.0.0", "--at", f"@{EPOCH // 10**9 - 60}"),
        ("replay", "--until-seq", str(end)),
        ("replay", "--until-seq", str(end), "-o", "json"),
        ("replay", "--diff", str(end - 1), str(end)),
        ("replay", "--diff", str(end - 1), str(end), "-o", "json"),
    ):
        text = tool(name, journal, *arguments)
        assert shown(text), (name, arguments)
        assert "202e" in text, (name, arguments)


def test_a_name_of_a_directory_in_a_notice(tmp_path: Path) -> None:
    """What a tool and the daemon say of a directory has its name with escapes."""
    missing = os.fsdecode(os.fsencode(tmp_path / f"none{HIDDEN}"))
    text = tool("history", Path(missing))

    assert "\\u202e" in text
    assert shown(text)
