"""Processes that read images, seen from their parent: started by hand, asked over pipes, answering in shared memory."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
import tempfile
import threading
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np

from evalfm.data.geometry import Geometry
from evalfm.data.locators import LinkedRoot
from evalfm.encoders.preprocessing import Prepared, Preparer
from evalfm.errors import EvalfmError
from evalfm.features.reader_process import HEADER_BYTES, ImageFiles, receive, row_in_work, send
from evalfm.workers.children import how_it_ended, search_path

Read = tuple[Prepared, dict[str, float]]
"""A prepared image, and the processor seconds of each stage of its making."""

CHUNK = 4
"""Images asked for at a time, at most; a process has two such requests, so that it never waits for the parent."""
_ONE_THREAD = ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMEXPR")
_KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "PILLOW_BLOCKS_MAX": "8",
}
"""A reader takes the same memory for every image; given back to the system in between, it costs as much as the work."""
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]);from evalfm.features.reader_process import main; main()"
)
_PATIENCE_SECONDS = 60.0
"""How long a process may take to start."""


class CannotStart(Exception):
    """Processes cannot be started here; its text is why."""


@dataclass(frozen=True)
class _Task:
    row: int
    locator: str
    result: Future[Read]


class ReaderPool:
    """Processes that read images of one data set for one encoder, until ``close``.

    A thread of this process stands before each of them; it waits and copies, and so leaves the interpreter to others.

    Raises:
        CannotStart: there is no interpreter to be started, or no memory to share.
    """

    def __init__(self, preparer: Preparer, files: ImageFiles, workers: int) -> None:
        self._preparer, self._files = preparer, files
        self._tasks: deque[_Task] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._broken: EvalfmError | None = None
        self._geometries: dict[tuple[int, int], Geometry] = {}
        self._processes: list[_Process] = []
        self._threads: list[threading.Thread] = []
        try:
            for _ in range(workers):
                self._processes.append(_Process(preparer, files))
            self._processes[0].wait_until_ready()
        except BaseException:
            self.close()
            raise
        for process in self._processes:
            thread = threading.Thread(target=self._serve, args=(process,), name="evalfm-reader", daemon=True)
            self._threads.append(thread)
            thread.start()

    @property
    def process_ids(self) -> tuple[int, ...]:
        """Their numbers."""
        return tuple(process.child.pid for process in self._processes)

    @property
    def is_broken(self) -> bool:
        """Whether a process has ended of itself, so that all work was given up."""
        return self._broken is not None

    def submit(self, row: int, locator: str) -> Future[Read]:
        """Have the image of ``row`` read.

        The result raises EvalfmError where it cannot be, or a process was killed.
        """
        task = _Task(row, locator, Future())
        with self._changed:
            if self._broken is not None:
                task.result.set_exception(self._broken)
                return task.result
            self._tasks.append(task)
            self._changed.notify()
        return task.result

    def kill(self) -> None:
        """End the processes and wait for nothing; for an owner that is gone without having closed."""
        self._closing = True
        for process in self._processes:
            process.child.kill()

    def close(self) -> None:
        """End the processes at once: they hold nothing that could be lost."""
        with self._changed:
            self._closing = True
            left = list(self._tasks)
            self._tasks.clear()
            self._changed.notify_all()
        for task in left:
            task.result.cancel()
        for process in self._processes:
            process.end()
        for thread in self._threads:
            thread.join()

    # One thread for each process

    def _serve(self, process: _Process) -> None:
        under_way: deque[tuple[int, list[_Task]]] = deque()
        free_slots = deque([0, CHUNK])
        try:
            process.wait_until_ready()
            while True:
                if len(under_way) < 2 and self._ask(process, under_way, free_slots):
                    continue
                if not under_way:
                    return
                self._answer(process, under_way, free_slots)
        except BaseException as error:
            self._give_up(process, error, [task for _, tasks in under_way for task in tasks])

    # Each in a call of its own, so that a thread that waits holds no image and no reader.

    def _ask(self, process: _Process, under_way: deque[tuple[int, list[_Task]]], free_slots: deque[int]) -> bool:
        """Send the next request, if there is one; without any under way wait for it."""
        tasks = self._take(wait=not under_way)
        if tasks:
            under_way.append((free_slots.popleft(), tasks))
            process.ask(tasks, under_way[-1][0])
        return bool(tasks)

    def _answer(self, process: _Process, under_way: deque[tuple[int, list[_Task]]], free_slots: deque[int]) -> None:
        answers = process.answers()
        first, tasks = under_way[0]
        for slot, (task, answer) in enumerate(zip(tasks, answers, strict=True), first):
            self._resolve(task, answer, process, slot)
        under_way.popleft()
        free_slots.append(first)

    def _take(self, *, wait: bool) -> list[_Task]:
        """Tasks for one request: few where few are left, so that all processes have some; none at the end."""
        while True:
            with self._changed:
                while not self._tasks and wait and not self._closing and self._broken is None:
                    self._changed.wait()
                share = -(-len(self._tasks) // (2 * len(self._processes)))
                tasks = [self._tasks.popleft() for _ in range(min(CHUNK, share))]
            wanted = [task for task in tasks if task.result.set_running_or_notify_cancel()]
            if wanted or not tasks:
                return wanted

    def _resolve(self, task: _Task, answer: dict[str, Any], process: _Process, slot: int) -> None:
        if "error" in answer:
            task.result.set_exception(EvalfmError(answer["error"]))
        elif "fault" in answer:
            task.result.set_exception(RuntimeError(f"{task.locator} could not be prepared:\n{answer['fault']}"))
        else:
            size = (int(answer["size"][0]), int(answer["size"][1]))
            geometry = self._geometries.get(size)
            if geometry is None:
                geometry = self._geometries[size] = self._preparer.geometry_of(*size)
            pixels = process.pixels(slot, answer["kind"], answer["shape"])
            task.result.set_result((Prepared(pixels, geometry, answer["unit"]), answer["seconds"]))

    def _give_up(self, process: _Process, error: BaseException, tasks: list[_Task]) -> None:
        """Let nobody wait for a process that is gone: all work fails with what has happened to it."""
        with self._changed:
            if not self._closing and self._broken is None:
                self._broken = self._what_happened(process, error, tasks)
            tasks = [*tasks, *self._tasks]
            self._tasks.clear()
            self._changed.notify_all()
        for task in tasks:
            if not task.result.done():
                task.result.set_exception(self._broken or EvalfmError("Reading was ended."))

    @staticmethod
    def _what_happened(process: _Process, error: BaseException, tasks: list[_Task]) -> EvalfmError:
        if not isinstance(error, EOFError | OSError | CannotStart):
            return EvalfmError(f"Reading images failed ({type(error).__name__}: {error}); use --workers 1.")
        row = row_in_work(process.memory)
        locators = {task.row: task.locator for task in tasks}
        if row is None:
            row = tasks[0].row if tasks else None
        at = "" if row is None else f"Row {row + 1} of the manifest: "
        image = "images" if row is None else locators.get(row, "its image")
        return EvalfmError(
            f"{at}the process that read {image} {process.how_it_ended()}; use fewer --workers if memory is short, or "
            "take the row out of the table if it happens again."
        )


class _Process:
    """One process with its pipes and its shared memory of two requests' slots."""

    def __init__(self, preparer: Preparer, files: ImageFiles) -> None:
        height, width = preparer.facts.input_size
        self._slot_bytes = -(-3 * 4 * height * width // HEADER_BYTES) * HEADER_BYTES
        size = HEADER_BYTES + 2 * CHUNK * self._slot_bytes
        executable = _interpreter()
        self._ready = threading.Event()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._file, self.memory = _shared_memory(size)
        except (OSError, ValueError) as error:
            raise CannotStart(f"{size / 1e6:.0f} MB of shared memory cannot be had ({error})") from None
        settings: dict[str, Any] = {}
        if os.name == "nt":
            settings["creationflags"] = 0x00000200 | 0x08000000  # A group of its own, and no window.
        else:
            # Ctrl-C reaches the parent alone, which ends its processes.
            settings |= {"start_new_session": True, "pass_fds": (self._file.fileno(),)}
        try:
            self.child = subprocess.Popen(
                [executable, "-P", "-c", _START, json.dumps(search_path())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=_KEEP_MEMORY | os.environ | {f"{name}_NUM_THREADS": "1" for name in _ONE_THREAD},
                **settings,
            )
        except (OSError, subprocess.SubprocessError) as error:
            self.memory.close()
            raise CannotStart(f"{executable} cannot be started ({error})") from None
        setup = {
            "facts": preparer.facts.model_dump(mode="json"),
            "encoder": preparer.encoder,
            "root": os.fspath(files.root),
            "linked": isinstance(files.root, LinkedRoot),
            "bits": files.bits,
            "unit": files.unit,
            "file": self._file.name if os.name == "nt" else self._file.fileno(),
            "bytes": size,
            "slot_bytes": self._slot_bytes,
        }
        # Who has ended already is heard of when its readiness is waited for.
        with suppress(OSError):
            self._send(setup)

    def _send(self, message: dict[str, Any]) -> None:
        send(cast(BinaryIO, self.child.stdin), message)

    def _receive(self) -> Any:
        message = receive(cast(BinaryIO, self.child.stdout))
        if message is None:
            raise EOFError
        return message

    def wait_until_ready(self) -> None:
        """Wait for the process to start.

        Raises:
            CannotStart: it ends instead.
        """
        if self._ready.is_set():
            return
        watch = threading.Timer(_PATIENCE_SECONDS, self.child.kill)
        watch.start()
        try:
            self._receive()
        except (EOFError, OSError):
            raise CannotStart(f"a process {self.how_it_ended()}") from None
        finally:
            watch.cancel()
        self._ready.set()

    def ask(self, tasks: list[_Task], first_slot: int) -> None:
        """Request images into the slots from ``first_slot`` on."""
        images = [(slot, task.row, task.locator) for slot, task in enumerate(tasks, first_slot)]
        self._send({"images": images})

    def answers(self) -> list[dict[str, Any]]:
        """What came of the request made first.

        Raises:
            EOFError: the process has ended.
        """
        return list(self._receive()["images"])

    def pixels(self, slot: int, kind: str, shape: list[int]) -> np.ndarray[Any, Any]:
        """A copy of the pixels in ``slot``."""
        start, count = HEADER_BYTES + slot * self._slot_bytes, int(np.prod(shape))
        return np.frombuffer(self.memory, np.dtype(kind), count, start).reshape(shape).copy()

    def how_it_ended(self) -> str:
        """How it ended, as the predicate of a sentence."""
        return how_it_ended(self.child, self._errors)

    def end(self) -> None:
        """Kill it, and give its memory back."""
        self.child.kill()
        self.child.wait()
        for stream in (self.child.stdin, self.child.stdout):
            # What was still to be sent has nobody to read it.
            with suppress(OSError):
                cast(BinaryIO, stream).close()
        self._errors.close()
        self._file.close()
        if os.name == "nt":
            os.unlink(self._file.name)


def _interpreter() -> str:
    executable = sys.executable or ""
    if getattr(sys, "frozen", False) or not any(
        name in os.path.basename(executable).lower() for name in ("python", "pypy")
    ):
        raise CannotStart("this program brings no Python interpreter that could be started")
    return executable


def _shared_memory(size: int) -> tuple[Any, mmap.mmap]:
    """A file in memory alone where the system has them (no /dev/shm bounds it), else a temporary one; and its map."""
    if hasattr(os, "memfd_create"):
        file: Any = os.fdopen(os.memfd_create("evalfm-reader"), "w+b")
        os.ftruncate(file.fileno(), size)
    elif os.name == "nt":
        file = tempfile.NamedTemporaryFile(delete=False)  # noqa: SIM115
        file.truncate(size)
    else:
        file = tempfile.TemporaryFile()  # noqa: SIM115
        file.truncate(size)
        if hasattr(os, "posix_fallocate"):
            # A hole that cannot be filled later would end the process with a bus error.
            os.posix_fallocate(file.fileno(), 0, size)
    return file, mmap.mmap(file.fileno(), size)
