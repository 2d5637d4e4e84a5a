"""Workers of a Ray cluster: warm actors, placed by GPU, cores and memory, that make the calls they are sent."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from evalfm.errors import EvalfmError
from evalfm.workers.devices import ALL, AUTO, CPU, GPU, device_class
from evalfm.workers.job import Fault, Job, Lost, Message, Raised, Returned
from evalfm.workers.local import THREADS
from evalfm.workers.process import GRACE_SECONDS
from evalfm.workers.ray_actor import RayWorker
from evalfm.workers.ray_cluster import Need, connection, most_cores
from evalfm.workers.shared_folders import offered, unanswered
from evalfm.workers.software import differences, software

START_SECONDS = 120.0
"""How long a worker may take to be placed and started; the disks of clusters are slow to give up a library."""
LOOK_SECONDS = 2.0
"""How often one looks, while workers start, whether there still is room for them."""
STOP_SECONDS = GRACE_SECONDS + 2
ASIDE = "aside"
"""Calls that an actor takes while a job runs."""
MOST_HEARD = 1000
"""Messages that one listening takes, at most."""


class RayCrew:
    """One actor per GPU of a cluster, or per processor asked for; implements ``Crew``.

    Entering connects to the cluster, places the workers, and sees that each has the same evalfm, torch and Python as
    this process and the same folders. What passes between here and there are small plain messages: no pixel and no
    feature goes through Ray's object store, which may spill to a disk; those go through the shared folders alone.

    Args:
        address: of the cluster (``HOST:PORT``); see ``connection``.
        devices: as ``name_devices`` has them. ``auto`` and ``all`` are every GPU that the cluster has, and where it has
            none one worker per node. Numbers of GPUs count alone, since Ray gives what is free; ``cpu`` as often as
            wanted.
        written: folders that all must be able to write to, by the word that messages call them by.
        read: folders that all must find with the same contents.
        environment: variables of the workers, set before anything is imported there.
        folder: working folder of the workers, which they must see too.
        cpus: cores of each worker; None shares out what the nodes have.
        memory_bytes: memory that a worker may need; it is placed on a node that has so much left.
        start_seconds: how long a worker may take to start.
    """

    def __init__(
        self,
        *,
        address: str | None = None,
        devices: Sequence[str] = (ALL,),
        written: Mapping[str, Path] | None = None,
        read: Mapping[str, Path] | None = None,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        cpus: int | None = None,
        memory_bytes: int = 0,
        start_seconds: float = START_SECONDS,
    ) -> None:
        unknown = [name for name in devices if name not in (AUTO, ALL) and device_class(name) not in (CPU, GPU)]
        if unknown or not devices:
            raise EvalfmError(f"A Ray cluster has no device {','.join(unknown)}; say all, or cpu as often as wanted.")
        self._address, self._devices = address, tuple(devices)
        self._written, self._read = dict(written or {}), dict(read or {})
        self._environment, self._cpus, self._memory_bytes = dict(environment or {}), cpus, memory_bytes
        self._start_seconds, self._folder = start_seconds, folder
        self._stack = ExitStack()
        self._ray: Any = None
        self._device, self._need = CPU, Need(1)
        self._actors: dict[int, Any] = {}
        self._places: dict[int, dict[str, str]] = {}
        self._streams: dict[Any, int] = {}
        self._tickets: dict[int, int] = {}

    def __enter__(self) -> Self:
        try:
            self._ray = self._stack.enter_context(connection(self._address))
            self._start(list(range(self._plan())))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._stop_jobs()
        finally:
            for worker in list(self._actors):
                self._end(worker)
            self._streams = {}
            self._stack.close()

    @property
    def names(self) -> tuple[str, ...]:
        """Such as ``GPU 1 of 10.0.0.2`` or ``CPU process 2 of 10.0.0.2``."""
        return tuple(self._name(worker) for worker in sorted(self._places))

    @property
    def where(self) -> str:
        """Such as ``8 workers on 2 nodes of the Ray cluster at 10.0.0.1:6379``, for whoever did not name one."""
        nodes = len({self._places[worker]["node"] for worker in self._actors})
        workers = f"{len(self._actors)} worker{'s' if len(self._actors) != 1 else ''}"
        address = self._ray.get_runtime_context().gcs_address
        return f"{workers} on {nodes} node{'s' if nodes != 1 else ''} of the Ray cluster at {address}"

    def send(self, worker: int, job: Job) -> None:
        """As ``Crew.send``; that the worker is gone is heard from ``listen``."""
        self._streams[self._actors[worker].perform.options(num_returns="streaming").remote(job)] = worker
        self._tickets[worker] = job.ticket

    def listen(self, seconds: float) -> list[tuple[int, Message]]:
        """As ``Crew.listen``; that an idle worker is gone is heard once it has been sent a job."""
        if not self._streams:
            time.sleep(seconds)
            return []
        heard: list[tuple[int, Message]] = []
        ready, _ = self._ray.wait(list(self._streams), num_returns=1, timeout=seconds)
        while ready and len(heard) < MOST_HEARD:
            heard += [(self._streams[stream], self._next(stream)) for stream in ready]
            if not self._streams:
                break
            ready, _ = self._ray.wait(list(self._streams), num_returns=len(self._streams), timeout=0)
        return heard

    def restart(self, worker: int) -> None:
        """As ``Crew.restart``; on whichever node has room."""
        self._end(worker)
        try:
            self._start([worker])
        except BaseException:
            self._end(worker)
            raise

    def _plan(self) -> int:
        """How many workers there shall be, with what each needs.

        Raises:
            EvalfmError: the nodes have no room for them.
        """
        nodes = [node["Resources"] for node in self._nodes()]
        gpus = sum(int(node.get("GPU", 0)) for node in nodes)
        if self._devices[0] in (AUTO, ALL):
            self._device, workers = (GPU, gpus) if gpus else (CPU, sum(node.get("CPU", 0) >= 1 for node in nodes))
        else:
            self._device, workers = device_class(self._devices[0]), len(self._devices)
        each = 1 if self._device == GPU else 0
        cpus = self._cpus or most_cores(nodes, workers, each, self._memory_bytes)
        self._need = Need(cpus, each, self._memory_bytes)
        self._see_room(workers)
        return workers

    def _start(self, workers: list[int]) -> None:
        """Start ``workers`` and see that each is fit for work."""
        threads = dict.fromkeys(THREADS, str(self._need.cpus))
        actor = self._ray.remote(concurrency_groups={ASIDE: 1})(RayWorker).options(
            num_cpus=self._need.cpus,
            num_gpus=self._need.gpus,
            memory=self._need.memory_bytes or None,
            max_restarts=0,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": threads | self._environment},
        )
        for worker in workers:
            self._actors[worker] = actor.remote(self._device)
        told = self._ask("introduce", dict.fromkeys(workers, ()))
        for worker, (place, _) in told.items():
            self._places[worker] = place
        here = software()
        for worker, (_, there) in told.items():
            if other := differences(here, there):
                raise EvalfmError(
                    f"{self._name(worker)} has {' and '.join(other)}; install the same evalfm and torch on every node."
                )
        self._compare_folders(workers)
        together = Counter(self._places[worker]["node"] for worker in self._actors)
        self._ask("prepare", {worker: (together[self._places[worker]["node"]], self._folder) for worker in workers})

    def _compare_folders(self, workers: list[int]) -> None:
        if not self._written and not self._read:
            return
        with offered(self._written, self._read) as folders:
            for worker, amiss in self._ask("examine", {each: (folders, str(each)) for each in workers}).items():
                if not amiss:
                    amiss = dict.fromkeys(unanswered(folders, str(worker)), "is another folder")
                if amiss:
                    what, fault = next(iter(amiss.items()))
                    raise EvalfmError(
                        f"The folder of {what}, {folders.paths[what]}, {fault} at {self._name(worker)}; put it on a "
                        "disk that all nodes see at the same path."
                    )

    def _ask(self, method: str, arguments: Mapping[int, tuple[Any, ...]]) -> dict[int, Any]:
        """Call a method of several workers and wait for all of them.

        Raises:
            EvalfmError: one has no room, does not answer in time, or fails.
        """
        calls = {worker: getattr(self._actors[worker], method).remote(*each) for worker, each in arguments.items()}
        end = time.monotonic() + self._start_seconds
        waiting = list(calls.values())
        while waiting:
            # A node may go meanwhile.
            self._see_room(len(self._actors))
            _, waiting = self._ray.wait(waiting, num_returns=len(waiting), timeout=LOOK_SECONDS)
            if waiting and time.monotonic() > end:
                late = f"has not started {len(waiting)} of {len(calls)} workers within {self._start_seconds:.0f} s"
                raise EvalfmError(self._no_room(late, [self._ray.available_resources()], "is free"))
        answers = {}
        for worker, call in calls.items():
            try:
                answers[worker] = self._ray.get(call)
            except self._ray.exceptions.RayError as error:
                raise EvalfmError(_not_started(error)) from None
        return answers

    def _see_room(self, workers: int) -> None:
        """Raise where the nodes that are there could not hold so many workers even if nobody else used them."""
        nodes = [node["Resources"] for node in self._nodes()]
        room = sum(map(self._need.room, nodes))
        if room < workers or workers == 0:
            raise EvalfmError(self._no_room(f"has room for {room} of {max(1, workers)} workers", nodes))

    def _next(self, stream: Any) -> Message:
        """The next message of a stream that has one."""
        exceptions = self._ray.exceptions
        try:
            message: Message = self._ray.get(next(stream))
        except StopIteration:
            message = Lost("broke off without a word")
        except exceptions.RayTaskError as error:
            fault = Fault(type(error).__name__, str(error.cause))
            message = Raised(fault, self._tickets[self._streams[stream]])
        except exceptions.RayError as error:
            message = Lost(self._reason(self._streams[stream], error))
        if isinstance(message, Returned | Raised | Lost):
            worker = self._streams.pop(stream)
            if isinstance(message, Lost):
                # Where only the way to it is gone it shall not work on unheard.
                self._end(worker)
        return message

    def _reason(self, worker: int, error: Exception) -> str:
        """Why a worker is lost, as the predicate of a sentence."""
        text = str(error)
        if "node has died" in text or self._places[worker]["node"] not in {node["NodeID"] for node in self._nodes()}:
            return "went with its node, which is gone"
        if "OUT_OF_MEMORY" in text or isinstance(error, self._ray.exceptions.OutOfMemoryError):
            return "was ended by Ray, for its node ran out of memory"
        if isinstance(error, self._ray.exceptions.ActorUnavailableError):
            return "does not answer any more"
        return "has ended (killed, perhaps for want of memory, or crashed)"

    def _stop_jobs(self) -> None:
        """Let the jobs that run give back what they hold; Ray itself would kill their processes without a word."""
        busy = [self._actors[worker] for worker in self._streams.values()]
        calls = [actor.stop.options(concurrency_group=ASIDE).remote() for actor in busy]
        if calls:
            self._ray.wait(calls, num_returns=len(calls), timeout=STOP_SECONDS)

    def _end(self, worker: int) -> None:
        actor = self._actors.pop(worker, None)
        if actor is not None:
            with suppress(Exception):
                self._ray.kill(actor)

    def _name(self, worker: int) -> str:
        place = self._places[worker]
        what = f"GPU {place['gpu']}" if self._device == GPU else f"CPU process {worker + 1}"
        return f"{what} of {place['address']}"

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _no_room(self, what: str, nodes: Sequence[Mapping[str, float]], there: str = "is there") -> str:
        listed = "; ".join(map(_in_words, nodes)) or "none is left"
        return (
            f"The Ray cluster {what} with {self._need} each; what {there}, by node: {listed}. Name fewer devices, ask "
            "for less, or add nodes."
        )


def _in_words(resources: Mapping[str, float]) -> str:
    parts = [f"{int(resources.get('CPU', 0))} cores"]
    parts += [f"{int(resources['GPU'])} GPUs"] if resources.get("GPU") else []
    return ", ".join([*parts, f"{resources.get('memory', 0) / 2**30:.3g} GiB"])


def _not_started(error: Exception) -> str:
    """Why, in a sentence: of what went wrong in the worker itself, else of what Ray says of it."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, EvalfmError):
        return str(cause)
    lines = [line.strip() for line in f"{cause}\n{error}".splitlines() if line.strip()] or [type(error).__name__]
    absent = next((line for line in lines if "ModuleNotFoundError" in line or "ImportError" in line), None)
    if absent is None:
        return f"A worker of the Ray cluster ended while it started ({lines[0]}); try again."
    return f"A node of the Ray cluster cannot load evalfm ({absent}); install the same evalfm and torch on every node."
