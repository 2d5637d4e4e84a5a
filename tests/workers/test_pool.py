import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pytest

from evalfm.errors import EvalfmError
from evalfm.workers.job import Advanced, Fault, Job, Lost, Message, Raised, Returned, Said
from evalfm.workers.pool import TRIES, Done, Pool


class Shown:
    """Progress that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.bars: dict[str, int] = {}
        self.open = 0

    def track(self, items: Iterable[Any], label: str, total: int | None = None) -> Iterator[Any]:
        self.open += 1
        try:
            for done, item in enumerate(items):
                self.bars[label] = done
                yield item
        finally:
            self.open -= 1

    def say(self, message: str) -> None:
        self.lines.append(message)


class Scripted:
    """A crew whose workers answer by a function, one job a call of ``listen``, in the order in which they were sent."""

    def __init__(self, workers: int, answer: Any, restartable: bool = True) -> None:
        self.names = tuple(f"worker {number}" for number in range(workers))
        self.where = f"{workers} workers of a test"
        self.sent: list[tuple[int, str]] = []
        self.restarts: list[int] = []
        self._answer, self._restartable = answer, restartable
        self._busy: list[tuple[int, Job]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def send(self, worker: int, job: Job) -> None:
        assert worker not in [each for each, _ in self._busy], "a worker does one job at a time"
        self.sent.append((worker, job.label))
        self._busy.append((worker, job))

    def listen(self, seconds: float) -> list[tuple[int, Message]]:
        for place, (worker, job) in enumerate(self._busy):
            messages: list[Message] = self._answer(worker, job)
            if messages:
                del self._busy[place]
                return [(worker, self._stamped(message, job)) for message in messages]
        raise AssertionError("everybody waits for ever")

    def _stamped(self, message: Message, job: Job) -> Message:
        late = not isinstance(message, Returned | Raised) or message.ticket
        return message if late else replace(message, ticket=job.ticket)

    def restart(self, worker: int) -> None:
        if not self._restartable:
            raise EvalfmError("There is no room.")
        self.restarts.append(worker)


def done(worker: int, job: Job) -> list[Message]:
    return [Returned(job.label)]


def job(label: str, warm: str = "", beside: Job | None = None) -> Job:
    return Job("m:f", {}, label, warm, beside)


def run(crew: Scripted, jobs: list[Job], shown: Shown | None = None) -> list[Done]:
    return list(Pool(crew, shown or Shown()).run(jobs))


def test_the_late_end_of_another_pool_s_job_is_no_end_of_this_one_s() -> None:
    late = itertools.count()

    def answer(worker: int, job: Job) -> list[Message]:
        return [Returned("late", -1)] if next(late) == 0 else [Returned("own")]

    class Late(Scripted):
        def listen(self, seconds: float) -> list[tuple[int, Message]]:
            ((worker, job),) = self._busy
            (heard,) = super().listen(seconds)
            self._busy = [] if heard[1].ticket == job.ticket else [(worker, job)]
            return [heard]

    (end,) = run(Late(1, answer), [job("a")])
    assert end.value == "own"


def test_every_job_is_done_once() -> None:
    crew = Scripted(3, done)
    ends = run(crew, [job(str(number)) for number in range(10)])
    assert sorted((end.number, end.value, end.fault) for end in ends) == [(n, str(n), None) for n in range(10)]
    assert sorted(label for _, label in crew.sent) == sorted(str(number) for number in range(10))


def test_a_worker_keeps_to_what_it_has_loaded_and_leaves_others_theirs() -> None:
    crew = Scripted(2, done)
    run(crew, [job(f"{encoder}{task}", encoder) for task in range(3) for encoder in "ab"])
    assert [label for worker, label in crew.sent if worker == 0] == ["a0", "a1", "a2"]
    assert [label for worker, label in crew.sent if worker == 1] == ["b0", "b1", "b2"]


def test_an_idle_worker_helps_once_and_is_not_waited_for() -> None:
    helped: list[int] = []

    def answer(worker: int, job: Job) -> list[Message]:
        if job.label == "help":
            helped.append(worker)
            return []
        # The long job ends when all others help.
        return [Returned(None)] if len(set(helped)) == 2 else []

    class Quiet(Scripted):
        def listen(self, seconds: float) -> list[tuple[int, Message]]:
            try:
                return super().listen(seconds)
            except AssertionError:
                return []

    crew = Quiet(3, answer)
    (end,) = run(crew, [job("long", beside=job("help"))])
    assert end.fault is None
    assert sorted(crew.sent) == [(0, "long"), (1, "help"), (2, "help")]


def test_a_worker_that_has_helped_does_not_help_the_same_job_again() -> None:
    looks = iter(range(6))

    def answer(worker: int, job: Job) -> list[Message]:
        return [Returned(None)] if job.label == "help" or next(looks) == 5 else []

    crew = Scripted(2, answer)
    crew_listen = crew.listen

    def listen(seconds: float) -> list[tuple[int, Message]]:
        try:
            return crew_listen(seconds)
        except AssertionError:
            return []

    crew.listen = listen  # type: ignore[method-assign]
    run(crew, [job("long", beside=job("help"))])
    assert crew.sent == [(0, "long"), (1, "help")]


@pytest.mark.parametrize(("is_lost", "order"), [(False, ["a1", "b0"]), (True, ["b0", "a1"])])
def test_what_a_worker_has_outlives_a_job_that_loads_nothing_but_not_its_process(
    is_lost: bool, order: list[str]
) -> None:
    losses = iter([False, is_lost])
    crew = Scripted(1, lambda worker, job: [Lost("was killed")] if next(losses, False) else [Returned(1)])
    pool = Pool(crew, Shown())
    list(pool.run([job("a0", "a"), job("plain")]))
    list(pool.run([job("b0", "b"), job("a1", "a")]))
    assert [label for _, label in crew.sent][-2:] == order


def test_help_that_fails_is_nobodys_concern() -> None:
    def answer(worker: int, job: Job) -> list[Message]:
        if job.label == "help":
            return [Raised(Fault("ValueError", "no"))]
        return [Returned(1)] if ("help" in [label for _, label in crew.sent]) else []

    crew = Scripted(2, answer)
    ends = run(crew, [job("long", beside=job("help"))])
    assert [(end.value, end.fault) for end in ends] == [(1, None)]


def test_a_lost_worker_is_started_anew_and_its_job_begun_again() -> None:
    losses = iter([True, False, False])
    shown = Shown()
    crew = Scripted(1, lambda worker, job: [Lost("was killed")] if next(losses) else [Returned(2)])
    ends = run(crew, [job("one"), job("two")], shown)
    assert [end.number for end in ends] == [0, 1]
    assert crew.sent == [(0, "one"), (0, "one"), (0, "two")]
    assert crew.restarts == [0]
    assert shown.lines == ["1 workers of a test", "worker 0 was killed; it is started anew."]


def test_a_job_that_kills_every_worker_fails_and_the_others_go_on() -> None:
    crew = Scripted(2, lambda worker, job: [Lost("was killed")] if job.label == "bad" else [Returned(1)])
    ends = {end.number: end for end in run(crew, [job("bad"), job("good"), job("better")])}
    assert [label for _, label in crew.sent].count("bad") == TRIES
    fault = ends[0].fault
    assert fault is not None
    assert fault.sentence == f"the worker that had it was lost {TRIES} times; the last one was killed"
    assert (ends[1].fault, ends[2].fault) == (None, None)


def test_where_a_worker_cannot_be_started_again_the_others_do_its_work() -> None:
    shown = Shown()
    crew = Scripted(2, lambda worker, job: [Lost("was killed")] if worker == 0 else [Returned(1)], restartable=False)
    ends = run(crew, [job(str(number)) for number in range(4)], shown)
    assert sorted(end.number for end in ends) == [0, 1, 2, 3]
    assert all(end.fault is None for end in ends)
    assert shown.lines[-1] == "worker 0 cannot be started again, the others go on: There is no room."


def test_where_nobody_is_left_it_is_said() -> None:
    crew = Scripted(1, lambda worker, job: [Lost("was killed")], restartable=False)
    with pytest.raises(EvalfmError, match="There is no room"):
        run(crew, [job("one")])


def test_words_and_bars_are_shown_under_the_workers_name() -> None:
    shown = Shown()
    bar = [Advanced("work", done, 9) for done in (0, 4)]
    crew = Scripted(2, lambda worker, job: [Said("hello"), *bar, Advanced("work", 9, 9, ended=True), Returned(None)])
    run(crew, [job("one")], shown)
    assert shown.lines == ["2 workers of a test", "worker 0: hello"]
    assert shown.bars == {"worker 0: work": 9}
    assert shown.open == 0


def test_the_bar_of_a_lost_worker_goes() -> None:
    shown = Shown()
    ends = iter([[Advanced("work", 2, 9), Lost("was killed")], [Returned(None)]])
    # Held, so that its own end does not take the bar away.
    pool = Pool(Scripted(1, lambda worker, job: next(ends)), shown)
    list(pool.run([job("one")]))
    assert (shown.bars, shown.open) == ({"work": 2}, 0)


def test_the_beginning_of_each_job_is_told(tmp_path: Path) -> None:
    begun: list[int] = []
    list(Pool(Scripted(1, done), Shown(), begun.append).run([job("one"), job("two")]))
    assert begun == [0, 1]
