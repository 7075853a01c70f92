"""Whatever rots in a journal is told, and no answer is wrong for it."""

from __future__ import annotations

import contextlib
import random
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from journal.format.codec import MalformedError, SegmentHeader
from journal.read import indexed
from tests.crash.damage.rot import Excuse, Rotted, run, run_all
from tests.crash.damage.rot_sample import Damage, Sample, Way, bits, build_sample, coarse, kind_of
from tests.crash.mutants import mutated
from tests.crash.scale import LONG, report
from tests.kits.journal.building import frames_of

#: Of the bits of each file, so many are tried in CI.
BITS = 200


@pytest.fixture(scope="module", name="sample")
def _sample() -> Sample:
    """One journal for all: a damage is done to a copy."""
    return build_sample()


def some_bits(sample: Sample, count: int, kind: str = "") -> Rotted:
    """So many bits flipped, one after the other, of each file, or of those of a kind."""
    rotted = Rotted(Counter(), [])
    for name, data in sample.files.items():
        if kind in {"", kind_of(name)}:
            numbers = random.sample(range(8 * len(data)), count)
            rotted = rotted.plus(run(sample, bits(name, numbers)))
    return rotted


def header_bits(sample: Sample, kind: str) -> list[Damage]:
    """Every bit of what says how a file is to be read: its first bytes, or its last."""
    name = max(name for name in sample.files if kind_of(name) == kind)
    size = 8 * len(sample.files[name])
    numbers = range(size - 8 * 48, size) if "archived" in kind else range(8 * 48)
    return [*bits(name, numbers)]


@pytest.mark.timeout(1800)
def test_a_flipped_bit_is_told(sample: Sample) -> None:
    """A seeded sample of the bits of every file; in the long campaign all, and all other damage."""
    rotted = run_all() if LONG else some_bits(sample, BITS)
    told = Counter[str]()
    for (_, _, by), count in rotted.told.items():
        told[by.partition(";")[0]] += count
    report(
        "bit rot",
        rotted.tried,
        rotted.tried - len(rotted.failures),
        "; ".join(f"{by}: {count:,}" for by, count in told.most_common()),
    )

    assert [] == rotted.failures
    assert rotted.tried >= (8 * sum(map(len, sample.files.values())) if LONG else BITS)


@pytest.mark.parametrize("aligned", [False, True])
def test_a_lost_sector_or_file_is_told(*, aligned: bool) -> None:
    """Zeroed and cut at every sector, dropped, swapped: nothing but what is excused by its name."""
    sample = build_sample(aligned=aligned)
    damages = coarse(sample)
    rotted = run(sample, damages)
    excused = Counter[str]()
    for (_, _, told), count in rotted.told.items():
        excused[told.partition(";")[0]] += count
    del excused["verify"]

    assert [] == rotted.failures
    assert len(damages) == rotted.tried
    # The newest segment gone, and with `aligned` a sector that has its last frames, and no other.
    assert {
        Excuse.UNWRITTEN.value: 2 if aligned else 1,
        Excuse.PRUNED.value: 1,
        Excuse.SPARE.value: 6,
    } | ({} if aligned else {Excuse.TORN.value: 1}) == dict(excused)


def test_every_way_is_tried_on_every_file(sample: Sample) -> None:
    """No file is spared: neither a live nor an archived one, nor what lies beside it."""
    tried = {
        (damage.way, name) for damage in coarse(sample) for name in (damage.name, damage.other)
    }

    assert {(way, name) for way in Way if way is not Way.BIT for name in sample.files} == tried - {
        (way, "") for way in Way
    }
    assert {
        "archived index": 2,
        "archived segment": 2,
        "index": 2,
        "segment": 3,
        "snapshot": 2,
    } == sample.kinds()


class _Alike(int):
    """A checksum that is never found to be another one."""

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__


class _Blind:
    """What stands for `zlib` where no checksum is looked at."""

    @staticmethod
    def crc32(data: Any, value: int = 0) -> int:
        """The checksum, whatever it is compared with."""
        return _Alike(zlib.crc32(data, value))


@pytest.mark.parametrize(
    ("module", "kind"),
    [("codec", "segment"), ("snapshot", "snapshot"), ("archive", "archived segment")],
)
def test_a_checksum_that_is_not_looked_at_is_missed(
    module: str, kind: str, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The campaign has teeth: a header that nobody checks gives wrong answers, and it says so."""
    monkeypatch.setattr(f"journal.format.{module}.zlib", _Blind)

    assert run(sample, header_bits(sample, kind)).failures


def test_an_index_that_is_believed_is_missed(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So does an index that leads to a part of the frames, and no more is read."""
    real = indexed.read_frames

    def frames(decoder: Any, data: bytes, base: int, header: SegmentHeader) -> Iterator[Any]:
        with contextlib.suppress(MalformedError):
            yield from real(decoder, data, base, header)

    monkeypatch.setattr(indexed, "read_frames", frames)

    assert some_bits(sample, 100, "segment").failures


def test_a_length_that_no_checksum_covers_does_no_harm() -> None:
    """Another length is another stretch of bytes, which its checksum does not match either."""
    with mutated("the checksum leaves out the length"):
        sample = build_sample()
        damages = [
            damage
            for file, data in sample.files.items()
            if kind_of(file) == "segment"
            for frame in frames_of(data)[1]
            for damage in bits(file, range(8 * (frame.offset + 8), 8 * (frame.offset + 12)))
        ]
        rotted = run(sample, damages)

    assert [] == rotted.failures
    assert len(damages) == rotted.tried
