"""The end of a Ray cluster's line: a plain class, which ``RayCrew`` starts as an actor beside each worker process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from evalfm.errors import EvalfmError
from evalfm.workers.job import Job, Lost, Message, Raised, Returned
from evalfm.workers.local import LocalCrew
from evalfm.workers.shared_folders import SharedFolders, answer
from evalfm.workers.software import software

LISTEN_SECONDS = 60.0


class RayWorker:
    """Starts one worker process on its node, and passes on what it is to do and what it says.

    The process is one of ``LocalCrew``: it does its jobs in its main thread. Ray calls the methods here one at a time,
    but ``stop`` at any time.
    """

    def __init__(self, device: str) -> None:
        """``device`` is ``cpu`` or ``cuda``, of which Ray has chosen one."""
        self._device = device

    def introduce(self) -> tuple[dict[str, str], dict[str, str]]:
        """Where it runs (``node`` its id, ``address``, ``gpu``), and with which versions of what."""
        import ray
        from ray.util import get_node_ip_address

        context = ray.get_runtime_context()
        gpus = context.get_accelerator_ids().get("GPU", [])
        place = {"node": context.get_node_id(), "address": get_node_ip_address(), "gpu": ",".join(map(str, gpus))}
        return place, software()

    def examine(self, folders: SharedFolders, name: str) -> dict[str, str]:
        """What is amiss with the shared folders here, by their words; see ``answer``."""
        return answer(folders, name)

    def prepare(self, processes_here: int, folder: Path | None) -> None:
        """Start the process in ``folder``; it shares its node with the other workers there.

        Raises:
            EvalfmError: the folder is not there, or the process does not start.
        """
        if folder is not None and not folder.is_dir():
            raise EvalfmError(
                f"The working folder {folder} is not there on a node of the Ray cluster; start evalfm in one that all "
                "nodes see at the same path."
            )
        self._crew = LocalCrew((self._device,), processes_here, folder)
        self._crew.__enter__()

    def perform(self, job: Job) -> Iterator[Message]:
        """Have the call made, and yield what is said of it and its end."""
        self._crew.send(0, job)
        while True:
            for _, message in self._crew.listen(LISTEN_SECONDS):
                yield message
                if isinstance(message, Returned | Raised | Lost):
                    return

    def stop(self) -> None:
        """Have the job that runs give back what it holds, such as leases, and end with its process."""
        self._crew.__exit__(None, None, None)
