"""Journals of every vocabulary there ever was are read by this version."""

# expected == actual

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from coild.rules.events import SCHEMA, AttachmentAllocated, DaemonStarted, Event
from coild.rules.projection import Projection
from coild.vocabulary import VOCABULARY
from journal import Journal
from journal.check.verify import verify
from journal.format.chain import walk
from journal.format.codec import SEGMENT_HEADER_BYTES, decode_header, encode_frame
from journal.format.scan import list_decoder
from journal.format.segments import list_history
from journal.fs import OsFileSystem
from journal.read.reader import Reader, read_events
from journal.read.tail import read_head
from tests.kits.daemon.process import ROOT, Daemon, ended
from tests.kits.journal.building import patched
from tests.kits.journal.history import ask
from tests.kits.journal.keep import keep

OLD = sorted(path.name for path in (ROOT / "tests" / "old_journals").iterdir() if path.is_dir())


@pytest.fixture(params=OLD)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A copy of an old journal's data directory, and what is to be found in it."""
    source = ROOT / "tests" / "old_journals" / request.param
    shutil.copytree(source, tmp_path / "data")
    expected: dict[str, Any] = json.loads((source / "expected.json").read_text())
    return tmp_path / "data", expected


def vouch(directory: Path) -> None:
    """Add the mark that a writer puts behind its last event, if this one was ended before that."""
    file, found = read_head(OsFileSystem(), directory, SCHEMA)
    data = file.path.read_bytes()
    mark, _ = encode_frame(
        (),
        seed=decode_header(data, SCHEMA).seed,
        offset=found.offset,
        first_sequence=found.next_sequence,
        time=found.time,
        previous_digest=found.digest,
    )
    if not found.marked:
        file.path.write_bytes(patched(data, found.offset, mark))


def last_header(directory: Path) -> tuple[int, bytes, bytes]:
    """Schema, journal ID and segment ID of the segment that is being written."""
    file = list_history(OsFileSystem(), directory)[-1]
    header = decode_header(file.path.read_bytes()[:SEGMENT_HEADER_BYTES], SCHEMA)
    return header.schema, header.journal_id, header.segment_id


def status_of(state: Projection) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Blocks and pods as the fixture has them."""
    blocks: dict[str, list[str]] = {}
    for block in state.blocks.values():
        blocks.setdefault(block.pool, []).append(str(block.subnet))
    return blocks, {name: held.address for name, held in state.holdings.items()}


def test_there_are_old_journals() -> None:
    """One of each vocabulary is kept for ever, today's included."""
    assert [f"schema-{schema}" for schema in range(1, SCHEMA + 1)] == OLD, (
        "keep a run's journal that has the new event: python -m tests.kits.journal.keep DATA_DIR"
    )


@pytest.mark.parametrize("name", OLD[-1:])
def test_a_journal_is_kept_with_what_is_to_be_found_in_it(name: str, tmp_path: Path) -> None:
    """What `tests.kits.journal.keep` makes of the newest is what is kept, but for the lock."""
    kept = ROOT / "tests" / "old_journals" / name
    shutil.copytree(kept, tmp_path / "data")
    (tmp_path / "data" / "journal" / "LOCK").touch()
    keep(tmp_path / "data", tmp_path / "kept")
    files = [
        {path.relative_to(of): path.read_bytes() for path in of.rglob("*") if path.is_file()}
        for of in (kept / "journal", tmp_path / "kept" / "journal")
    ]

    assert files[0] == files[1]
    assert json.loads((kept / "expected.json").read_text()) == json.loads(
        (tmp_path / "kept" / "expected.json").read_text()
    )


@pytest.mark.parametrize("start", [(), ("--from", "genesis")])
def test_an_old_journal_is_replayed(
    old: tuple[Path, dict[str, Any]], start: tuple[str, ...]
) -> None:
    """`coild-replay` finds the state that it was written with, and no invariant broken."""
    data_dir, expected = old
    vouch(data_dir / "journal")
    told, check = (
        ended(
            [
                sys.executable,
                "-m",
                "tools.replay",
                "--data-dir",
                str(data_dir),
                "-o",
                "json",
                *how,
            ],
            cwd=ROOT,
        )
        for how in (start, ("--check",))
    )
    record = json.loads(told.stdout)

    assert (0, "", 0, "") == (told.returncode, told.stderr, check.returncode, check.stderr)
    assert {name: expected[name] for name in ("sequence", "address-blocks", "pods")} == {
        name: record[name] for name in ("sequence", "address-blocks", "pods")
    }


def test_an_old_journal_has_its_head(old: tuple[Path, dict[str, Any]]) -> None:
    """Every frame and every digest of the chain is what it was; full events decode, too."""
    data_dir, expected = old
    fs = OsFileSystem()
    events: list[Any] = []
    walked = walk(
        fs,
        list_history(fs, data_dir / "journal"),
        SCHEMA,
        list_decoder(Event),
        events.extend,
        verify_chain=True,
    )
    sequence, digest = walked[-1].end[:2]

    assert expected["head"] == f"{sequence}:{digest.hex()}"
    assert (expected["sequence"], expected["time"]) == (len(events), events[-1].time)


def test_an_old_journal_is_written_on(old: tuple[Path, dict[str, Any]]) -> None:
    """Opened, its last segment gets today's schema; what is appended is read behind it."""
    data_dir, expected = old
    directory = data_dir / "journal"
    state = Projection()
    before = last_header(directory)

    async def append() -> str:
        journal = Journal.open(
            directory, Event, schema=SCHEMA, replay=state.apply_all, restore=state.restore
        )
        head = journal.head
        journal.start()
        event = DaemonStarted(state.time, "later", "node-1", "boot")
        await journal.durable(journal.append(event))
        await journal.close()
        return head

    head = asyncio.run(append())
    batches = list(Reader(directory, Event, schema=SCHEMA).batches())
    everything = [event for batch in batches for event in batch.events]

    assert expected["head"] == head
    assert (expected["address-blocks"], expected["pods"]) == status_of(state)
    networks = {name: held.network for name, held in state.holdings.items() if held.network}
    assert (expected.get("boot-id", ""), expected.get("networks", {})) == (state.boot_id, networks)
    assert expected.get("init-start") == state.init_start
    assert (SCHEMA, *before[1:]) == last_header(directory)
    assert expected["sequence"] + 1 == len(everything)
    assert "later" == everything[-1].version


def test_a_daemon_on_another_boot_releases(old: tuple[Path, dict[str, Any]]) -> None:
    """Unless the journal does not say, as the older ones do not, since which boot it is."""
    data_dir, expected = old
    with Daemon(data_dir) as daemon:
        pods = daemon.status()["pods"]

    assert ({} if "boot-id" in expected else expected["pods"]) == pods


def test_history_of_an_old_journal(old: tuple[Path, dict[str, Any]]) -> None:
    """Who holds, says history as well, with an allocation that is an event of theirs."""
    data_dir, expected = old
    vouch(data_dir / "journal")
    rows = ask(data_dir / "journal", "--held")
    events = dict(read_events(data_dir / "journal", Event, schema=SCHEMA))

    assert expected["pods"] == {row["container-id"]: row["address"] for row in rows}
    for row in rows:
        event = events[row["allocated-seq"]]
        network = expected.get("networks", {}).get(event.container_id, "")
        assert row["container-id"] == event.container_id
        assert network == (event.network if isinstance(event, AttachmentAllocated) else "")


def test_a_daemon_serves_an_old_journal(old: tuple[Path, dict[str, Any]]) -> None:
    """The pods of the old daemon keep their addresses."""
    data_dir, expected = old
    # It is another boot than theirs.
    with Daemon(data_dir, "--after-reboot", "keep") as daemon:
        pods = daemon.status()["pods"]

    assert expected["pods"] == pods


def test_verify_finds_nothing_wrong_with_an_old_journal(old: tuple[Path, dict[str, Any]]) -> None:
    """Nor with the indexes that an older version made, which count no more."""
    data_dir, _ = old
    found = verify(OsFileSystem(), data_dir / "journal", VOCABULARY)

    assert ([], [], []) == (found.faults, found.altered_indexes, found.bad_indexes)
