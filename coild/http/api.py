"""HTTP in, HTTP out: the routes of the REST API. No rule about addresses lives here."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec.structs import asdict
from sanic import Request, Sanic
from sanic.config import Config as SanicConfig

from coild.allocation.committer import WriteGate
from coild.allocation.deadline import HEADER as DEADLINE
from coild.allocation.deadline import Deadline, read_deadline
from coild.allocation.service import Service, Wanted
from coild.http.about import about
from coild.http.answers import (
    Answer,
    SharedAnswer,
    address_answer,
    answer_error,
    check_room,
    collection_body,
    container_answer,
    json_answer,
    live_answer,
    ready_answer,
    releases_answer,
)
from coild.http.bodies import (
    AllocateRequest,
    BadRequestError,
    CollectRequest,
    ReleaseRequest,
    decode_body,
    decode_compact,
    unusable_of,
)
from coild.http.budget import Budget, Shared
from coild.http.errors import AnotherJournalError, UnassignedError, UnknownContainerError
from coild.http.guard import Guard, GuardError
from coild.http.messages import (
    CompactionAnswer,
    CompactionPlanAnswer,
    Health,
    HealthAnswer,
    PlacedAnswer,
)
from coild.http.openapi import document
from coild.http.operations import OPERATIONS
from coild.http.readiness import Readiness
from coild.http.status import StatusBodies
from coild.process.log_limit import LogLimit
from coild.rules.events import COLLECTED
from coild.rules.holding import Holding
from coild.rules.limits import (
    ARRIVAL_SECONDS,
    BODY_BYTES_MAX,
    COLLECT_BYTES_MAX,
    HEADER_BYTES_MAX,
    IDLE_SECONDS,
    RESPONSE_SECONDS,
)
from coild.upkeep.compactor import Compactor
from journal import JournalFullError

#: So many valid containers that hold nothing are named to a garbage collection.
_UNKNOWN_MAX = 100
#: The query that asks for more than the address.
_DETAILS = "details=true"
_VERSIONS = {"ipv4": 4, "ipv6": 6}


def _part(name: str, text: str) -> str:
    """A part of the path, percent-decoded once. Raises BadRequestError."""
    if "%" not in text:
        return text
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        # Not replaced: what stands in for the bad bytes might be another container's ID.
        raise BadRequestError(f"the {name} in the path is not UTF-8: {text}") from None


def _deadline(request: Request) -> Deadline | None:
    """Until when the request may be carried out. Raises BadRequestError and DeadlineError."""
    values = request.headers.getall(DEADLINE, None)
    if values is None:
        return None
    if len(values) > 1:
        raise BadRequestError("there is more than one Coild-Deadline header: send one")
    try:
        until = read_deadline(values[0])
    except ValueError as error:
        raise BadRequestError(str(error)) from None
    if until is not None:
        until.check()
    return until


class Handlers:
    """The handlers of the operations: for each, the method that is named like it."""

    def __init__(
        self,
        service: Service,
        compactor: Compactor,
        guard: Guard,
        health: Callable[[], Health],
        gate: WriteGate,
        readiness: Readiness,
    ) -> None:
        """They answer for `service`, and change nothing while `gate` is shut."""
        self._service = service
        self._compactor = compactor
        self._guard = guard
        self._health = health
        self._gate = gate
        self._readiness = readiness
        self.budget = Budget()
        self.log = LogLimit()
        # One at a time of what needs much memory for a moment.
        self._turn = asyncio.Lock()
        self._collecting = asyncio.Lock()
        self._bodies = StatusBodies(service.durable, self.budget, self._turn)
        self._described = Shared(msgspec.json.encode(document()))

    def _check_command(self, request: Request) -> Deadline | None:
        """Until when the request may be carried out, if it says so.

        Raises what a request to change anything is refused with.
        """
        self._guard.check(request)
        if self._gate.reason:
            raise JournalFullError(self._gate.reason, used_up=True)
        return _deadline(request)

    async def allocate_address(self, request: Request) -> Answer:
        until = self._check_command(request)
        wanted = decode_body(AllocateRequest, request.body)
        version = _VERSIONS[wanted.address_type]
        asked = Wanted(
            wanted.pod_namespace,
            wanted.pod_name,
            wanted.container_id,
            version,
            wanted.network,
            unusable_of(wanted, version) if wanted.unusable else (),
            wanted.details,
        )
        address = await self._service.allocate(asked, until)
        return self._placed(address) if wanted.details else address_answer(address)

    async def get_address(
        self, request: Request, namespace: str, pod: str, container: str
    ) -> Answer:
        self._guard.check(request)
        parts = _parts(namespace, pod, container)
        address = self._service.durable.address(*parts)
        if address is None:
            raise UnassignedError("pod {}/{} has no address under container ID {}".format(*parts))
        return (
            self._placed(address) if request.query_string == _DETAILS else address_answer(address)
        )

    def _placed(self, address: str) -> Answer:
        return json_answer(PlacedAnswer(address, **asdict(self._service.allocator.place(address))))

    async def release_address(
        self, request: Request, namespace: str, pod: str, container: str
    ) -> Answer:
        until = self._check_command(request)
        parts = _parts(namespace, pod, container)
        return address_answer(await self._service.release(*parts, until))

    async def get_container(self, request: Request, container: str) -> Answer:
        self._guard.check(request)
        container_id = _part("container ID", container)
        held = self._service.durable.holding(container_id)
        if held is None:
            raise UnknownContainerError(f"container {container_id} has no address")
        return container_answer(container_id, held)

    async def release_containers(self, request: Request) -> Answer:
        until = self._check_command(request)
        wanted = decode_body(ReleaseRequest, request.body)
        own = self._service.journal_id
        if wanted.journal and wanted.journal != own:
            raise AnotherJournalError(
                f"the release is for the daemon of journal {wanted.journal}, and this is that of "
                f"{own}: nothing was released"
            )
        # Once each, whatever is named twice.
        containers = dict.fromkeys(wanted.container_ids)
        return releases_answer(await self._service.release_containers(containers, until))

    async def get_status(self, request: Request) -> Answer:
        self._guard.check(request)
        return SharedAnswer(await self._bodies.get())

    async def compact(self, request: Request) -> Answer:
        self._check_command(request)
        wanted = decode_compact(request.body)
        if wanted.dry_run:
            plan = await self._compactor.dry_run()
            return json_answer(CompactionPlanAnswer(**asdict(plan)))
        done = await self._compactor.compact(order=wanted.order, limited=True)
        return json_answer(CompactionAnswer(**asdict(done)))

    async def collect_garbage(self, request: Request) -> Answer:
        self._guard.check(request)
        # The one body that may be long: it is read here, so that no other may.
        stream: Any = request.stream
        stream.request_max_size = COLLECT_BYTES_MAX
        body = bytearray()
        async for part in stream:
            body += part
        # Not before: of a body that is not read, the rest would be taken for the next request.
        until = self._check_command(request)
        # One at a time: what each keeps until it is done is as much as is held.
        async with self._collecting:
            return await self._collect(body, until)

    async def _collect(self, body: bytearray, until: Deadline | None) -> Answer:
        # No flush is waited for within a turn: requests for the status wait for the turn.
        async with self._turn:
            forgotten, unknown, dry_run = self._forgotten(body, until)
        released = forgotten
        if not dry_run:
            released = await self._service.release_all(forgotten, COLLECTED)
        async with self._turn:
            answer = await collection_body(released, unknown, dry_run=dry_run)
            if dry_run:
                self.budget.check(min(len(answer), self.budget.bytes_max))
            return SharedAnswer(Shared(answer, self.budget))

    def _forgotten(
        self, body: bytearray, until: Deadline | None
    ) -> tuple[list[tuple[str, Holding]], list[str], bool]:
        """The addresses to be released, the valid containers that hold nothing, and `dry-run`.

        Raises BusyError, before anything is released, if there is no room for the answer.
        """
        wanted = decode_body(CollectRequest, body)
        forgotten = self._service.forgotten(
            wanted.network, frozenset(wanted.valid), int(wanted.sequence), until
        )
        check_room(forgotten, self.budget)
        unknown = self._service.durable.unknown(wanted.valid, _UNKNOWN_MAX)
        return forgotten, unknown, wanted.dry_run

    async def get_health(self, request: Request) -> Answer:
        self._guard.check(request)
        sequence = self._service.durable.sequence
        return json_answer(HealthAnswer(**asdict(self._health()), sequence=sequence))

    async def get_liveness(self, request: Request) -> Answer:
        self._guard.check(request)
        return live_answer(self._readiness.failure)

    async def get_readiness(self, request: Request) -> Answer:
        self._guard.check(request)
        as_text = "verbose" in request.get_args(keep_blank_values=True)
        return ready_answer(self._readiness.checks(), as_text=as_text)

    async def get_document(self, request: Request) -> Answer:
        self._guard.check(request)
        return SharedAnswer(self._described)

    def answer_error(self, request: Request, error: Exception) -> Answer:
        """The answer to a request that ended in an error; Sanic calls it."""
        # An unknown path is answered here, and it must not tell a web page anything either.
        try:
            if not isinstance(error, GuardError) and request.method != "NONE":
                self._guard.check(request)
        except GuardError as refusal:
            error = refusal
        named = about(request, self._service.allocator.pool_for)
        return answer_error(request, error, named, self.log)


def build_app(handlers: Handlers) -> Sanic[Any, Any]:
    """The HTTP application."""
    app = Sanic("coild", config=sanic_config(), configure_logging=False)
    # Connections count what they keep by it.
    app.ctx.budget = handlers.budget
    app.ctx.log = handlers.log
    for operation in OPERATIONS:
        handler = getattr(handlers, _snake(operation.name))
        for method in operation.methods:
            app.add_route(
                # Sanic marks what reads its own body, and a method takes no attribute.
                partial(handler) if operation.streams else handler,
                operation.path,
                name=f"{method}{operation.name}",
                methods=[method],
                strict_slashes=True,
                stream=operation.streams,
            )
    app.exception(Exception)(handlers.answer_error)
    return app


def _snake(name: str) -> str:
    return re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", name)


def _parts(namespace: str, pod: str, container: str) -> tuple[str, str, str]:
    return _part("namespace", namespace), _part("pod", pod), _part("container ID", container)


def sanic_config() -> SanicConfig:
    """The limits of this API, and nothing from SANIC_… variables."""
    config = SanicConfig(env_prefix=None)
    config.update(
        {
            "ACCESS_LOG": False,
            "AUTO_EXTEND": False,
            "FALLBACK_ERROR_FORMAT": "json",
            "KEEP_ALIVE_TIMEOUT": IDLE_SECONDS,
            "MOTD": False,
            "REQUEST_MAX_HEADER_SIZE": HEADER_BYTES_MAX,
            "REQUEST_MAX_SIZE": BODY_BYTES_MAX,
            "REQUEST_TIMEOUT": ARRIVAL_SECONDS,
            "RESPONSE_TIMEOUT": RESPONSE_SECONDS,
        }
    )
    return config
