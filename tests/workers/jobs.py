"""What workers are asked to do in tests; imported by the workers themselves."""

import os
import signal
import time
import warnings
from pathlib import Path
from typing import Any

from evalfm.errors import EvalfmError
from evalfm.workers.job import Worker


def echo(worker: Worker, *, value: Any) -> Any:
    return value


def facts(worker: Worker) -> dict[str, Any]:
    names = ("CUDA_VISIBLE_DEVICES", "EVALFM_PROCESSES_HERE", "OMP_NUM_THREADS")
    here = {"device": worker.device, "pid": os.getpid(), "folder": os.getcwd()}
    return here | {name: os.environ.get(name) for name in names}


def count(worker: Worker) -> int:
    worker.kept["count"] = worker.kept.get("count", 0) + 1
    return int(worker.kept["count"])


def talk(worker: Worker, *, items: int) -> None:
    worker.progress.say("one line")
    print("not on the line")
    warnings.warn("take care", stacklevel=1)
    for _ in worker.progress.track(range(items), "work", items):
        pass


def refuse(worker: Worker) -> None:
    raise EvalfmError("This is wrong; do that.")


def stop(worker: Worker) -> None:
    raise SystemExit(3)


def leave(worker: Worker) -> None:
    """End the process without a word."""
    os._exit(3)


def fail(worker: Worker) -> None:
    raise ValueError("first line\nsecond line")


def die_until(worker: Worker, *, file: str, times: int) -> str:
    """Be killed the first ``times`` times."""
    with Path(file).open("a") as stream:
        stream.write("x")
    if len(Path(file).read_text()) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def wait_for(worker: Worker, *, file: str, tell: str = "") -> float:
    """Wait until ``file`` is there."""
    if tell:
        Path(tell).touch()
    while not Path(file).exists():
        time.sleep(0.01)
    return time.monotonic()


def hold(worker: Worker, *, file: str) -> None:
    """Make ``file`` with the number of this process, and remove it when stopped."""
    Path(f"{file}.new").write_text(str(os.getpid()))
    os.rename(f"{file}.new", file)
    try:
        time.sleep(600)
    finally:
        Path(file).unlink()


def encoded(worker: Worker) -> int:
    """Images that went through an encoder in this worker."""
    from evalfm.features.running_encoder import encoded_here

    return encoded_here()


def variable(worker: Worker, *, name: str) -> str | None:
    return os.environ.get(name)


def say_and_wait_for(worker: Worker, *, file: str) -> None:
    worker.progress.say("at work")
    for _ in worker.progress.track(range(2), "work", 2):
        wait_for(worker, file=file)


def work_folder(worker: Worker) -> str:
    return os.getcwd()
