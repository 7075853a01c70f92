"""The workloads of a journal before it crashes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from journal.compact.prepare import index_sealed
from journal.repair.plan import plan_truncation
from journal.repair.truncate import truncate
from tests.crash.journal.session import DIRECTORY, CrashPoint, Session, seeded_ids, vocabulary
from tests.crash.simulated.disk import SimulatedDisk
from tests.crash.simulated.fates import Bounds
from tests.crash.simulated.states import states
from tests.kits.journal.building import SCHEMA, flipped, frames_of
from tests.kits.journal.compaction import State

#: Every crash is one of these when a workload itself goes through one.
_FEW = Bounds(fates_max=9, names_max=4, product_max=16, samples=4)


def _groups(session: Session) -> None:
    """Group commits of one event and of many, small and of many sectors, with marks between."""
    session.open()
    for count, value_bytes_max in ((1, 40), (3, 100), (1, 1500), (9, 400), (2, 5000), (40, 60)):
        session.append(count, value_bytes_max)
        if session.choice.random() < 0.5:
            session.journal.log.mark()
    session.close()


def _rolls(session: Session) -> None:
    """Segments that fill up, with and without a spare that is ready."""
    session.open()
    for ready in (True, False):
        if ready:
            session.journal.spare.prepare()
        session.fill()
        session.append(3, 2000)
        session.append(1)
    session.journal.spare.prepare()
    session.append(2)
    session.close()


def _restarts(session: Session) -> None:
    """Clean ends, kills and new starts."""
    for end in (session.close, session.kill, session.close):
        session.open()
        session.append(session.choice.randrange(1, 5), 600)
        session.journal.spare.prepare()
        session.append(session.choice.randrange(1, 5), 600)
        end()
    session.open()


def _crashes(session: Session) -> None:
    """Power cuts one after the other, each survived."""
    for _ in range(4):
        session.open()
        session.append(1, 300)
        session.journal.spare.prepare()
        session.append(3, 900)
        if session.choice.random() < 0.4:
            session.journal.log.seal()
            session.append(2)
        session.append(2, 900)
        _crash(session)
    session.open()
    session.append(1)


def _crash(session: Session) -> None:
    """Go on with a disk that a power cut left in the last append or since."""
    _crash_at(session, session.moments[-session.choice.randrange(1, 3)])


def _crash_at(session: Session, moment: CrashPoint) -> None:
    session.submitted[:] = moment.known.submitted
    session.acknowledged = moment.known.acknowledged
    left = [state.disk for state in states(moment.disk, session.choice, _FEW)]
    session.become(session.choice.choice(left))


def _seals(session: Session) -> None:
    """Segments that are sealed early."""
    session.open()
    session.journal.spare.prepare()
    for _ in range(3):
        session.append(2, 700)
        session.journal.log.seal()
        session.journal.log.seal()
        session.journal.log.mark()
    session.append(1)


def _compactions(session: Session) -> None:
    """Compactions one after the other: snapshots, archive, segments and snapshots removed."""
    session.open()
    for _ in range(4):
        session.append(5, 500)
        session.append(2, 500)
        session.compact()
    session.close()
    session.open()
    session.append(1)


def _compacted_beside(session: Session) -> None:
    """A compaction while the writer goes on and rolls over."""
    session.open()
    session.append(5, 500)
    session.journal.log.seal()
    calls = 0

    def write() -> None:
        nonlocal calls
        calls += 1
        if calls % 7 == 0:
            session.append(1, 900)
        if calls % 31 == 0:
            session.journal.log.seal()

    session.append(3)
    session.compact(write)
    session.append(1)


def _prunings(session: Session) -> None:
    """History that is lost on order, twice."""
    session.open()
    for _ in range(2):
        for _ in range(2):
            session.append(5, 300)
            session.compact()
        session.prune()
        session.append(1)
    session.kill()
    session.open()


def _interrupted_compactions(session: Session) -> None:
    """Compactions that a crash ends, and that are run again."""
    for _ in range(3):
        session.open()
        session.append(4, 300)
        before = len(session.moments)
        session.compact()
        _crash_at(session, session.choice.choice(session.moments[before:]))
    session.open()
    session.append(1)
    session.compact()


def _upgrades(session: Session) -> None:
    """A newer program, with a clean and with a torn end of the older one's journal."""
    session.schema = SCHEMA - 1
    session.open()
    session.append(3, 300)
    session.journal.log.seal()
    session.append(2, 300)
    if session.choice.random() < 0.5:
        session.close()
    else:
        session.append(2, 900)
        _crash(session)
    session.schema = SCHEMA
    session.open()
    session.append(2)
    session.close()
    session.open()


def _repairs(session: Session) -> None:
    """Damage in the middle, cut off on order, and life after that."""
    session.open()
    for _ in range(2):
        session.append(3, 300)
        session.append(2, 300)
        session.journal.log.seal()
    session.append(2, 900)
    session.append(2)
    session.vouch(index_sealed(session.disk, DIRECTORY, vocabulary(session.schema)))
    session.close()
    _damage(session)
    truncation = plan_truncation(
        session.disk, DIRECTORY, vocabulary(session.schema), State(), session.clock()
    )
    assert truncation is not None
    del session.submitted[truncation.last_sequence :]
    session.acknowledged = session.repaired = truncation.last_sequence
    truncate(session.disk, DIRECTORY, truncation, session.clock())
    session.damaged = False
    session.open()
    session.append(1)
    session.close()
    session.open()


def _damage(session: Session) -> None:
    """Flip a bit of a frame that is not the last one of all."""
    tree = session.disk.durable_tree()
    inside = tree[DIRECTORY.name]
    assert not isinstance(inside, bytes)
    segments = sorted(name for name in inside if Path(name).suffix == ".seg")
    name = session.choice.choice(segments)
    data = inside[name]
    assert isinstance(data, bytes)
    _, frames = frames_of(data)
    frame = session.choice.choice(frames[:-1] if name == segments[-1] else frames)
    inside[name] = flipped(data, session.choice.randrange(frame.offset, frame.end))
    session.damaged = True
    session.become(SimulatedDisk.holding(tree))


Workload = Callable[[Session], None]

WORKLOADS: dict[str, Workload] = {
    "groups": _groups,
    "rolls": _rolls,
    "restarts": _restarts,
    "crashes": _crashes,
    "seals": _seals,
    "compactions": _compactions,
    "compacted-beside": _compacted_beside,
    "interrupted-compactions": _interrupted_compactions,
    "prunings": _prunings,
    "upgrades": _upgrades,
    "repairs": _repairs,
}


def moments_of(name: str, seed: int) -> list[CrashPoint]:
    """All moments at which a crash could come in a workload, the same for the same seed."""
    session = Session(f"{name} {seed}")
    with seeded_ids(f"ids {name} {seed}"):
        WORKLOADS[name](session)
    return session.end()
