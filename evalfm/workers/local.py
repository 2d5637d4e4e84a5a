"""Workers on this machine: a process for each device."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from evalfm.errors import EvalfmError
from evalfm.workers.children import how_it_ended, search_path
from evalfm.workers.cores import WORKERS_HERE, usable_cores
from evalfm.workers.devices import device_class, name_of, visible
from evalfm.workers.job import Job, Lost, Message
from evalfm.workers.process import GRACE_SECONDS, receive, send

START_SECONDS = 120.0
KILLED = "was killed (SIGKILL)"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from evalfm.workers.process import main; main()"


class LocalCrew:
    """One process per device; implements ``Crew``.

    A process sees its own GPU alone, and takes its share of the processor's cores and of the memory. Ctrl-C reaches
    this process alone, which ends the others; should it be killed, they end by themselves.
    """

    def __init__(self, devices: Sequence[str], together: int | None = None, folder: Path | None = None) -> None:
        """``devices`` as ``devices.resolve`` gives them, one process each; nothing is started yet.

        ``together`` processes share the machine; None is these alone. ``folder`` is their working folder; None is that
        of this process.
        """
        self._devices, self._folder = tuple(devices), folder
        self._together = together or len(self._devices)
        self._heard: queue.Queue[tuple[int, _Process, Message | None]] = queue.Queue()
        self._processes: dict[int, _Process] = {}

    def __enter__(self) -> Self:
        try:
            # They load at the same time.
            for number in range(len(self._devices)):
                self._start(number)
            self._wait_for(set(self._processes))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        there = list(self._processes.values())
        self._processes = {}
        for process in there:
            process.hang_up()
        for process in there:
            process.end()

    @property
    def names(self) -> tuple[str, ...]:
        """Such as ``GPU 1`` or ``CPU process 2``."""
        return tuple(name_of(device, position) for position, device in enumerate(self._devices))

    @property
    def where(self) -> str:
        """Such as ``2 workers on this machine``."""
        return f"{len(self._devices)} workers on this machine"

    @property
    def process_ids(self) -> tuple[int, ...]:
        """The system's number of each process that is there."""
        return tuple(process.id for process in self._processes.values())

    def send(self, worker: int, job: Job) -> None:
        """As ``Crew.send``; that the process is gone is heard from ``listen``."""
        self._processes[worker].send(job)

    def listen(self, seconds: float) -> list[tuple[int, Message]]:
        """As ``Crew.listen``."""
        heard: list[tuple[int, Message]] = []
        with suppress(queue.Empty):
            heard += self._taken(self._heard.get(timeout=seconds))
            while True:
                heard += self._taken(self._heard.get_nowait())
        return heard

    def restart(self, worker: int) -> None:
        """As ``Crew.restart``."""
        self._start(worker)
        self._wait_for({worker})

    def _start(self, number: int) -> None:
        process = _Process(self._devices[number], self._together, self._folder)
        self._processes[number] = process

        def repeat() -> None:
            with suppress(EOFError, OSError):
                while True:
                    self._heard.put((number, process, process.receive()))
            self._heard.put((number, process, None))

        threading.Thread(target=repeat, name=f"evalfm-worker-{number}", daemon=True).start()

    def _taken(self, heard: tuple[int, _Process, Message | None]) -> list[tuple[int, Message]]:
        """What counts of what was heard; None is the end of a process."""
        number, process, message = heard
        if self._processes.get(number) is not process:
            return []
        if message is not None:
            return [(number, message)]
        del self._processes[number]
        reason = process.how_it_ended()
        process.end()
        return [(number, Lost(reason))]

    def _wait_for(self, starting: set[int]) -> None:
        """Wait for the first word of each of ``starting``; what others say meanwhile is kept."""
        kept = []
        late = time.monotonic() + START_SECONDS
        while starting:
            try:
                number, process, message = self._heard.get(timeout=max(0.0, late - time.monotonic()))
            except queue.Empty:
                raise EvalfmError(
                    f"Worker processes did not start within {START_SECONDS:.0f} s; leave --devices out to work in one."
                ) from None
            if number not in starting or self._processes.get(number) is not process:
                kept.append((number, process, message))
            elif message is None:
                reason = process.how_it_ended()
                raise EvalfmError(f"A worker process {reason}; leave --devices out to work in one.")
            else:
                starting = starting - {number}
        for each in kept:
            self._heard.put(each)


class _Process:
    """A process and the line to it."""

    def __init__(self, device: str, together: int, folder: Path | None) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        share = str(max(1, usable_cores() // together))
        # What the user has said of threads holds.
        environment = {name: share for name in THREADS if together > 1} | os.environ | visible([device])
        environment |= {WORKERS_HERE: str(together)}
        # Ctrl-C reaches the parent alone.
        settings: dict[str, Any] = {"creationflags": 0x00000200} if os.name == "nt" else {"start_new_session": True}
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-c", START, json.dumps(search_path()), json.dumps(device_class(device))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            cwd=folder,
            **settings,
        )
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._in, self._out = self._child.stdin, self._child.stdout

    @property
    def id(self) -> int:
        return self._child.pid

    def send(self, job: Job) -> None:
        with suppress(OSError):
            send(self._in, job)  # type: ignore[arg-type]

    def receive(self) -> Message:
        """The next thing that it says.

        Raises:
            EOFError: it has ended.
        """
        message: Message = receive(self._out)  # type: ignore[arg-type]
        return message

    def how_it_ended(self) -> str:
        """The predicate of a sentence."""
        said = how_it_ended(self._child, self._errors)
        return f"{said}, perhaps for want of memory" if said == KILLED else said

    def hang_up(self) -> None:
        """Have it give back what it holds and end."""
        with suppress(OSError):
            self._in.close()

    def end(self) -> None:
        """Wait for its end, or kill it."""
        self.hang_up()
        try:
            self._child.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._errors.close()
