"""The thread that generates: requests join its batch between two steps, and leave when done.

Continuous batching (Yu et al. 2022, Orca, section 3.1). First come, first served: continuations
wait in one queue and take free slots in its order. All in a slot advance by one token a step, so
none starves; and no step reads more than a bounded number of prompt tokens, so that a long queue
of prompts does not hold up those under way.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import cast

import torch

from minitx.checkpoint import SavedModel
from minitx.config import Limits, SamplingConfig
from minitx.errors import BadInputError, as_sentence
from minitx.generation import Row, TextBatch
from minitx.serving.api_errors import APIError, broken, stopping
from minitx.serving.jobs import Choice, Job, TokenInfo, Update, prompt_tokens, text_offset
from minitx.serving.metrics import Metrics

Deliver = Callable[[list[Update]], None]

_log = logging.getLogger("minitx")


class Engine:
    """Generates for many requests at once, in a thread of its own, with a model in eval mode.

    `deliver` is called in that thread with the updates of a step, and must return quickly. The
    engine has stopped by itself, because the model no longer works, if it `gave_up`. `active`
    continuations are being generated.
    """

    def __init__(
        self, served: SavedModel, limits: Limits, metrics: Metrics, deliver: Deliver
    ) -> None:
        self.gave_up = False
        self._served = served
        self._limits, self._metrics, self._deliver = limits, metrics, deliver
        self._batch = TextBatch(served.model, served.tokenizer)
        self._prompt_tokens_a_step = max(1024, 2 * served.model.config.context_length)
        # Guards the attributes below, which other threads use.
        self._changed = threading.Condition()
        self._waiting: deque[Choice] = deque()
        self.active = 0
        self._cancelled: set[Job] = set()
        self._closing = False
        self._row_seconds = 1.0
        self._thread = threading.Thread(target=self._run, name="minitx-engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop after the step under way; jobs that are not done fail."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    @property
    def waiting(self) -> int:
        """Continuations that wait for a slot."""
        return len(self._waiting)

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            APIError: 429 if too many wait, 503 if the engine has stopped.
        """
        with self._changed:
            if self._closing or self.gave_up:
                raise stopping() if self._closing else broken()
            n_present = self.active + len(self._waiting)
            if n_present + len(job.choices) > self._limits.max_concurrent + self._limits.max_queue:
                wait = len(self._waiting) * self._row_seconds / self._limits.max_concurrent
                full = "The queue of this server is full. Try again later."
                raise APIError(429, full, code="queue_full", retry_after=wait)
            self._waiting.extend(job.choices)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Drop a job, done or not; its slots are free at the next step."""
        with self._changed:
            self._waiting = deque(choice for choice in self._waiting if choice.job is not job)
            self._cancelled.add(job)
            self._changed.notify()

    @property
    def _running(self) -> list[Choice]:
        return cast("list[Choice]", self._batch.rows)

    @torch.inference_mode()
    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._turn()
        except Exception:
            _log.exception("the engine failed, and stops")
            with self._changed:
                self.gave_up = True
        finally:
            self._fail_all(broken() if self.gave_up else stopping())

    def _wait_for_work(self) -> bool:
        with self._changed:
            while not (self._waiting or self._running or self._closing):
                # Idle: give back the memory that the largest batch took.
                self._batch.clear()
                self._cancelled.clear()
                self._changed.wait()
            return not self._closing

    def _turn(self) -> None:
        with self._changed:
            gone, self._cancelled = self._cancelled, set()
        self._forget(gone)
        joining = self._take_from_queue()
        try:
            if joining:
                self._send(self._join(joining))
            if self._running:
                began = time.perf_counter()
                rows = self._batch.step()
                self._metrics.step(time.perf_counter() - began, len(rows))
                self._send(map(self._told, rows))
        except Exception:
            _log.exception("a step failed; the requests in it are answered with 500")
            lost = {choice.job for choice in (*self._running, *joining)}
            # A step that failed may have left any row half done.
            self._batch.clear()
            self._forget(lost)
            self._send(Update(job, failure=broken()) for job in lost)
            self._require_working_model()

    def _take_from_queue(self) -> list[Choice]:
        # From the front: as many as there are slots for, and as one pass should read.
        taken: list[Choice] = []
        different: set[int] = set()
        longest = 0
        with self._changed:
            free = self._limits.max_concurrent - len(self._running)
            while self._waiting and len(taken) < free:
                ids = self._waiting[0].prompt_ids
                longest = max(longest, len(ids))
                different.add(id(ids))
                if taken and len(different) * longest > self._prompt_tokens_a_step:
                    break
                taken.append(self._waiting.popleft())
            self.active = len(self._running) + len(taken)
        return taken

    def _join(self, joining: Sequence[Choice]) -> list[Update]:
        updates: list[Update] = []
        rows: list[Choice] = []
        refused: set[Job] = set()
        for choice in joining:
            job, request = choice.job, choice.job.request
            if job in refused:
                continue
            try:
                if request.echo and request.logprobs is not None:
                    tokens = prompt_tokens(self._served, choice)
                    updates.append(Update(job, choice.index, tokens=tokens))
                if request.max_tokens == 0:
                    updates.append(Update(job, choice.index, finish_reason="length"))
                    continue
                self._batch.check(choice)
            except Exception as error:
                refused.add(job)
                if isinstance(error, BadInputError):
                    updates.append(Update(job, failure=APIError(400, as_sentence(error.what))))
                else:
                    updates.append(_failed(job, error))
                continue
            rows.append(choice)
        self._forget(refused)
        added = self._add([choice for choice in rows if choice.job not in refused])
        self._metrics.tokens(len(added))
        updates += map(self._told, added)
        return updates

    def _add(self, rows: Sequence[Row]) -> list[Row]:
        try:
            return self._batch.add(rows)
        except Exception as error:
            if len(rows) == 1:
                rows[0].failure = error
                self._require_working_model()
                return list(rows)
            # The others join as if that one were not beside them.
            return [row for index in range(len(rows)) for row in self._add(rows[index : index + 1])]

    def _require_working_model(self) -> None:
        # One bad request must not end the service; a broken model raises here, and does.
        self._batch.add([Row([0], SamplingConfig(max_new_tokens=1))])

    def _told(self, row: Row) -> Update:
        try:
            if row.failure is not None:
                raise row.failure
            return self._update(row)
        except Exception as error:
            return _failed(cast(Choice, row).job, error)

    def _update(self, row: Row) -> Update:
        choice = cast(Choice, row)
        job, now = choice.job, time.perf_counter()
        if job.first_token is None:
            job.first_token = now
            self._metrics.first_token_seconds.observe(now - job.arrived)
        job.n_new += 1
        tokens: tuple[TokenInfo, ...] = ()
        if choice.record:
            token, before = choice.ids[-1], choice.n_characters
            choice.n_characters = len(choice.stream.text) + len(choice.stream.held)
            content = self._served.tokenizer.token_bytes(token)
            offset = text_offset(content, before, choice.n_characters)
            tokens = (TokenInfo(token, len(choice.echoed) + offset, choice.chosen[-1]),)
        if row.finish_reason is not None:
            self._row_seconds += 0.1 * (now - job.arrived - self._row_seconds)
        return Update(job, choice.index, row.piece, tokens, row.finish_reason)

    def _forget(self, jobs: set[Job]) -> None:
        """Remove jobs from the queue and the batch."""
        for choice in [choice for choice in self._running if choice.job in jobs]:
            self._batch.remove(choice)
        with self._changed:
            self._waiting = deque(choice for choice in self._waiting if choice.job not in jobs)

    def _send(self, updates: Iterable[Update]) -> None:
        sent = list(updates)
        self.active = len(self._running)
        if sent:
            self._deliver(sent)

    def _fail_all(self, failure: APIError) -> None:
        with self._changed:
            jobs = {choice.job for choice in (*self._waiting, *self._running)}
            self._waiting.clear()
        self._batch.clear()
        self.active = 0
        self._deliver([Update(job, failure=failure) for job in jobs])


def _failed(job: Job, error: Exception) -> Update:
    _log.error("a request failed, and was answered with 500", exc_info=error)
    return Update(job, failure=broken())
