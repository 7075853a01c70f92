"""A spool that is of no use, and entries that are none: what the plugin and the daemon do then."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kits.plugin.cni import NOBODY, Plugin, new_id, stub
from tests.kits.plugin.spool import Node, files, held, keep
from tests.kits.system.small_disks import fill, make_read_only

#: What the daemon says in its log.
DAMAGED = "a release in the spool is damaged, it was set aside: "
#: What the plugin says on stderr.
ASIDE = "a release that cannot be applied was set aside: "


def flipped(path: Path) -> None:
    """One bit of the pod's name."""
    data = bytearray(path.read_bytes())
    data[-80] ^= 1
    path.write_bytes(data)


def cut_off(path: Path) -> None:
    """The last byte."""
    path.write_bytes(path.read_bytes()[:-1])


def emptied(path: Path) -> None:
    """All of it."""
    path.write_bytes(b"")


def linked(path: Path) -> None:
    """A link to the entry, moved elsewhere."""
    path.symlink_to(path.rename(path.parent.parent / "moved"))


def a_directory(path: Path) -> None:
    """No file at all."""
    path.unlink()
    path.mkdir()


ALTERED = pytest.mark.parametrize("alter", [flipped, cut_off, emptied, linked, a_directory])


def unusable(parent: Path, kind: str) -> tuple[Path, str]:
    """A spool that nothing can be kept in, and the reason in words."""
    if kind == "full":
        (parent / "spool").mkdir()
        fill(parent)
        return parent / "spool", "No space left on device"
    if kind == "read-only":
        (parent / "spool").mkdir()
        make_read_only(parent)
        return parent / "spool", "Read-only file system"
    if kind == "file":
        (parent / "spool").touch()
        return parent / "spool", "Not a directory"
    if kind == "below a file":
        (parent / "lib").touch()
        return parent / "lib" / "spool", "Not a directory"
    (parent / "lib").symlink_to("/nonexistent")
    return parent / "lib" / "spool", "No such file or directory"


UNUSABLE = pytest.mark.parametrize("kind", ["full", "read-only", "file", "below a file", "nowhere"])


@UNUSABLE
def test_a_release_that_cannot_be_kept(alone: Plugin, disk: Path, kind: str) -> None:
    """DEL fails as one of input and output, with both reasons: the runtime does it again."""
    alone.spool, reason = unusable(disk, kind)
    before = files(alone.spool)
    outcome = alone.run("DEL", new_id())

    assert outcome.code == 5
    assert (
        f"coild was not told of the release, and it was not kept: "
        f"the spool {alone.spool}: {reason}" == outcome.answer["msg"]
    )
    assert NOBODY in outcome.answer["details"]
    assert before == files(alone.spool)


def test_what_coild_says_is_in_the_details(alone: Plugin, disk: Path) -> None:
    """If it was coild that failed, its words are the reason why the spool was needed."""
    alone.spool, _ = unusable(disk, "full")
    with stub(lambda *_: (500, {"error": "the journal cannot be written"})) as where:
        outcome = alone.run("DEL", new_id(), coild=where)

    assert outcome.code == 5
    assert "the journal cannot be written" == outcome.answer["details"]


@UNUSABLE
def test_a_spool_that_is_of_no_use_keeps_nobody_from_coming_and_going(
    node: Node, disk: Path, kind: str
) -> None:
    """While coild answers, no spool is needed."""
    node.spool, _ = unusable(disk, kind)
    container = new_id()
    address = node.add(container)
    now = node.held
    deleted = node.run("DEL", container)

    assert {container: address} == now
    assert (0, b"", "") == (deleted.status, deleted.stdout, deleted.stderr)
    assert {} == node.held


def test_another_holders_entry_that_is_busy(container: str, alone: Plugin) -> None:
    """A release that would replace an entry which somebody applies is to be tried again."""
    with held(keep(alone, container, "web-9")):
        outcome = alone.run("DEL", container, timeout=0.1)

    assert outcome.code == 11
    assert f"{alone.spool}/{container}: another process is applying it" == outcome.answer["msg"]
    assert NOBODY in outcome.answer["details"]
    assert [container] == files(alone.spool)


def test_a_daemon_whose_spool_is_none(node: Node) -> None:
    """It starts and serves, and its log says what is wrong."""
    node.daemon.kill()
    node.spool.touch()
    node.bring_up()
    node.add(new_id())

    assert f"the spool {node.spool}: Not a directory; what is left there" in node.daemon.log


def test_an_entry_that_the_start_cannot_set_aside(container: str, node: Node) -> None:
    """The others are applied, and the log says that something is left."""
    node.add(container)
    node.daemon.kill()
    (node.spool / "x.rejected").mkdir(parents=True)
    (node.spool / "x").touch()
    keep(node, container)
    node.bring_up()

    assert f"the spool {node.spool}: Is a directory; what is left there" in node.daemon.log
    assert f"applied 1 releases of the spool {node.spool}, 1 addresses" in node.daemon.log
    assert [container] == node.released


@ALTERED
def test_an_altered_entry_at_the_start(node: Node, alter: Callable[[Path], None]) -> None:
    """It is set aside and logged, releases nothing, and the others are applied."""
    container, other = new_id(), new_id()
    address = node.add(container)
    node.add(other)
    node.daemon.kill()
    for each in (container, other):
        node.miss(each)
    alter(node.spool / container)
    node.bring_up()
    again = node.add(container)

    assert f"{DAMAGED}{node.spool}/{container}.rejected" in node.daemon.log
    assert [other] == node.released
    assert [f"{container}.rejected"] == files(node.spool)
    assert {container: address} == {container: again} == node.held


def test_many_damaged_entries_at_the_start(node: Node) -> None:
    """They are a line a second, which counts the others."""
    node.daemon.kill()
    node.spool.mkdir()
    for number in range(200):
        (node.spool / f"damaged-{number}").touch()
    node.bring_up()
    lines = [line for line in node.daemon.log.splitlines() if DAMAGED in line]
    others = re.findall(r"\(and (\d+) more like it", "\n".join(lines))

    assert 200 == len(lines) + sum(map(int, others))
    assert len(lines) < 100
    assert 200 == len(files(node.spool))


def test_many_damaged_entries_at_a_run(node: Node) -> None:
    """They are one line and their number, and a run that takes too long leaves some of them."""
    node.spool.mkdir()
    for number in range(50):
        (node.spool / f"damaged-{number}").touch()
    outcome = node.run("ADD", new_id())
    rejected = [name for name in files(node.spool) if name.endswith(".rejected")]
    (more,) = re.findall(r"(\d+) more damaged releases were set aside", outcome.stderr) or [0]

    assert outcome.status == 0
    assert 1 == outcome.stderr.count(ASIDE)
    assert outcome.stderr.count("\n") <= 3
    assert len(rejected) == 1 + int(more)


@ALTERED
@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_an_altered_entry_at_a_run(node: Node, alter: Callable[[Path], None], command: str) -> None:
    """ADD or DEL of the container itself goes on, and tells of it on stderr."""
    container = new_id()
    address = node.add(container)
    node.miss(container)
    alter(node.spool / container)
    outcome = node.run(command, container)

    assert outcome.status == 0
    assert f"coild-ipam: {ASIDE}{node.spool}/{container}.rejected\n" == outcome.stderr
    assert [f"{container}.rejected"] == files(node.spool)
    assert node.held == ({container: address} if command == "ADD" else {})
    assert node.released == ([] if command == "ADD" else [container])


@ALTERED
def test_an_altered_entry_of_another_container(node: Node, alter: Callable[[Path], None]) -> None:
    """The next run, of whatever container, tells of it, and nothing is released."""
    container, other = new_id(), new_id()
    address = node.add(container)
    node.miss(container)
    alter(node.spool / container)
    outcome = node.run("ADD", other)

    assert outcome.status == 0
    assert f"coild-ipam: {ASIDE}{node.spool}/{container}.rejected\n" == outcome.stderr
    assert address == node.held[container]
    assert [] == node.released


@ALTERED
def test_an_altered_entry_while_the_daemon_is_down(
    node: Node, alter: Callable[[Path], None]
) -> None:
    """A DEL that comes again keeps the release in its place, and the start applies it."""
    container = new_id()
    node.add(container)
    node.daemon.kill()
    node.miss(container)
    alter(node.spool / container)
    outcome = node.miss(container)
    node.bring_up()

    assert f"{ASIDE}{node.spool}/{container}.rejected" in outcome.stderr
    assert {} == node.held
    assert [container] == node.released
    assert [f"{container}.rejected"] == files(node.spool)
