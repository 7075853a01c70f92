"""What all tools share, as a shell sees it."""

from __future__ import annotations

import importlib
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.kits.daemon.process import ROOT, ended
from tests.kits.journal.history import allocated, beginning, write
from tests.kits.system.tool import TOOLS, run_here

OLD = ROOT / "tests/old_journals/schema-2/journal"
#: What each is asked for.
ASKED = {
    "history": ("10.64.0.1",),
    "replay": (),
    "verify": (),
    "compact": ("--dry-run",),
    "repair": ("--truncate-tail",),
}


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """Run a line of the shell; `tool NAME` is a tool of this checkout."""
    line = line.replace("tool ", f"{sys.executable} -W error -m tools.")
    return ended(["/bin/sh", "-c", line], cwd=ROOT)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A copy of a journal with snapshots, archive and indexes."""
    return Path(shutil.copytree(OLD, tmp_path / "journal"))


def test_every_tool_is_tried() -> None:
    """A command of pyproject.toml is asked for something by the tests below."""
    assert ASKED.keys() == TOOLS.keys(), "say in ASKED what to ask it for"


@pytest.mark.parametrize("tool", ASKED)
def test_a_closed_stream_is_no_error(journal: Path, tool: str) -> None:
    """A wrapper may close what it does not need: the rest comes out as ever."""
    line = f"tool {tool} --journal {journal} {' '.join(ASKED[tool])}"
    expected = shell(line)

    assert expected.stdout, f"python -m tools.{tool} says nothing: does it call its main?"
    for closed in ("<&-", ">&-", "2>&-"):
        done = shell(f"{line} {closed}")

        assert expected.returncode == done.returncode
        assert ("" if closed == ">&-" else expected.stdout) == done.stdout
        assert "Traceback" not in done.stderr


def test_a_difference_since_a_while_ago(journal: Path) -> None:
    """Both values of --diff may begin with a minus."""
    assert (0, "") == (
        (done := shell(f"tool replay --journal {journal} --diff -2h -1s")).returncode,
        done.stderr,
    )


def test_the_next_command_names_the_journal(journal: Path) -> None:
    """Also when it is a file of the archive that is damaged."""
    (journal / "archive/00000000000000000119.seg.zst").unlink()

    done = shell(f"tool history --journal {journal} 10.64.0.1")

    assert done.returncode == 1
    assert done.stderr.rstrip().endswith(f"run: coild-verify --journal {journal}")


def test_an_empty_directory_name_is_refused() -> None:
    """It would mean the directory that one happens to be in."""
    done = shell("tool verify --journal ''")

    assert done.returncode == 2
    assert "empty" in done.stderr


ARGUMENTS = ("", "--print-completion bash", "--help", "--version", "--nonsense")
CLOSED = (">/dev/full", "2>/dev/full", ">&-", "2>&-", "<&-")
#: Each stream with all arguments and with each tool, each tool with all arguments: a Latin square
#: of the 125. And of what each tool writes, all on a full disk.
STREAMS = [
    case
    for case in itertools.product(ASKED, CLOSED, ARGUMENTS)
    if sum(map(tuple.index, (tuple(ASKED), CLOSED, ARGUMENTS), case)) % 5 == 0
    or (case[1] == CLOSED[0] and case[2] in ARGUMENTS[:2])
]


@pytest.mark.parametrize(("tool", "closed", "arguments"), STREAMS)
def test_no_output_is_no_traceback(journal: Path, tool: str, closed: str, arguments: str) -> None:
    """Whatever is asked, and whichever stream is full or closed."""
    # Without the warning that what stands in for a closed stream is never closed itself.
    line = f"{sys.executable} -m tools.{tool} --journal {journal} {' '.join(ASKED[tool])}"
    done = shell(f"{line} {arguments} {closed}")

    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert done.stderr.count("\n") <= 1
    if closed == ">/dev/full" and arguments in {"", "--print-completion bash"}:
        assert done.returncode == (3 if tool == "verify" else 1)
        assert "No space left on device" in done.stderr


@pytest.mark.parametrize("flag", ["--container", "--pod", "--pool"])
def test_a_name_that_is_no_utf8_is_refused(journal: Path, flag: str) -> None:
    """Nothing can have such a name: one line, and not a traceback."""
    done = shell(f"tool history --journal {journal} {flag} \"$(printf 'd/\\377')\"")

    assert (2, "", 1) == (done.returncode, done.stdout, done.stderr.count("\n"))
    assert "is no UTF-8" in done.stderr


def test_a_path_that_is_no_utf8_can_be_told(journal: Path) -> None:
    """Its odd bytes are escaped, in valid JSON and in text."""
    place = journal.with_name(os.fsdecode(b"x\xffy"))
    journal.rename(place)
    victim = min(place.glob("*.seg"))
    data = bytearray(victim.read_bytes())
    data[4200] ^= 1
    victim.write_bytes(data)
    name = "'" + str(place) + "'"
    as_json = shell(f"tool verify --journal {name} -o json")
    fault = msgspec.json.decode(as_json.stdout.splitlines()[0])
    repaired = shell(f"tool repair --truncate-tail --journal {name}")

    assert fault["file"].endswith(rf"x\xffy/{victim.name}")
    assert "Traceback" not in as_json.stderr + repaired.stderr
    assert rf"x\udcffy/{victim.name}" in repaired.stdout


@pytest.mark.parametrize("kind", ["fifo", "device"])
@pytest.mark.parametrize("victim", ["*.seg", "*.snap", "archive/*.zst", "archive/*.idx"])
def test_what_is_no_file_keeps_nobody_waiting(journal: Path, victim: str, kind: str) -> None:
    """Each tool answers or says in a line what the matter is."""
    path = min(journal.glob(victim))
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(os.devnull)
    for tool, arguments in ASKED.items():
        main = importlib.import_module(TOOLS[tool]).main
        done = run_here(main, "--journal", str(journal), *arguments)

        assert "Traceback" not in done.stderr
        assert done.returncode == 0 or "not a regular file" in done.stderr, done


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_json_is_json_in_any_locale(directory: Path, encoding: str) -> None:
    """What the locale cannot write is escaped as JSON does."""
    event = allocated(0, "pödß-λ", 0)
    write(directory, [*beginning(), event])
    line = f"PYTHONIOENCODING={encoding} tool history --journal {directory}"
    done = shell(f"{line} -o json")
    text = shell(f"{line} | wc -l")

    assert event.container_id == msgspec.json.decode(done.stdout)["container-id"]
    assert (0, "2") == (text.returncode, text.stdout.strip())


def test_an_anchor_is_written_with_ascii_digits(journal: Path) -> None:
    """No other digits are taken for the same number."""
    done = shell(f"tool verify --journal {journal} --anchor \uff14:{'0' * 32}")

    assert done.returncode == 3
    assert "is no head" in done.stderr
