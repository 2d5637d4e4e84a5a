"""Run by test_loop.py in a process of its own: trainings killed with signal 9, each finished by another process."""

from __future__ import annotations

import math
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from conftest import RESNET, Bench
from PIL import Image
from torch.optim.optimizer import register_optimizer_step_pre_hook

from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.manifest import Manifest
from evalfm.training import checkpoint

RECIPE = {"epochs": 4, "least_steps": 8, "batch_size": 8, "patience": 9, "probe_start": False}


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
    info = DatasetInfo(name="radiographs", public_ids=True, label_source={"s": "made"})
    Manifest(info, pd.DataFrame(lines), folder).write(folder)
    return Manifest.read(folder)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def write_after_every_epoch() -> None:
    checkpoint.INTERVAL_SECONDS, checkpoint.LARGEST_SHARE = 0, math.inf
    offer = checkpoint.CheckpointWriter.offer

    def waited(self, state):
        self.wait()
        offer(self, state)

    checkpoint.CheckpointWriter.offer = waited


def in_a_step() -> None:
    """Of the third epoch, when the first two are written."""
    offer, steps = checkpoint.CheckpointWriter.offer, []

    def waited(self, state):
        offer(self, state)
        self.wait()

    checkpoint.CheckpointWriter.offer = waited

    def counted(*_):
        steps.append(1)
        if len(steps) == 8:
            kill()

    register_optimizer_step_pre_hook(counted)


def in_a_write() -> None:
    """Half of the second checkpoint is in its file."""
    save, seen = torch.save, []

    def counted(content, path):
        seen.append(1)
        save(content, path)
        if len(seen) == 2:
            os.truncate(path, os.path.getsize(path) // 2)
            kill()

    torch.save = counted


def before_the_rename() -> None:
    """The second checkpoint is whole and has not its name yet."""
    replace, seen = os.replace, []

    def counted(source, target):
        if str(target).endswith(checkpoint.STATE):
            seen.append(1)
            if len(seen) == 2:
                kill()
        return replace(source, target)

    os.replace = counted


def after_a_write() -> None:
    write = checkpoint.write_state

    def counted(folder, state):
        write(folder, state)
        if state.epoch == 2:
            kill()

    checkpoint.write_state = counted


def train(data: Manifest, out: Path) -> dict[str, torch.Tensor]:
    """The weights that a training comes to, with its learning curve."""
    tuned, head = Bench(data, out, "s", RESNET).tune("full", **RECIPE)
    curve = torch.tensor([list(line.values()) for line in tuned.fit.curve[1:]], dtype=torch.float64)
    return {**tuned.tensors, **head.tensors(), "curve": curve}


def run(data: Manifest, out: Path, prepare=lambda: None) -> int:
    """In a fork; the signal that ended it."""
    child = os.fork()
    if child == 0:
        write_after_every_epoch()
        prepare()
        torch.save(train(data, out), out / "result.pt")
        os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def main(folder: Path) -> None:
    data = make_radiographs(folder / "radiographs")
    outs = [folder / str(number) for number in range(5)]
    for out in outs:
        out.mkdir()
    # In this process, so that the others find everything imported.
    expected = train(data, outs[0])
    for out, prepare in zip(outs[1:], (in_a_step, in_a_write, before_the_rename, after_a_write), strict=True):
        print(run(data, out, prepare))
        print(checkpoint.read_state(out / "work").epoch)
        run(data, out)
        found = torch.load(out / "result.pt")
        same = found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
        print("equal" if same else "different")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
