"""Checks histories of concurrent clients for linearizability.

A search after Wing and Gong with Lowe's memory: linearize any operation that no other one must
precede, backtrack from dead ends, and never visit the same set of operations and state twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import NamedTuple

#: An unknown address, of a request whose client hung up.
UNTOLD = "?"

#: The address of each container, in the order of their numbers; "" if it has none.
State = tuple[str, ...]


class Kind(Enum):
    """The kind of an operation."""

    POST = "POST"
    GET = "GET"
    DELETE = "DELETE"
    STATUS = "STATUS"


class Operation(NamedTuple):
    """A request and its answer, with the moments between which it took effect.

    `container` is a number; `answer` is an address, "" where there was none, 409 and 503 as text,
    for STATUS the addresses of all containers, None if the client got no answer; then `returned` is
    infinite, and it took effect later or never.
    """

    kind: Kind
    container: int
    called: float
    returned: float
    answer: str | State | None


class Model(NamedTuple):
    """The sequential daemon: so many containers, and a pool of so many addresses."""

    containers: int
    addresses: int

    @property
    def initial(self) -> State:
        """No container has an address."""
        return ("",) * self.containers

    def steps(self, state: State, operation: Operation, told: frozenset[str]) -> Iterator[State]:
        """The states after `operation`, if its answer can be given in `state`.

        `told` are the addresses that its container may turn out to have, if it got no answer.
        """
        container, answer = operation.container, operation.answer
        held = state[container]
        match operation.kind:
            case Kind.POST:
                yield from self._post(state, container, held, answer, told)
            case Kind.DELETE:
                if answer is None or held == answer or (held == UNTOLD and answer):
                    yield _with(state, container, "")
            case Kind.GET:
                if answer is None or held == answer:
                    yield state
            case Kind.STATUS:
                if answer is None or state == answer:
                    yield state

    def _post(
        self,
        state: State,
        container: int,
        held: str,
        answer: str | State | None,
        told: frozenset[str],
    ) -> Iterator[State]:
        free = self.addresses - sum(map(bool, state))
        if answer == "409":
            if held:
                yield state
        elif answer == "503":
            if not held and not free:
                yield state
        elif answer is not None:
            assert isinstance(answer, str)
            if not held and free and answer not in state:
                yield _with(state, container, answer)
        elif held or not free:
            yield state
        else:
            for address in (told - set(state)) | {UNTOLD}:
                yield _with(state, container, address)


def _with(state: State, container: int, address: str) -> State:
    return (*state[:container], address, *state[container + 1 :])


def linearize(model: Model, operations: Sequence[Operation]) -> list[int] | None:
    """An order of the operations (their indexes) that explains every answer; None if there is none.

    An operation without an answer may be left out.
    """
    told = _told(model, operations)
    everything = sum(1 << number for number, it in enumerate(operations) if it.returned < math.inf)
    seen: set[tuple[int, State]] = set()
    path: list[int] = []
    stack = [_moves(model, operations, told, 0, model.initial)]
    while stack:
        move = next(stack[-1], None)
        if move is None:
            stack.pop()
            if path:
                path.pop()
            continue
        number, done, state = move
        if (done, state) in seen:
            continue
        seen.add((done, state))
        path.append(number)
        if done & everything == everything:
            return path
        stack.append(_moves(model, operations, told, done, state))
    return None if everything else []


def _moves(
    model: Model,
    operations: Sequence[Operation],
    told: Sequence[frozenset[str]],
    done: int,
    state: State,
) -> Iterator[tuple[int, int, State]]:
    """The possible next steps: the operation, all that are done then, and the state."""
    left = [number for number in range(len(operations)) if not done >> number & 1]
    # Whatever began after another had returned comes after it.
    deadline = min((operations[number].returned for number in left), default=math.inf)
    for number in left:
        if operations[number].called <= deadline:
            for after in model.steps(state, operations[number], told[number]):
                yield number, done | 1 << number, after


def _told(model: Model, operations: Sequence[Operation]) -> list[frozenset[str]]:
    """For each operation, the addresses that its container was ever said to have."""
    of: list[set[str]] = [set() for _ in range(model.containers)]
    for operation in operations:
        if isinstance(operation.answer, tuple):
            for container, address in enumerate(operation.answer):
                of[container].add(address)
        elif operation.answer is not None:
            of[operation.container].add(operation.answer)
    return [frozenset(of[operation.container] - {"", "409", "503"}) for operation in operations]
