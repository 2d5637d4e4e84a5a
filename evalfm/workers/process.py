"""A worker process on this machine: does the jobs that it is sent, one after the other, until its line goes dead."""

from __future__ import annotations

import json
import os
import pickle
import queue
import signal
import sys
import threading
import warnings
from contextlib import suppress
from typing import Any, BinaryIO

from evalfm.workers.job import Job, Message, Said, Told, Worker, perform

GRACE_SECONDS = 5.0
"""How long a job that is told to stop has for giving back what it holds, such as leases."""


def send(stream: BinaryIO, message: Any) -> None:
    """Write ``message`` (plain values in dataclasses of this package) with its length before it."""
    content = pickle.dumps(message)
    stream.write(len(content).to_bytes(8, "big") + content)
    stream.flush()


def receive(stream: BinaryIO) -> Any:
    """The next message.

    Raises:
        EOFError: the other end is gone.
    """
    length = int.from_bytes(_exactly(stream, 8), "big")
    return pickle.loads(_exactly(stream, length))


def _exactly(stream: BinaryIO, count: int) -> bytes:
    content = stream.read(count)
    if len(content) < count:
        raise EOFError
    return content


def main() -> None:
    """Serve whoever started this process, over standard input and output, until that ends.

    The line is read in a thread, so that its end is noticed while a job runs: then nobody wants the result.
    """
    device = json.loads(sys.argv[2])
    line = os.fdopen(os.dup(1), "wb")
    # What libraries print goes where errors go.
    os.dup2(2, 1)
    jobs: queue.Queue[Job] = queue.Queue()
    guard = threading.Lock()

    def emit(message: Message) -> None:
        # Threads of a job speak too. Where nobody listens any more the end is on its way.
        with guard, suppress(OSError):
            send(line, message)

    if os.name == "posix":
        signal.signal(signal.SIGTERM, _stop)
    threading.Thread(target=_listen, args=(jobs,), name="evalfm-worker-line", daemon=True).start()
    worker = Worker(device, Told(emit))
    vars(warnings)["showwarning"] = lambda message, *_, **__: emit(Said(f"Warning: {message}"))
    try:
        emit(Said(""))
        while True:
            emit(perform(jobs.get(), worker))
    except KeyboardInterrupt:
        # Threads of libraries would be waited for; what a job held it has given back.
        os._exit(0)


def _listen(jobs: queue.Queue[Job]) -> None:
    with suppress(EOFError, OSError):
        while True:
            jobs.put(receive(sys.stdin.buffer))
    timer = threading.Timer(GRACE_SECONDS, os._exit, (1,))
    timer.daemon = True
    timer.start()
    if os.name == "posix":
        os.kill(os.getpid(), signal.SIGTERM)
    else:
        os._exit(1)


def _stop(*_: object) -> None:
    # Once is enough: a second one would break what the first makes the job give back.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt
