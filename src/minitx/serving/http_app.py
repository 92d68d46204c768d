"""The ASGI application: what each path answers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio.to_thread
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from minitx.config import Limits
from minitx.serving.access import Guard
from minitx.serving.answers import Answer, event, to_json
from minitx.serving.api_errors import APIError, broken, stopping
from minitx.serving.batch_engine import Engine
from minitx.serving.chat_request import ChatAnswer, parse_chat
from minitx.serving.completion_request import CompletionRequest, parse_completion, parse_json
from minitx.serving.jobs import Job, ServedModel, Update, UpdateQueue, make_job
from minitx.serving.metrics import CLIENT_LEFT, Metrics, RequestRecord

_SMALL_BODY = 16_384
_RECORD = "minitx.record"
_EVENT_STREAM = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    # Asks proxies not to buffer the pieces.
    (b"x-accel-buffering", b"no"),
]
_log = logging.getLogger("minitx")


@dataclass(frozen=True)
class Listening:
    """A server's place, and what it does there."""

    opened: socket.socket  # From `listen`.
    served: ServedModel
    url: str
    limits: Limits
    token: str | None = field(repr=False)  # That clients must send.
    local_name: str | None  # Of this machine, if it listens to that alone.


class Service:
    """Answers requests with a model: an ASGI application, for use in a running event loop.

    `on_request` gets the record of each request that ended. New requests are refused while it is
    `draining`.
    """

    def __init__(self, listening: Listening, on_request: Callable[[RequestRecord], None]) -> None:
        self._served = served = listening.served
        self._limits, self._on_request = listening.limits, on_request
        self._loop = asyncio.get_running_loop()
        self._queues: dict[Job, UpdateQueue] = {}
        self._metrics = Metrics()
        self.engine = Engine(served, self._limits, self._metrics, self._deliver_from_thread)
        self._metrics.gauge("queue_length", "Waiting continuations.", lambda: self.engine.waiting)
        self._metrics.gauge("active_rows", "Running continuations.", lambda: self.engine.active)
        self.draining = False
        self._guard = Guard(listening.token, listening.local_name)
        self._router = Router(
            [
                Route("/v1/completions", self._completions, methods=["POST"]),
                Route("/v1/chat/completions", self._chats, methods=["POST"]),
                Route("/v1/models", self._models, methods=["GET"]),
                Route("/v1/models/{name}", self._model, methods=["GET"]),
                Route("/health", self._health, methods=["GET"]),
                Route("/metrics", self._show_metrics, methods=["GET"]),
            ],
            redirect_slashes=False,
        )

    @property
    def busy(self) -> int:
        """Completions that are not yet answered in full."""
        return len(self._queues)

    def cut_off(self) -> None:
        """End all completions now."""
        for queue in list(self._queues.values()):
            queue.fail(stopping())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; whatever goes wrong becomes an answer in the form of the API."""
        if scope["type"] != "http":
            return
        began = time.perf_counter()
        record = scope[_RECORD] = RequestRecord(scope["method"], scope["path"])
        scope["app"] = self
        started = False

        async def noting(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                record.status = message["status"]
            await send(message)

        try:
            self._guard.check(scope["path"], Headers(scope=scope))
            await self._router(scope, receive, noting)
        except ClientDisconnect:
            record.status, record.reason = CLIENT_LEFT, "the client left"
        except Exception as error:
            failure = _as_api_error(error, scope)
            record.reason = failure.message
            if started:
                record.status = failure.status
            else:
                response = json_response(failure.body, failure.status, failure.headers)
                await response(scope, receive, noting)
        finally:
            record.seconds = time.perf_counter() - began
            self._metrics.requests.labels(str(record.status)).inc()
            self._on_request(record)

    async def _completions(self, request: Request) -> ASGIApp:
        return partial(self._complete, parse=parse_completion, kind=Answer)

    async def _chats(self, request: Request) -> ASGIApp:
        return partial(
            self._complete, parse=partial(parse_chat, served=self._served), kind=ChatAnswer
        )

    async def _complete(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        parse: Callable[[dict[str, Any], int], CompletionRequest],
        kind: type[Answer],
    ) -> None:
        # Sends its pieces itself, and watches for the client's leaving.
        if self.draining:
            raise stopping()
        body = await read_body(Request(scope, receive), self._limits)
        request = parse(parse_json(body), self._limits.max_tokens)
        if len(body) <= _SMALL_BODY:
            job = self._make_job(request)
        else:
            job = await anyio.to_thread.run_sync(self._make_job, request)
        answer = kind(job, self._served)
        with self._under_way(job, scope[_RECORD]) as queue, _watching(receive, queue):
            # Before anything is sent: a job that can't begin is answered with a status of its own.
            updates = await queue.take()
            if request.stream:
                await self._stream(answer, updates, queue, scope[_RECORD], send)
                return
            answer.take(updates)
            while not answer.done:
                answer.take(await queue.take())
        await json_response(answer.whole())(scope, receive, send)

    async def _stream(
        self,
        answer: Answer,
        updates: list[Update],
        queue: UpdateQueue,
        record: RequestRecord,
        send: Send,
    ) -> None:
        async def write(content: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": content, "more_body": more})

        await send({"type": "http.response.start", "status": 200, "headers": _EVENT_STREAM})
        try:
            while True:
                answer.take(updates)
                if content := answer.events():
                    await write(content)
                if answer.done:
                    break
                updates = await queue.take()
        except APIError as error:
            # The status was sent long ago, so that the error can only come in the stream.
            record.status, record.reason = error.status, error.message
            await write(event(error.body), more=False)
            return
        await write(answer.end(), more=False)

    @contextlib.contextmanager
    def _under_way(self, job: Job, record: RequestRecord) -> Iterator[UpdateQueue]:
        """Let the engine work on a job for as long as its client waits."""
        limits = self._limits
        max_unsent = limits.max_unsent * len(job.choices) if job.request.stream else None
        queue = UpdateQueue(max_unsent, lambda: self.engine.cancel(job))
        self.engine.submit(job)
        self._queues[job] = queue
        late = APIError(504, "The request took too long.", code="timeout")
        timer = self._loop.call_later(limits.request_timeout, queue.fail, late)
        try:
            yield queue
        finally:
            timer.cancel()
            del self._queues[job]
            self.engine.cancel(job)
            record.n_choices, record.n_new = len(job.choices), job.n_new
            record.n_prompt_tokens = job.n_prompt_tokens
            if job.first_token is not None:
                record.seconds_to_first_token = job.first_token - job.arrived
            self._metrics.prompt_tokens.inc(job.n_prompt_tokens)
            self._metrics.completion_seconds.observe(time.perf_counter() - job.arrived)

    def _make_job(self, request: CompletionRequest) -> Job:
        served, limits = self._served, self._limits
        if request.model is not None and request.model != served.name:
            raise _no_such_model(served.name)
        if request.n_choices > limits.max_concurrent:
            raise APIError(400, f"Prompts times n may be at most {limits.max_concurrent}.", "n")
        return make_job(request, served, limits.max_prompt_tokens)

    async def _models(self, request: Request) -> Response:
        return json_response({"object": "list", "data": [self._description()]})

    async def _model(self, request: Request) -> Response:
        if request.path_params["name"] != self._served.name:
            raise _no_such_model(self._served.name)
        return json_response(self._description())

    async def _health(self, request: Request) -> Response:
        status = "failed" if self.engine.gave_up else "stopping" if self.draining else "ok"
        return json_response({"status": status}, 200 if status == "ok" else 503)

    async def _show_metrics(self, request: Request) -> Response:
        # In a thread: the collectors read files of the system, and wait for locks.
        text = await anyio.to_thread.run_sync(self._metrics.text)
        return Response(text, media_type="text/plain; version=0.0.4")

    def _description(self) -> dict[str, object]:
        return {
            "id": self._served.name,
            "object": "model",
            "created": self._served.created,
            "owned_by": "minitx",
            "context_length": self._served.model.config.context_length,
        }

    def _deliver_from_thread(self, updates: list[Update]) -> None:
        # The loop is closed only when no client waits any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._deliver, updates)

    def _deliver(self, updates: list[Update]) -> None:
        for update in updates:
            if update.job in self._queues:
                self._queues[update.job].put(update)


async def read_body(request: Request, limits: Limits) -> bytes:
    """The body of a JSON request.

    Raises:
        APIError: 415 if its type is not JSON, 413 if it is too large, 408 if it takes too long.
        ClientDisconnect: the client left before its end.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # Also for safety: a web page of another origin may send other types unasked.
        raise APIError(
            415, "Send JSON, with the header Content-Type: application/json.", close=True
        )
    max_bytes = limits.max_body_bytes
    too_large = APIError(413, f"The request is larger than {max_bytes} bytes.", close=True)
    length = request.headers.get("content-length", "")
    if length.isdecimal() and (len(length) > 18 or int(length) > max_bytes):
        raise too_large

    async def read() -> bytes:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > max_bytes:
                raise too_large
        return bytes(body)

    try:
        return await asyncio.wait_for(read(), limits.client_timeout)
    except asyncio.TimeoutError:
        raise APIError(408, "The request did not come to its end in time.", close=True) from None


@contextlib.contextmanager
def _watching(receive: Receive, queue: UpdateQueue) -> Iterator[None]:
    """Fail the queue when the client leaves."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        queue.fail(ClientDisconnect())

    task = asyncio.get_running_loop().create_task(watch())
    try:
        yield
    finally:
        task.cancel()


def _as_api_error(error: Exception, scope: Scope) -> APIError:
    if isinstance(error, APIError):
        return error
    if isinstance(error, HTTPException):
        if error.status_code == 405:
            allow = (error.headers or {}).get("Allow")
            return APIError(405, "This path does not answer to that method.", allow=allow)
        return APIError(404, "There is nothing at this path. Completions are at /v1/completions")
    _log.exception("a request failed, and was answered with 500", exc_info=error)
    return broken()


def _no_such_model(name: str) -> APIError:
    return APIError(404, f"The model served here is {name}.", "model", "model_not_found")


def json_response(
    content: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """An answer in JSON."""
    return Response(to_json(content), status, headers, "application/json")
