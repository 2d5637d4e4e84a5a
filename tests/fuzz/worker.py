"""Cases of one target in a process of its own: each is announced before it runs and judged after it.

``python -m tests.fuzz.worker TARGET SEED FIRST LAST FOLDER`` prints a line of JSON before and after every case.
A case that spends ten seconds of processor time ends the process by SIGPROF; memory above two gigabytes fails.
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
from pathlib import Path

SECONDS = 10
BYTES = 2 << 30


def main() -> None:
    target_name, seed, first, last, folder = sys.argv[1], *map(int, sys.argv[2:5]), Path(sys.argv[5])
    told = os.fdopen(os.dup(1), "w", buffering=1)
    # What a case prints goes nowhere; what is told goes by the copy.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.environ["EVALFM_HOME"] = str(folder / "home")
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.simplefilter("ignore")
    import torch

    from evalfm.errors import EvalfmError

    from .doors import TARGETS

    torch.set_num_threads(1)
    base = folder / f"base-{target_name}-{os.getpid()}"
    base.mkdir(parents=True)
    target = TARGETS[target_name](base)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
    for index in range(first, last):
        case = Path(tempfile.mkdtemp(prefix=f"{target_name}-{index}-", dir=folder))
        told.write(json.dumps({"case": index}) + "\n")
        fault = None
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            target.run(case, random.Random(f"{target_name} {seed} {index}"))
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
