"""The ASGI application: what each path answers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import anyio.to_thread
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from minitx.config import Limits
from minitx.model import Transformer
from minitx.serving.access import Guard
from minitx.serving.answers import DONE, Answer, event, to_json
from minitx.serving.api_errors import Refusal, broken, stopping
from minitx.serving.batch_engine import Engine
from minitx.serving.body import read_body
from minitx.serving.completion_request import CompletionRequest, parse_completion, parse_json
from minitx.serving.jobs import Job, Update, make_job
from minitx.serving.metrics import Metrics
from minitx.serving.records import CLIENT_LEFT, RequestRecord
from minitx.serving.update_queue import ClientLeftError, Inbox
from minitx.tokenizer import Tokenizer

_SMALL_BODY = 16_384
_RECORD = "minitx.record"
_EVENT_STREAM = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    # Asks proxies in between not to gather the pieces up.
    (b"x-accel-buffering", b"no"),
]
_log = logging.getLogger("minitx")


@dataclass(frozen=True)
class Served:
    """The model that is served.

    Attributes:
        name: as clients know it.
        model: in eval mode.
        tokenizer: of the model.
        created: when its weights were written, in seconds since 1970.
        fingerprint: of the weights; None if they have no manifest.
    """

    name: str
    model: Transformer
    tokenizer: Tokenizer
    created: int
    fingerprint: str | None = None


class Service:
    """Answers requests with a model. Made and used in a running event loop; an ASGI application.

    Args:
        served: the model.
        limits: what is taken on.
        token: that clients must show; None for none.
        host: that the server listens at, if that is this machine alone; else None.
        on_request: told of each request when it has ended.

    Attributes:
        engine: that generates.
        draining: no new request is taken on.
    """

    def __init__(
        self,
        served: Served,
        limits: Limits,
        token: str | None = None,
        host: str | None = None,
        on_request: Callable[[RequestRecord], None] | None = None,
    ) -> None:
        self._served, self._limits, self._on_request = served, limits, on_request
        self._loop = asyncio.get_running_loop()
        self._inboxes: dict[Job, Inbox] = {}
        self._metrics = Metrics()
        self.engine = Engine(
            served.model, served.tokenizer, limits, self._metrics, self._deliver_from_thread
        )
        self._metrics.gauge("queue_length", "Waiting continuations.", lambda: self.engine.waiting)
        self._metrics.gauge("active_rows", "Running continuations.", lambda: self.engine.active)
        self.draining = False
        router = Router(
            [
                Route("/v1/completions", _Endpoint(self._completions), methods=["POST"]),
                Route("/v1/models", self._models, methods=["GET"]),
                Route("/v1/models/{name}", self._model, methods=["GET"]),
                Route("/health", self._health, methods=["GET"]),
                Route("/metrics", self._show_metrics, methods=["GET"]),
            ],
            redirect_slashes=False,
        )
        self._app = Guard(router, token, host)

    @property
    def busy(self) -> int:
        """Completions that are not yet answered in full."""
        return len(self._inboxes)

    def cut_off(self) -> None:
        """End all completions now."""
        for inbox in list(self._inboxes.values()):
            inbox.fail(stopping())

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
            await self._app(scope, receive, noting)
        except ClientLeftError:
            record.status, record.reason = CLIENT_LEFT, "the client left"
        except Exception as error:
            refusal = _as_refusal(error, scope)
            record.reason = refusal.message
            if started:
                record.status = refusal.status
            else:
                response = Response(
                    to_json(refusal.body), refusal.status, refusal.headers, "application/json"
                )
                await response(scope, receive, noting)
        finally:
            record.seconds = time.perf_counter() - began
            self._metrics.answered(record.status)
            if self._on_request is not None:
                self._on_request(record)

    async def _completions(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.draining:
            raise stopping()
        limits = self._limits
        body = await read_body(
            Headers(scope=scope), receive, limits.max_body_bytes, limits.client_timeout
        )
        request = parse_completion(parse_json(body), limits.max_tokens)
        self._check(request)
        if len(body) <= _SMALL_BODY:
            job = self._make_job(request)
        else:
            job = await anyio.to_thread.run_sync(self._make_job, request)
        answer = Answer(job, self._served.name, self._served.fingerprint, self._served.tokenizer)
        with self._under_way(job, scope[_RECORD]) as inbox, _watching(receive, inbox):
            # Before anything is sent: a job that can't be begun is answered with its status.
            updates = await inbox.take()
            if request.stream:
                await self._stream(answer, updates, inbox, scope[_RECORD], send)
                return
            pieces = answer.take(updates)
            while not answer.done:
                pieces += answer.take(await inbox.take())
        response = Response(to_json(answer.whole(pieces)), media_type="application/json")
        await response(scope, receive, send)

    async def _stream(
        self,
        answer: Answer,
        updates: list[Update],
        inbox: Inbox,
        record: RequestRecord,
        send: Send,
    ) -> None:
        async def write(content: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": content, "more_body": more})

        await send({"type": "http.response.start", "status": 200, "headers": _EVENT_STREAM})
        try:
            while True:
                pieces = answer.take(updates)
                if pieces:
                    await write(b"".join(map(answer.event, pieces)))
                if answer.done:
                    break
                updates = await inbox.take()
        except Refusal as refusal:
            # The status was sent long ago: what is left is to say so in the stream.
            record.status, record.reason = refusal.status, refusal.message
            await write(event(refusal.body), more=False)
            return
        usage = answer.usage_event() if answer.includes_usage else b""
        await write(usage + DONE, more=False)

    @contextlib.contextmanager
    def _under_way(self, job: Job, record: RequestRecord) -> Iterator[Inbox]:
        """Let the engine work on a job for as long as somebody waits for it."""
        request, limits = job.request, self._limits
        most = limits.max_unsent * len(job.choices) if request.stream else None
        inbox = Inbox(most, lambda: self.engine.cancel(job))
        self.engine.submit(job)
        self._inboxes[job] = inbox
        late = Refusal(504, "The request took too long.", code="timeout")
        timer = self._loop.call_later(limits.request_timeout, inbox.fail, late)
        try:
            yield inbox
        finally:
            timer.cancel()
            del self._inboxes[job]
            self.engine.cancel(job)
            record.n_choices, record.n_new = len(job.choices), job.n_new
            record.n_prompt_tokens = job.n_prompt_tokens
            if job.first_token is not None:
                record.seconds_to_first_token = job.first_token - job.arrived
            self._metrics.completed(job.n_prompt_tokens, time.perf_counter() - job.arrived)

    def _make_job(self, request: CompletionRequest) -> Job:
        served = self._served
        return make_job(request, served.model, served.tokenizer, self._limits.max_prompt_tokens)

    def _check(self, request: CompletionRequest) -> None:
        if request.model is not None and request.model != self._served.name:
            raise _no_such_model(self._served.name)
        most = self._limits.max_concurrent
        if request.n_choices > most:
            raise Refusal(400, f"Prompts times n may be at most {most}.", "n")

    async def _models(self, request: Request) -> Response:
        return _json({"object": "list", "data": [self._description()]})

    async def _model(self, request: Request) -> Response:
        if request.path_params["name"] != self._served.name:
            raise _no_such_model(self._served.name)
        return _json(self._description())

    async def _health(self, request: Request) -> Response:
        if self.engine.gave_up:
            return _json({"status": "failed"}, 503)
        return _json({"status": "stopping"}, 503) if self.draining else _json({"status": "ok"})

    async def _show_metrics(self, request: Request) -> Response:
        # The collectors read files of the system, and wait for locks.
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
        # The loop is closed only once nobody waits.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._deliver, updates)

    def _deliver(self, updates: list[Update]) -> None:
        for update in updates:
            inbox = self._inboxes.get(update.job)
            if inbox is not None:
                inbox.put(update)


class _Endpoint:
    """An ASGI application from a method: a Route calls a plain method with a request instead."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


@contextlib.contextmanager
def _watching(receive: Receive, inbox: Inbox) -> Iterator[None]:
    """Let the inbox fail when the client leaves."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        inbox.fail(ClientLeftError())

    task = asyncio.get_running_loop().create_task(watch())
    try:
        yield
    finally:
        task.cancel()


def _as_refusal(error: Exception, scope: Scope) -> Refusal:
    if isinstance(error, Refusal):
        return error
    if isinstance(error, HTTPException):
        if error.status_code == 405:
            return Refusal(405, "This path does not answer to that method.")
        if scope["path"] == "/v1/chat/completions":
            return Refusal(404, "This model continues text and does not chat: /v1/completions")
        return Refusal(404, "There is nothing at this path. Completions are at /v1/completions")
    _log.exception("a request failed, and was answered with 500", exc_info=error)
    return broken()


def _no_such_model(name: str) -> Refusal:
    return Refusal(404, f"The model served here is {name}.", "model", "model_not_found")


def _json(content: object, status: int = 200) -> Response:
    return Response(to_json(content), status, media_type="application/json")
