"""Cases of a target in a process of their own: each is announced before it runs and judged after it.

``python -m tests.fuzz.worker`` reads a line of JSON for each process that is wanted, ``[target, seed, first, last,
folder]``, and forks it, so that the libraries are loaded once. It prints a line with the process's number, one before
and one after every case, and one with how the process ended. A case that spends ten seconds of processor time ends the
process by SIGPROF; memory above two gigabytes fails.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from .targets import Target

SECONDS = 10
BYTES = 2 << 30


def main() -> None:
    told = os.fdopen(os.dup(1), "w", buffering=1)
    # What a case prints goes nowhere; what is told goes by the copy.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.simplefilter("ignore")
    from typer import main as typer

    from evalfm.cli.app import app

    from ..shortened import one_command_line
    from .doors import TARGETS

    with one_command_line():
        typer.get_command(app)
        serve(TARGETS, told)


def serve(targets: dict[str, Callable[[Path], Target]], told: TextIO) -> None:
    """Fork a process for each line that comes."""
    import torch

    for line in sys.stdin:
        name, seed, first, last, folder = json.loads(line)
        process = os.fork()
        if process == 0:
            # Torch's own pool does not survive a fork; the first to ask makes a new one.
            torch.set_num_threads(1)
            status = 1
            try:
                run(targets[name], seed, range(first, last), Path(folder), told)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        told.write(json.dumps({"process": process}) + "\n")
        told.write(json.dumps({"ended": os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])}) + "\n")


def run(kind: Callable[[Path], Target], seed: int, cases: range, folder: Path, told: TextIO) -> None:
    """Make the target and run its cases."""
    from evalfm.errors import EvalfmError

    os.environ["EVALFM_HOME"] = str(folder / "home")
    base = folder / f"base-{os.getpid()}"
    base.mkdir(parents=True)
    target = kind(base)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
    for index in cases:
        case = Path(tempfile.mkdtemp(prefix=f"{target.name}-{index}-", dir=folder))
        told.write(json.dumps({"case": index}) + "\n")
        fault = None
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            target.run(case, random.Random(f"{target.name} {seed} {index}"))
        except EvalfmError as error:
            text = str(error)
            if not text.strip() or "Traceback" in text or len(text) > 20_000:
                fault = f"a sentence of {len(text)} letters: {text[:300]}"
            elif "alloc of size" in text:
                # Of pyarrow: it was the limit that ended the flood, and a reader takes that for damage.
                fault = f"more than {BYTES >> 30} GB asked for: {text[:300]}"
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            frames = traceback.extract_tb(error.__traceback__)
            place = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames[-6:]))
            fault = f"{type(error).__name__}: {str(error)[:300]} at {place}"
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        told.write(json.dumps({"done": index, "fault": fault}) + "\n")
        shutil.rmtree(case, ignore_errors=True)


if __name__ == "__main__":
    main()
