"""What a crash leaves of the simulated disk: nothing that was flushed is lost, all else may be."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.crash.simulated.disk import SimulatedDisk
from tests.crash.simulated.fates import SECTOR_BYTES, Bounds
from tests.crash.simulated.inodes import File, Tree, Write
from tests.crash.simulated.states import State, states

#: Bytes that are like no other.
OLD, NEW = (random.Random(seed).randbytes(20 * SECTOR_BYTES) for seed in (2, 3))  # noqa: S311
ALL = Bounds()
FEW = Bounds(fates_max=9, names_max=4, product_max=16, samples=4)
PATH = Path("/file")


@pytest.fixture
def disk() -> SimulatedDisk:
    """A disk with a durable file of two sectors."""
    return SimulatedDisk.holding({"file": OLD[: 2 * SECTOR_BYTES]})


def crashes(disk: SimulatedDisk, bounds: Bounds = ALL) -> list[State]:
    """All that a crash leaves."""
    return list(states(disk, random.Random(1), bounds))  # noqa: S311


def power_cuts(disk: SimulatedDisk, bounds: Bounds = ALL) -> list[Tree]:
    """All that a power cut leaves."""
    return [
        state.disk.tree()
        for state in crashes(disk, bounds)
        if not state.choice.startswith("killed")
    ]


def written(disk: SimulatedDisk, data: bytes, offset: int = 0, path: Path = PATH) -> int:
    """Write to a file; its descriptor."""
    fd = disk.open(path, write=True, create=True)
    disk.write(fd, data, offset)
    return fd


def contents(disk: SimulatedDisk, name: str = "file") -> list[bytes]:
    """All contents of a file that a power cut leaves."""
    found = [tree[name] for tree in power_cuts(disk)]
    return [data for data in found if isinstance(data, bytes)]


def test_nothing_is_left_to_chance_when_all_is_flushed(disk: SimulatedDisk) -> None:
    """With everything flushed every crash leaves the same."""
    disk.sync(written(disk, b"b", 5))

    assert {"file": OLD[:5] + b"b" + OLD[6 : 2 * SECTOR_BYTES]} == disk.tree()
    assert {disk.tree()["file"]} == {state.disk.tree()["file"] for state in crashes(disk)}


def test_a_write_is_kept_lost_or_garbage(disk: SimulatedDisk) -> None:
    """A write within a sector leaves three disks, and touches no byte beside it."""
    written(disk, NEW[:4], 8)
    found = contents(disk)

    assert 3 == len(found)
    assert {OLD[:8]} == {data[:8] for data in found}
    assert {OLD[12 : 2 * SECTOR_BYTES]} == {data[12:] for data in found}
    assert {NEW[:4], OLD[8:12]} < {data[8:12] for data in found}


def test_sectors_have_fates_of_their_own(disk: SimulatedDisk) -> None:
    """A write over the border of two sectors leaves nine disks: either part may be lost alone."""
    start = SECTOR_BYTES - 2
    written(disk, NEW[:4], start)
    parts = {data[start : start + 4] for data in contents(disk)}
    old = OLD[start : start + 4]

    assert 9 == len(parts)
    assert {NEW[:4], NEW[:2] + old[2:], old[:2] + NEW[2:4], old} <= parts


def test_a_long_write_is_cut_everywhere(disk: SimulatedDisk) -> None:
    """Of a write of many sectors there are all beginnings, all single holes and survivors."""
    disk.sync(written(disk, OLD))
    written(disk, NEW)
    patterns = set(map(pattern, contents(disk)))
    count = len(OLD) // SECTOR_BYTES

    assert {"k" * kept + "l" * (count - kept) for kept in range(count + 1)} <= patterns
    assert {"k" * at + "l" + "k" * (count - at - 1) for at in range(count)} <= patterns
    assert {"k" * at + "g" + "k" * (count - at - 1) for at in range(count)} <= patterns
    assert {"l" * at + "k" + "l" * (count - at - 1) for at in range(count)} <= patterns


def pattern(data: bytes) -> str:
    """For each sector whether it is kept, lost or garbage."""
    fates = ""
    for start in range(0, len(data), SECTOR_BYTES):
        at = slice(start, start + SECTOR_BYTES)
        fates += "k" if data[at] == NEW[at] else "l" if data[at] == OLD[at] else "g"
    return fates


def test_a_file_that_grew_may_have_any_length(disk: SimulatedDisk) -> None:
    """Of an append the length may be lost, or be there with zeros in the place of the data."""
    written(disk, b"b" * SECTOR_BYTES, 2 * SECTOR_BYTES)
    found = contents(disk)
    old = OLD[: 2 * SECTOR_BYTES]

    assert {2 * SECTOR_BYTES, 3 * SECTOR_BYTES} < set(map(len, found))
    assert old in found
    assert old + bytes(SECTOR_BYTES) in found
    assert old + b"b" * SECTOR_BYTES in found


def test_a_file_that_was_made_empty_may_have_its_content_still(disk: SimulatedDisk) -> None:
    """`create` over a file is undone by a crash until the file is flushed."""
    fd = disk.create(PATH)
    before = contents(disk)
    disk.sync(fd)
    after = contents(disk)

    assert {b"", OLD[: 2 * SECTOR_BYTES]} <= set(before)
    assert [b""] == after


def test_the_flush_of_a_file_does_not_keep_its_name(disk: SimulatedDisk) -> None:
    """A new file is there after a crash for sure only when its directory was flushed."""
    disk.sync(written(disk, b"b", path=Path("/new")))
    old = {"file": OLD[: 2 * SECTOR_BYTES]}

    assert [old | {"new": b"b"}, old] == power_cuts(disk)
    disk.sync_directory(Path("/"))
    assert [old | {"new": b"b"}] == power_cuts(disk)


def test_the_flush_of_a_directory_does_not_keep_the_content(disk: SimulatedDisk) -> None:
    """A new file that was not flushed may be empty."""
    written(disk, b"b", path=Path("/new"))
    disk.sync_directory(Path("/"))
    found = contents(disk, "new")

    assert {b"b", b"", b"\0"} <= set(found)


def test_names_change_in_any_order(disk: SimulatedDisk) -> None:
    """Until the directory is flushed any of its changes may be lost alone; a rename is one."""
    disk.rename(PATH, Path("/moved"))
    disk.close(disk.create(Path("/new")))
    found = [set(tree) for tree in power_cuts(disk)]

    assert [{"moved", "new"}, {"moved"}, {"file", "new"}, {"file"}] == found


def test_a_rename_over_a_file_leaves_one_of_the_two(disk: SimulatedDisk) -> None:
    """The name has the old content or the new, never none."""
    disk.sync(written(disk, b"b", path=Path("/new")))
    disk.sync_directory(Path("/"))
    disk.rename(Path("/new"), PATH)

    old = OLD[: 2 * SECTOR_BYTES]
    assert [{"file": b"b"}, {"file": old, "new": b"b"}] == power_cuts(disk)


def test_a_removed_file_may_come_back(disk: SimulatedDisk) -> None:
    """A name is gone for sure only when its directory was flushed."""
    before = disk.tree()
    disk.remove(PATH)

    assert [{}, before] == power_cuts(disk)
    disk.sync_directory(Path("/"))
    assert [{}] == power_cuts(disk)


def test_what_is_in_a_directory_that_was_lost_is_lost(disk: SimulatedDisk) -> None:
    """A new directory needs the flush of the one above it, however often it was flushed itself."""
    disk.make_directory(Path("/new"))
    disk.sync(written(disk, b"b", path=Path("/new/inside")))
    disk.sync_directory(Path("/new"))
    disk.remove(PATH)
    disk.sync_directory(Path("/new"))

    assert {} in power_cuts(disk)
    disk.sync_directory(Path("/"))
    assert [{"new": {"inside": b"b"}}] == power_cuts(disk)


def test_a_killed_process_leaves_all_that_it_wrote(disk: SimulatedDisk) -> None:
    """After `kill -9` everything is seen, and what was not flushed can still be lost."""
    fd = written(disk, b"b" * SECTOR_BYTES * 2)
    assert disk.lock(fd)
    killed = [state.disk for state in crashes(disk) if state.choice.startswith("killed")]

    assert disk.tree() == killed[0].tree()
    assert {"file": OLD[: 2 * SECTOR_BYTES]} == killed[0].durable_tree()
    # In the middle of the write.
    assert {"file": b"b" * SECTOR_BYTES + OLD[SECTOR_BYTES : 2 * SECTOR_BYTES]} == killed[1].tree()
    again = killed[0].open(PATH)
    assert killed[0].lock(again)


def test_disks_are_independent(disk: SimulatedDisk) -> None:
    """What happens to a disk that a crash left happens to no other."""
    written(disk, b"b")
    before = disk.tree()
    for state in crashes(disk):
        written(state.disk, b"changed")
        state.disk.remove(PATH)

    assert before == disk.tree()


def test_each_disk_comes_once(disk: SimulatedDisk) -> None:
    """Equal disks have equal digests, and are not made twice."""
    written(disk, b"b" * 3 * SECTOR_BYTES)
    disk.close(disk.create(Path("/new")))
    disk.rename(Path("/new"), Path("/moved"))
    digests = [state.digest for state in crashes(disk)]

    assert len(set(digests)) == len(digests)


NAMES = ("one", "two", "spare.tmp")


@st.composite
def histories(draw: st.DrawFn) -> SimulatedDisk:
    """A disk after some calls."""
    disk = SimulatedDisk()
    for _ in range(draw(st.integers(1, 12))):
        path = Path("/") / draw(st.sampled_from(NAMES))
        call = draw(
            st.sampled_from(["create", "write", "write", "sync", "rename", "remove", "names"])
        )
        if call == "create":
            disk.close(disk.create(path))
        elif call == "names":
            disk.sync_directory(Path("/"))
        elif path.name in disk.root.live:
            if call == "rename":
                disk.rename(path, Path("/") / draw(st.sampled_from(NAMES)))
            elif call == "remove":
                disk.remove(path)
            else:
                fd = disk.open(path, write=True)
                if call == "sync":
                    disk.sync(fd)
                else:
                    data = draw(st.integers(1, 255)).to_bytes(1, "big")
                    size = draw(st.integers(1, 3 * SECTOR_BYTES))
                    disk.write(fd, data * size, draw(st.integers(0, 2 * SECTOR_BYTES)))
                disk.close(fd)
    return disk


def test_both_ends_are_among_the_disks() -> None:
    """Nothing lost and everything lost are always possible."""

    @settings(max_examples=100, deadline=None)
    @given(histories())
    def check(disk: SimulatedDisk) -> None:
        found = power_cuts(disk, FEW)

        assert disk.tree() in found
        assert disk.durable_tree() in found

    check()


def test_bytes_that_were_not_written_since_the_flush_are_as_they_were() -> None:
    """Whatever a crash leaves of a file differs from what was flushed only where it was written."""

    @settings(max_examples=100, deadline=None)
    @given(histories())
    def check(disk: SimulatedDisk) -> None:
        disk.sync_directory(Path("/"))
        for name, node in disk.root.live.items():
            assert isinstance(node, File)
            touched = {
                at
                for change in node.pending
                if isinstance(change, Write)
                for at in range(change.offset, change.offset + len(change.data))
            }
            for tree in power_cuts(disk, FEW):
                data = tree[name]
                assert isinstance(data, bytes)
                assert all(
                    data[at] in {0, node.durable[at : at + 1][0] if at < len(node.durable) else 0}
                    for at in range(len(data))
                    if at not in touched
                )

    check()
