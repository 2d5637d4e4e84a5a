"""Run by test_loop.py in a process of its own: trainings killed with signal 9, each finished by another process."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from torch.optim.optimizer import register_optimizer_step_pre_hook

from evalfm.data import atomic
from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.manifest import Manifest
from evalfm.probing.probe import probe
from evalfm.run import Run
from evalfm.training import loop

OPTIONS = {
    "adaptation": "full",
    "recipe": {"epochs": 3, "least_steps": 6, "batch_size": 8},
    "input_size": 32,
    "heads": ["linear"],
    "baselines": "none",
}


def make_radiographs(folder: Path) -> Manifest:
    generator = np.random.default_rng(0)
    folder.mkdir()
    lines = []
    for radiograph in range(40):
        Image.fromarray(generator.normal(100 + 9 * (radiograph % 2), 30, (32, 32)).clip(0, 255).astype(np.uint8)).save(
            folder / f"{radiograph}.png"
        )
        split = "train" if radiograph < 20 else "val" if radiograph < 30 else "test"
        lines.append(
            {
                "id": f"f{radiograph}",
                "image": f"{radiograph}.png",
                "patient": f"p{radiograph}",
                "split": split,
                "s": radiograph % 2,
            }
        )
    Manifest(DatasetInfo(name="films", public_ids=True, label_source={"s": "made"}), pd.DataFrame(lines), folder).write(
        folder
    )
    return Manifest.read(folder)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_a_step() -> None:
    seen = []

    def counted(*_):
        seen.append(1)
        if len(seen) == 4:
            kill()

    register_optimizer_step_pre_hook(counted)


def in_a_write() -> None:
    write, seen = os.replace, []

    def counted(source, target):
        if str(target).endswith("checkpoint.pt"):
            seen.append(1)
            if len(seen) == 3:
                kill()
        return write(source, target)

    atomic.os.replace = counted


def after_a_write() -> None:
    write = loop.write_state

    def counted(folder, state):
        write(folder, state)
        if state.epoch == 2:
            kill()

    loop.write_state = counted


def run(data: Manifest, out: Path, prepare=lambda: None) -> int:
    """In a fork; the signal that ended it."""
    child = os.fork()
    if child == 0:
        prepare()
        probe("random:test_resnet", "s", data=data, out=out, **OPTIONS)
        os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def metrics(out: Path) -> dict[str, object]:
    (found,) = [Run.read(path.parent) for path in out.rglob("run.json")]
    assert not list((out / ".work").glob("*"))
    return {name: estimate.value for name, estimate in found.metrics.items()}


def main(folder: Path) -> None:
    data = make_radiographs(folder / "films")
    run(data, folder / "whole")
    expected = metrics(folder / "whole")
    equal = True
    for number, prepare in enumerate((in_a_step, in_a_write, after_a_write)):
        out = folder / f"killed{number}"
        print(run(data, out, prepare))
        run(data, out)
        found = metrics(out)
        close = [abs(found[name] - value) <= 1e-6 for name, value in expected.items() if value is not None]
        equal = equal and all(close) and set(found) == set(expected)
    print("equal" if equal else json.dumps([expected, found]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
