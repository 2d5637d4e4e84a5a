"""Run by test_leases.py in processes of their own: races for leases, dies holding some, forks."""

from __future__ import annotations

import json
import os
import random
import sys
import threading
from pathlib import Path

from evalfm.features.leases import LeaseFolder, Leases

BUCKETS, ROUNDS = 8, 40


def race(folder: LeaseFolder, number: int) -> None:
    holding = folder.path.parent / "holding"
    met: list[int] = []
    counts = {"held": 0, "generations": 0}

    def run(thread: int) -> None:
        generator = random.Random(10 * number + thread)
        for _ in range(ROUNDS):
            wanted = generator.sample(range(BUCKETS), 5)
            with Leases(folder) as held:
                for bucket in held.claim(dict.fromkeys(wanted, 1), generator.randint(1, 5)):
                    mark = holding / str(bucket)
                    try:
                        mark.touch(exist_ok=False)
                    except FileExistsError:
                        met.append(bucket)
                        continue
                    counts["held"] += 1
                    counts["generations"] += (
                        not (folder.path / f"{bucket:04d}.0").exists() or (folder.path / f"{bucket:04d}.1").exists()
                    )
                    mark.unlink()
                    if generator.random() < 0.5:
                        held.release([bucket])

    threads = [threading.Thread(target=run, args=(thread,)) for thread in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    dies = number % 2 == 0
    print(json.dumps({"met": met, "died": int(dies), **counts}), flush=True)
    if dies:
        Leases(folder).claim(dict.fromkeys(range(BUCKETS), 1), 3)
        os._exit(0)


def fork(folder: LeaseFolder) -> None:
    with Leases(folder) as held:
        assert held.claim({2: 1}, 1) == [2]
        child = os.fork()
        if child == 0:
            held.close()
            os._exit(0)
        os.waitpid(child, 0)
        print("kept" if (folder.path / "0002.0").exists() else "gone")


if __name__ == "__main__":
    place = LeaseFolder(Path(sys.argv[2]))
    if sys.argv[1] == "fork":
        fork(place)
    else:
        race(place, int(sys.argv[3]))
