"""The thread that generates: requests join its batch between two steps, and leave when done.

First come, first served: continuations wait in one queue and take free places in its order. All
that have a place advance by one token a step, so none starves; and no step reads more than a
bounded number of prompt tokens, so a long queue of prompts does not halt those under way.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import torch

from minitx.config import Limits, SamplingConfig
from minitx.errors import BadInputError
from minitx.generation import Batch, Piece, Row
from minitx.model import Transformer
from minitx.serving.api_errors import Refusal, broken, stopping
from minitx.serving.jobs import Choice, Job, Told, Update
from minitx.serving.metrics import Metrics
from minitx.serving.places import place
from minitx.serving.prompt_texts import told_prompt
from minitx.serving.scoring import score
from minitx.tokenizer import Tokenizer

Deliver = Callable[[list[Update]], None]

_log = logging.getLogger("minitx")


class Engine:
    """Generates for many requests at once, in a thread of its own.

    Args:
        model: in eval mode; not changed while this runs.
        tokenizer: of the model.
        limits: how many at once, and how many may wait.
        metrics: told what happens.
        deliver: called in the engine's thread with what a step brought; must return quickly.

    Attributes:
        gave_up: it stopped, because the model does not work any more.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        limits: Limits,
        metrics: Metrics,
        deliver: Deliver,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.gave_up = False
        self._limits, self._metrics, self._deliver = limits, metrics, deliver
        self._batch = Batch(model, tokenizer)
        self._places: dict[Row, tuple[Job, Choice]] = {}
        self._prompt_tokens_a_step = max(1024, 2 * model.config.context_length)
        # Guards what follows, which other threads see.
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Job, Choice]] = deque()
        self._active = 0
        self._cancelled: set[Job] = set()
        self._closing = False
        self._row_seconds = 1.0
        self._thread = threading.Thread(target=self._run, name="minitx-engine", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Stop after the step under way; jobs that are not done fail."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    @property
    def active(self) -> int:
        """Continuations that are being generated."""
        return self._active

    @property
    def waiting(self) -> int:
        """Continuations that wait for a place."""
        return len(self._waiting)

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            Refusal: 429 if too many wait, 503 if the engine has stopped.
        """
        with self._changed:
            if self._closing or self.gave_up:
                raise stopping() if self._closing else broken()
            there = self._active + len(self._waiting)
            if there + len(job.choices) > self._limits.max_concurrent + self._limits.max_queue:
                wait = len(self._waiting) * self._row_seconds / self._limits.max_concurrent
                raise Refusal(
                    429,
                    "The queue of this server is full. Try again later.",
                    code="queue_full",
                    retry_after=wait,
                )
            self._waiting.extend((job, choice) for choice in job.choices)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Let a job go, done or not; its places are free at the next step."""
        with self._changed:
            if any(waiting is job for waiting, _ in self._waiting):
                self._waiting = deque(one for one in self._waiting if one[0] is not job)
            self._cancelled.add(job)
            self._changed.notify()

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
            if not (self._waiting or self._places or self._closing):
                # Nobody is here: the memory that the busiest hour took is given back.
                self._batch.clear()
            while not (self._waiting or self._places or self._closing):
                self._cancelled.clear()
                self._changed.wait()
            return not self._closing

    def _turn(self) -> None:
        self._remove_cancelled()
        joining = self._take_from_queue()
        try:
            if joining:
                self._tell(self._join(joining))
            if self._places:
                began = time.perf_counter()
                pieces = self._batch.step()
                self._metrics.step(time.perf_counter() - began, len(pieces))
                self._tell(map(self._update, pieces))
        except Exception:
            _log.exception("a step failed; the requests in it are answered with 500")
            lost = {job for job, _ in (*self._places.values(), *joining)}
            self._forget(lost)
            self._tell(Update(job, failure=broken()) for job in lost)
            # One bad request must not end the others' service, and a broken model must.
            self._batch.add([Row([0], SamplingConfig(max_new_tokens=1))])

    def _take_from_queue(self) -> list[tuple[Job, Choice]]:
        # From the front, as many as have a place and as one pass should read.
        taken: list[tuple[Job, Choice]] = []
        different: set[int] = set()
        longest = 0
        with self._changed:
            free = self._limits.max_concurrent - len(self._places)
            while self._waiting and len(taken) < free:
                job, choice = self._waiting[0]
                ids = job.prompt_ids[choice.prompt]
                longest = max(longest, len(ids))
                different.add(id(ids))
                if taken and len(different) * longest > self._prompt_tokens_a_step:
                    break
                taken.append(self._waiting.popleft())
            self._active = len(self._places) + len(taken)
        return taken

    def _join(self, joining: Sequence[tuple[Job, Choice]]) -> list[Update]:
        found: list[Update] = []
        rows: list[Row] = []
        refused: set[Job] = set()
        for job, choice in joining:
            if job in refused:
                continue
            if job.scores_prompts:
                found.append(self._score(job, choice))
            if choice.row is None:
                job.left -= 1
                found.append(Update(job, choice.index, finish_reason="length"))
                continue
            try:
                self._batch.check(choice.row)
            except BadInputError as error:
                refused.add(job)
                found.append(Update(job, failure=Refusal(400, f"{error.what}.")))
                continue
            rows.append(choice.row)
            self._places[choice.row] = (job, choice)
        self._forget(refused, keep_batch=True)
        pieces = self._batch.add([row for row in rows if row in self._places])
        self._metrics.tokens(len(pieces))
        found += map(self._update, pieces)
        return found

    def _score(self, job: Job, choice: Choice) -> Update:
        ids, text = job.prompt_ids[choice.prompt], job.prompt_texts[choice.prompt]
        tokens = told_prompt(self.tokenizer, ids, text, score(self.model, ids))
        return Update(job, choice.index, prompt_tokens=tokens)

    def _update(self, piece: Piece) -> Update:
        row = piece.row
        job, choice = self._places[row]
        now = time.perf_counter()
        if job.first_token is None:
            job.first_token = now
            self._metrics.first_token(now - job.arrived)
        job.n_new += 1
        tokens: tuple[Told, ...] = ()
        if row.record:
            said, content = choice.said, self.tokenizer.token_bytes(row.ids[-1])
            choice.said = len(row.stream.text) + len(row.stream.held)
            tokens = (Told(row.ids[-1], place(content, said, choice.said), row.chosen[-1]),)
        if piece.finish_reason is not None:
            del self._places[row]
            job.left -= 1
            self._row_seconds += 0.1 * (now - job.arrived - self._row_seconds)
        return Update(job, choice.index, piece.text, tokens, (), 1, piece.finish_reason)

    def _remove_cancelled(self) -> None:
        with self._changed:
            gone, self._cancelled = self._cancelled, set()
        self._forget(gone, keep_batch=True)

    def _forget(self, jobs: set[Job], keep_batch: bool = False) -> None:
        """Drop what the engine has of some jobs; or all that is in the batch, with it."""
        if not jobs and keep_batch:
            return
        rows = [row for row, (job, _) in self._places.items() if not keep_batch or job in jobs]
        for row in rows:
            del self._places[row]
            if keep_batch:
                self._batch.remove(row)
        if not keep_batch:
            self._batch.clear()
        with self._changed:
            self._waiting = deque(one for one in self._waiting if one[0] not in jobs)

    def _tell(self, updates: Iterable[Update]) -> None:
        found = list(updates)
        self._active = len(self._places)
        if found:
            self._deliver(found)

    def _fail_all(self, refusal: Refusal) -> None:
        with self._changed:
            jobs = {job for job, _ in (*self._waiting, *self._places.values())}
            self._waiting.clear()
        self._places.clear()
        self._active = 0
        self._deliver([Update(job, failure=refusal) for job in jobs])
