"""What a study adds to the probes that it runs: the same probes called directly and through the study, turn by turn.

    python benchmarks/study_overhead.py [--images 400] [--rounds 3] [--crew local|ray]

Prints the seconds that a cell takes either way and the difference, which shall be under 2 s. With ``--crew`` the study
is run by warm workers of that sort (two local ones, or one on Ray), and the difference shall be under 1 s. Features are
stored beforehand, so that the work itself is small and the overhead is not hidden behind it; every round has its own
folder.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--crew", choices=("local", "ray"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EVALFM_HOME"] = folder
        from evalfm.config import MachineOptions
        from evalfm.data.phantom import make_phantom
        from evalfm.probing.crews import crew_for_cells
        from evalfm.probing.executor import CrewExecutor
        from evalfm.probing.probe import probe
        from evalfm.study import Study, make_plan, run_study
        from evalfm.study.cohorts import Manifests
        from evalfm.study.plan import check_study

        data = Path(folder) / "data"
        make_phantom(data, n=options.images, size=128)
        study = Study(
            name="overhead",
            title="Overhead",
            data=str(data),
            encoders=("pixels", "hog", "random:resnet18"),
            tasks=("ptx-cls", "cardiomegaly-cls", "ctr"),
            label_fractions=(0.5, None),
            baselines="default",
        )
        grid = check_study(study, Manifests())[0]
        cells = grid.cells
        stack = ExitStack()
        executor = None
        if options.crew is not None:
            machine = MachineOptions(devices="cpu,cpu" if options.crew == "local" else "cpu", executor=options.crew)
            crew = crew_for_cells(machine, cells)
            assert crew is not None
            executor = CrewExecutor(stack.enter_context(crew), own=grid.own)

        def directly(out: Path) -> float:
            started = time.perf_counter()
            for cell in cells:
                probe(cell.model_copy(update={"out": out}))
            return time.perf_counter() - started

        def through(out: Path) -> float:
            started = time.perf_counter()
            done = run_study(study, out, executor=executor)
            assert not done.failed
            return time.perf_counter() - started

        directly(Path(folder) / "first")
        through(Path(folder) / "warm")
        times: dict[str, list[float]] = {"directly": [], "through": []}
        for number in range(options.rounds):
            times["directly"].append(directly(Path(folder) / f"direct{number}"))
            times["through"].append(through(Path(folder) / f"study{number}"))
        stack.close()
        each = {name: statistics.median(found) / len(cells) for name, found in times.items()}
        started = time.perf_counter()
        make_plan(study)
        planned = time.perf_counter() - started
        print(
            f"{each['through'] - each['directly']:+.2f} s a cell ({len(cells)} cells, {options.images} images, "
            f"{options.rounds} rounds: directly {each['directly']:.2f} s, through the study {each['through']:.2f} s, "
            f"data read and checked included); the plan before it {planned:.1f} s"
        )


if __name__ == "__main__":
    main()
