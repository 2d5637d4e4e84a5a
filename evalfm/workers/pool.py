"""Many jobs, a few workers: who does what next, what is tried again, and how it is shown."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Protocol, Self

from evalfm.errors import EvalfmError
from evalfm.progress import Progress
from evalfm.workers.job import Advanced, Fault, Job, Lost, Message, Raised, Returned, Said

TRIES = 3
"""How often a job is begun whose worker is lost; what it had stored or finished is not done again."""
LISTEN_SECONDS = 1.0
_TICKETS = itertools.count(1)


@dataclass(frozen=True)
class Done:
    """A job at its end.

    Attributes:
        number: which of the jobs it is, from 0.
        value: what it returned; None where it has a ``fault``.
        seconds: from its last beginning.
    """

    number: int
    value: Any
    fault: Fault | None
    seconds: float


@dataclass
class _Task:
    """A job of the list (``number``), or one beside another (None)."""

    job: Job
    number: int | None
    begun: float = 0.0
    ticket: int = 0


@dataclass
class _Desk:
    """What a worker has and does."""

    warm: str | None = None
    task: _Task | None = None
    helped: set[int] = field(default_factory=set)


class Pool:
    """Jobs over the workers of a crew.

    A free worker takes a job for which it has loaded already what it needs, else one of which no other worker has,
    else the next. Where none waits it does what lies ``beside`` a job that runs, once each. A job whose worker is lost
    is begun anew, ``TRIES`` times in all.
    """

    def __init__(self, crew: Crew, progress: Progress, started: Callable[[int], None] = lambda number: None) -> None:
        """``crew`` has been entered; ``started`` is called with the number of each job that begins."""
        self._crew, self._progress, self._started = crew, progress, started
        self._desks = {number: _Desk() for number in range(len(crew.names))}
        self._bars: dict[tuple[int, str], _Bar] = {}
        self._progress.say(self._crew.where)

    def run(self, jobs: Sequence[Job]) -> Iterator[Done]:
        """Yield the end of every job as soon as it is there, in any order; jobs beside them may go on.

        Raises:
            EvalfmError: no worker is left and none can be started.
        """
        waiting = [_Task(job, number) for number, job in enumerate(jobs)]
        tries = [0] * len(jobs)
        open_jobs = set(range(len(jobs)))
        while open_jobs:
            self._hand_out(waiting, tries)
            for worker, message in self._crew.listen(LISTEN_SECONDS):
                task = self._take(worker, message)
                if task is None or task.number is None:
                    continue
                if isinstance(message, Lost) and tries[task.number] < TRIES:
                    waiting.insert(0, task)
                    continue
                open_jobs.discard(task.number)
                yield Done(task.number, *_ending(message), time.monotonic() - task.begun)

    def _hand_out(self, waiting: list[_Task], tries: list[int]) -> None:
        for worker, desk in self._desks.items():
            if desk.task is not None:
                continue
            task = self._next(desk, waiting)
            if task is None:
                continue
            desk.task = task
            if task.number is not None:
                waiting.remove(task)
                tries[task.number] += 1
                self._started(task.number)
            desk.warm = task.job.warm or desk.warm
            task.begun, task.ticket = time.monotonic(), next(_TICKETS)
            self._crew.send(worker, replace(task.job, ticket=task.ticket))

    def _next(self, desk: _Desk, waiting: Sequence[_Task]) -> _Task | None:
        if waiting:
            elsewhere = {other.warm for other in self._desks.values()} - {None, ""}
            ours = (task for task in waiting if task.job.warm and task.job.warm == desk.warm)
            new = (task for task in waiting if task.job.warm not in elsewhere)
            return next(itertools.chain(ours, new, waiting))
        for other in self._desks.values():
            task = other.task
            if task is None or task.number is None or task.job.beside is None or task.number in desk.helped:
                continue
            desk.helped.add(task.number)
            return _Task(task.job.beside, None)
        return None

    def _take(self, worker: int, message: Message) -> _Task | None:
        """Show what a worker says; the task that it has ended with this, if any."""
        desk, name = self._desks[worker], self._crew.names[worker]
        prefix = f"{name}: " if len(self._crew.names) > 1 else ""
        if isinstance(message, Said):
            self._progress.say(prefix + message.text)
            return None
        if isinstance(message, Advanced):
            self._advance(worker, prefix, message)
            return None
        for key in [key for key in self._bars if key[0] == worker]:
            self._bars.pop(key).end()
        if isinstance(message, Returned | Raised) and desk.task is not None and message.ticket != desk.task.ticket:
            # The end of what another pool had this worker do beside.
            return None
        task, desk.task = desk.task, None
        if isinstance(message, Lost):
            self._replace(worker, message)
        return task

    def _advance(self, worker: int, prefix: str, at: Advanced) -> None:
        key = (worker, at.label)
        if key not in self._bars:
            self._bars[key] = _Bar(self._progress, prefix + at.label, at.total)
        self._bars[key].move_to(at.done)
        if at.ended:
            self._bars.pop(key).end()

    def _replace(self, worker: int, lost: Lost) -> None:
        name = self._crew.names[worker]
        self._progress.say(f"{name} {lost.reason}; it is started anew.")
        try:
            self._crew.restart(worker)
        except EvalfmError as error:
            del self._desks[worker]
            if not self._desks:
                raise
            self._progress.say(f"{name} cannot be started again, the others go on: {error}")
            return
        self._desks[worker] = _Desk()


class _Bar:
    """A bar of the progress that is moved from outside."""

    def __init__(self, progress: Progress, label: str, total: int | None) -> None:
        self._steps = progress.track(itertools.repeat(None), label, total)
        self._done = -1
        self.move_to(0)

    def move_to(self, done: int) -> None:
        """Show that ``done`` items are through; the first step makes the bar appear."""
        while self._done < done:
            next(self._steps)
            self._done += 1

    def end(self) -> None:
        """Take the bar away."""
        close = getattr(self._steps, "close", None)
        if close is not None:
            close()


def _ending(message: Message) -> tuple[Any, Fault | None]:
    if isinstance(message, Returned):
        return message.value, None
    if isinstance(message, Raised):
        return None, message.fault
    assert isinstance(message, Lost)
    sentence = f"the worker that had it was lost {TRIES} times; the last one {message.reason}"
    return None, Fault("WorkerLost", sentence)


class Crew(Protocol):
    """Workers by number, each with a device of its own; a context manager, on leaving which all of them end.

    Entering starts every worker and waits until each is ready. A worker does one job at a time.
    """

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End all workers: at once, whatever they do; what they had stored or finished stays."""

    @property
    def names(self) -> tuple[str, ...]:
        """What each worker is called where one speaks of it, such as ``GPU 1``; as many as there are workers."""

    @property
    def where(self) -> str:
        """How many workers there are, and where, in words."""

    def send(self, worker: int, job: Job) -> None:
        """Let an idle worker begin with ``job``; returns at once."""

    def listen(self, seconds: float) -> list[tuple[int, Message]]:
        """What workers say, each with its number and in its order; empty after ``seconds`` of silence.

        A job ends with ``Returned``, ``Raised`` or ``Lost``. A worker that is ``Lost`` says nothing more.
        """

    def restart(self, worker: int) -> None:
        """Start a lost worker anew; returns when it is ready.

        Raises:
            EvalfmError: it cannot be started.
        """
