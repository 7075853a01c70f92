"""What concurrent clients are told is what one daemon says that does one thing after another."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.crash.daemon.histories import MODEL, daemon_for_histories, record
from tests.crash.daemon.linear import UNTOLD, Kind, Model, Operation, linearize
from tests.crash.scale import report, rounds

HISTORIES = rounds(60, 2000)
KILL_EVERY = 20

SMALL = Model(containers=2, addresses=1)
A, B = "10.64.0.0", "10.64.0.1"


def sequence(*steps: tuple[Kind, int, str | tuple[str, ...] | None]) -> list[Operation]:
    """Operations one after the other; those without an answer have no end."""
    return [
        Operation(kind, container, at, math.inf if answer is None else at + 0.5, answer)
        for at, (kind, container, answer) in enumerate(steps)
    ]


def at_once(operations: list[Operation]) -> list[Operation]:
    """The same, all called before any returned."""
    return [it._replace(called=0, returned=max(1, it.returned)) for it in operations]


LOST = sequence((Kind.POST, 0, A), (Kind.GET, 0, ""))
DUPLICATE = sequence((Kind.POST, 0, A), (Kind.POST, 1, A))
RISEN = sequence((Kind.POST, 0, A), (Kind.DELETE, 0, A), (Kind.GET, 0, A))
STALE = sequence((Kind.POST, 0, A), (Kind.STATUS, 0, ("", "")))
OTHER = sequence((Kind.POST, 0, A), (Kind.DELETE, 0, B))
TWICE = sequence((Kind.POST, 0, A), (Kind.DELETE, 0, A), (Kind.DELETE, 0, A))
NO_CONFLICT = sequence((Kind.POST, 0, "409"))
NOT_FULL = sequence((Kind.POST, 0, "503"))
NEVER_HELD = sequence((Kind.STATUS, 0, (A, "")), (Kind.POST, 0, A))
TOO_MANY = sequence((Kind.POST, 0, A), (Kind.POST, 1, B))
TORN = at_once(
    sequence((Kind.POST, 0, A), (Kind.DELETE, 0, A), (Kind.POST, 1, A), (Kind.STATUS, 0, (A, A)))
)
CHANGED = sequence((Kind.POST, 0, None), (Kind.GET, 0, A), (Kind.GET, 0, B))


@pytest.mark.parametrize(
    "operations",
    [
        LOST,
        DUPLICATE,
        RISEN,
        STALE,
        OTHER,
        TWICE,
        NO_CONFLICT,
        NOT_FULL,
        NEVER_HELD,
        TOO_MANY,
        TORN,
        CHANGED,
    ],
)
def test_the_checker_rejects(operations: list[Operation]) -> None:
    """Each way in which a daemon can be wrong is seen."""
    assert linearize(SMALL, operations) is None


@pytest.mark.parametrize(
    "operations",
    [
        [],
        at_once(LOST),
        at_once(RISEN),
        sequence((Kind.POST, 0, A), (Kind.POST, 0, "409"), (Kind.POST, 1, "503")),
        sequence((Kind.POST, 0, None), (Kind.GET, 0, ""), (Kind.GET, 0, A), (Kind.DELETE, 0, A)),
        sequence((Kind.POST, 0, None), (Kind.POST, 1, "503"), (Kind.GET, 0, A)),
        sequence((Kind.POST, 0, None), (Kind.POST, 1, A), (Kind.GET, 0, "")),
        sequence((Kind.POST, 0, A), (Kind.DELETE, 0, None), (Kind.GET, 0, A), (Kind.GET, 0, "")),
    ],
)
def test_the_checker_accepts(operations: list[Operation]) -> None:
    """What is right is right, and nobody knows what became of a request without an answer."""
    assert linearize(SMALL, operations) is not None


ANSWERS: dict[Kind, list[str | tuple[str, ...] | None]] = {
    Kind.POST: [A, B, "409", "503", None],
    Kind.GET: ["", A, B],
    Kind.DELETE: ["", A, B, None],
    Kind.STATUS: [("", ""), (A, ""), ("", A), (A, B)],
}


@st.composite
def histories(draw: st.DrawFn) -> list[Operation]:
    """Up to five operations with answers and times of any kind."""
    operations = []
    for _ in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from(Kind))
        answer = draw(st.sampled_from(ANSWERS[kind]))
        called = draw(st.integers(0, 8))
        returned = math.inf if answer is None else called + draw(st.integers(0, 4)) + 0.5
        operations.append(Operation(kind, draw(st.integers(0, 1)), called, returned, answer))
    return operations


def by_trying_all(model: Model, operations: list[Operation]) -> bool:
    """The definition: some order of all answered and some unanswered ones explains everything."""
    told = frozenset({A, B})
    ended = [number for number, it in enumerate(operations) if it.returned < math.inf]
    open_ended = [number for number, it in enumerate(operations) if it.returned == math.inf]
    for count in range(len(open_ended) + 1):
        for happened in itertools.combinations(open_ended, count):
            for order in itertools.permutations([*ended, *happened]):
                if any(
                    operations[later].returned < operations[earlier].called
                    for earlier, later in itertools.combinations(order, 2)
                ):
                    continue
                states = {model.initial}
                for number in order:
                    states = {
                        after
                        for state in states
                        for after in model.steps(state, operations[number], told)
                    }
                if states:
                    return True
    return False


@given(histories(), st.integers(1, 2))
def test_the_checker_agrees_with_trying_all_orders(
    operations: list[Operation], addresses: int
) -> None:
    """The search finds an order where there is one, and only there."""
    model = Model(containers=2, addresses=addresses)

    assert by_trying_all(model, operations) == (linearize(model, operations) is not None)


def spoiled(operations: list[Operation], choice: random.Random) -> list[Operation]:
    """A history with one answer that was not given: an address that its container never had."""
    untold = {it.container for it in operations if it.kind is Kind.POST and it.answer is None}
    certain = [
        number
        for number, it in enumerate(operations)
        if it.kind in {Kind.GET, Kind.DELETE} and it.answer and it.container not in untold
    ]
    if not certain:
        return []
    number = choice.choice(certain)
    wrong = operations[number]._replace(answer="10.64.0.99")
    return [*operations[:number], wrong, *operations[number + 1 :]]


def test_histories_of_the_daemon_are_linearizable(tmp_path: Path) -> None:
    """With many clients, hang-ups and kills, there is always an order that explains all answers."""
    seed = random.randrange(2**32)  # noqa: S311
    choice = random.Random(seed)  # noqa: S311
    answers: set[object] = set()
    rejected = 0
    with daemon_for_histories(tmp_path / "data") as daemon:
        for number in range(HISTORIES):
            history = record(daemon, number, seed, kill=number % KILL_EVERY == KILL_EVERY - 1)
            assert linearize(MODEL, history) is not None, (seed, number, history)
            wrong = spoiled(history, choice)
            assert not wrong or linearize(MODEL, wrong) is None
            rejected += bool(wrong)
            answers |= {it.answer for it in history if isinstance(it.answer, str)}
            answers |= {None for it in history if it.answer is None}

    kills = HISTORIES // KILL_EVERY
    report(
        "linearizable histories",
        HISTORIES,
        HISTORIES,
        f"{kills} with a kill; {rejected} spoiled ones rejected",
    )
    # Everything that can be answered was.
    assert {None, "", "409", "503"} <= answers
    assert rejected > HISTORIES // 2
    assert UNTOLD not in answers
