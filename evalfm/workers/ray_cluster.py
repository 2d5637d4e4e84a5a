"""The way to a Ray cluster: found or started, quietly and in bounded time; and what room it has for workers."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from evalfm.errors import EvalfmError, shown

LOCAL = "local"
KNOCK_SECONDS = 5.0
ANSWER_SECONDS = 30.0
"""How long a cluster may take to admit a process; Ray itself would wait for many minutes."""
OBJECT_STORE_BYTES = 100 * 2**20
"""Of a cluster that is started here: messages are small, and nothing else goes that way."""
NODE_ONLY = (
    "evalfm runs on a machine of the cluster (one joins it with `ray start --address=HOST:PORT`), with the same Ray "
    "and Python"
)
_SETTINGS = {
    # Nothing is told to anybody.
    "RAY_USAGE_STATS_ENABLED": "0",
    # Under `uv run`, Ray would pack the working folder, images and all, and send it to every node.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # A lost worker is said by evalfm. Ray would print its own account to standard output, amid what --json prints.
    "RAY_DEDUP_LOGS": "1",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    "RAY_SCHEDULER_EVENTS": "0",
    # A notice of what a later Ray will do.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""Environment that Ray reads when it is imported."""
_ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[\w.-]+):(?P<port>\d{1,5})", re.ASCII)
NONE_RUNS = "Could not find any running Ray instance"
"""What Ray says where it finds no cluster."""
_PROBE = """
import sys
import ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="CRITICAL")
except Exception as error:
    print(" ".join(f"{error} {error.__cause__ or ''}".split()))
    sys.exit(3)
print(ray.get_runtime_context().gcs_address)
"""


@dataclass(frozen=True)
class Need:
    """What one worker asks of a node: whole cores, GPUs and bytes of memory."""

    cpus: int
    gpus: int = 0
    memory_bytes: int = 0

    def room(self, node: Mapping[str, float]) -> int:
        """How many such workers a node of these resources holds.

        >>> Need(2, memory_bytes=100).room({"CPU": 8.0, "memory": 250.0})
        2
        """
        asked = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory_bytes}
        return min(int(node.get(name, 0) // count) for name, count in asked.items() if count)

    def __str__(self) -> str:
        parts = [f"{self.cpus} core{'s' if self.cpus > 1 else ''}"]
        parts += [f"{self.gpus} GPU"] if self.gpus else []
        parts += [f"{self.memory_bytes / 2**30:.3g} GiB of memory"] if self.memory_bytes else []
        return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else parts[0]


def most_cores(nodes: Sequence[Mapping[str, float]], workers: int, gpus: int = 0, memory_bytes: int = 0) -> int:
    """The most cores at which ``nodes`` hold so many workers, where each node with several keeps one for itself.

    One where they do not hold as many.

    >>> most_cores([{"CPU": 64.0}, {"CPU": 64.0}], 2), most_cores([{"CPU": 64.0, "GPU": 8.0}], 8, gpus=1)
    (63, 7)
    """
    cores = [node.get("CPU", 0.0) for node in nodes]
    left = [{**node, "CPU": count - 1 if count > 1 else count} for node, count in zip(nodes, cores, strict=True)]
    most = int(max((node["CPU"] for node in left), default=1))
    fitting = (cpus for cpus in range(most, 0, -1) if sum(map(Need(cpus, gpus, memory_bytes).room, left)) >= workers)
    return next(fitting, 1)


def the_ray() -> Any:
    """Ray itself, imported so that it keeps quiet.

    Raises:
        EvalfmError: it is not installed.
    """
    # Ray reads these once; where somebody else has imported it, theirs is the word.
    os.environ.update(_SETTINGS)
    try:
        import ray
    except ImportError as error:
        raise EvalfmError(f'Ray is not installed ({error}); install it with: pip install "evalfm[ray]"') from None
    return ray


@contextmanager
def connection(address: str | None) -> Iterator[Any]:
    """Ray, connected to the cluster at ``address`` while the block runs.

    A connection that the caller has made already is used and left as it is. Without an address it is that of
    ``RAY_ADDRESS``, else the cluster that runs on this machine, else one that is started here for the block, as
    ``local`` does always.

    Raises:
        EvalfmError: Ray is not installed, nothing answers at the address, or no cluster can be started.
    """
    ray = the_ray()
    if ray.is_initialized():
        there = ray.get_runtime_context().gcs_address
        if address not in (None, "auto", there):
            raise EvalfmError(
                f"Ray is connected to {there} already, and not to {shown(str(address))}; call ray.shutdown() first, or "
                "leave the address out."
            )
        yield ray
        return
    wanted = address or os.environ.get("RAY_ADDRESS") or "auto"
    found = None if wanted == LOCAL else _find(wanted, address)
    on_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM) if on_main else None
    try:
        _connect(ray, found)
        yield ray
    finally:
        ray.shutdown()
        if handler is not None:
            signal.signal(signal.SIGTERM, handler)


def _connect(ray: Any, address: str | None) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    try:
        if address is None:
            ray.init(address=LOCAL, include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **quiet)
        else:
            ray.init(address=address, **quiet)
    except Exception as error:
        what = "No Ray cluster can be started here" if address is None else f"Ray does not connect to {address}"
        remedy = "see that RAY_TMPDIR is a short path to a folder of yours" if address is None else NODE_ONLY
        raise EvalfmError(f"{what} ({_one_line(str(error))}); {remedy}.") from None


def _find(address: str, given: str | None) -> str | None:
    """The address of a cluster that admits this process; None where none was named and none runs.

    Asked in a process of its own, which can be ended: Ray's own attempt cannot be.
    """
    if address != "auto":
        _knock(address)
    command = [sys.executable, "-c", _PROBE, address]
    try:
        probe = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        late = f"did not answer within {ANSWER_SECONDS:.0f} s"
        if address == "auto":
            raise EvalfmError(
                f"The Ray cluster that this machine knows of {late}; `ray stop` has it forgotten, or give an address."
            ) from None
        raise EvalfmError(f"A Ray cluster at {address} {late}; check the address, and note that {NODE_ONLY}.") from None
    said = probe.stdout.strip().rpartition("\n")[2]
    if probe.returncode == 0:
        return said
    if address == "auto" and NONE_RUNS in said:
        if given is None:
            return None
        raise EvalfmError("No Ray cluster runs on this machine; start one with `ray start --head`, or give HOST:PORT.")
    said = said or probe.stderr.strip().rpartition("\n")[2]
    raise EvalfmError(f"Ray does not connect to {address} ({_one_line(said)}); {NODE_ONLY}.")


def _knock(address: str) -> None:
    """See that anybody is at ``address`` at all.

    Raises:
        EvalfmError: it is no address, or nobody is.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise EvalfmError(
            f"{shown(address)} is no address of a Ray cluster; write HOST:PORT, such as 10.0.0.1:6379, or local. "
            f"{NODE_ONLY}."
        )
    try:
        socket.create_connection((match["host"].strip("[]"), int(match["port"])), KNOCK_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise EvalfmError(
            f"Nothing answers at {address} ({reason}); check the address, which `ray start --head` prints, and that "
            "the cluster runs."
        ) from None


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300] or "no reason given"
