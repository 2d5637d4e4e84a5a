"""A grid of probes as YAML: every encoder on every task of one data set, one after the other."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import Field

from evalfm.cards import CardModel, read_yaml, validate
from evalfm.errors import UnknownNameError
from evalfm.probing.probe import probe
from evalfm.progress import SILENT, Progress
from evalfm.runs import Run


class Study(CardModel):
    """Encoders × tasks on one data set.

    Attributes:
        name: part of the paths that a study writes.
        title: what it is about, printed above its table.
        data: folder, registered name or ``phantom``.
        encoders, tasks: the grid.
    """

    schema_version: Literal[1] = Field(1, alias="schema")
    name: str
    title: str
    data: str
    encoders: tuple[str, ...]
    tasks: tuple[str, ...]


def configs() -> dict[str, Path]:
    """The studies that ship with evalfm, by name: in the wheel, or at the root of a checkout."""
    installed = Path(str(resources.files("evalfm"))) / "_configs"
    folder = installed if installed.is_dir() else Path(__file__).resolve().parents[1] / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_study(name: str) -> Study:
    """The study ``name``: one that ships with evalfm, or the path of a YAML file.

    Raises:
        EvalfmError: there is none, or it is not valid.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
    elif name in configs():
        path = configs()[name]
    else:
        raise UnknownNameError("study", name, configs())
    return validate(Study, read_yaml(path), f"study {path.name}")


def run_study(study: Study, out: str | Path, progress: Progress = SILENT) -> list[Run]:
    """Probe every encoder on every task; what is there already is not computed again.

    Floors, which are the same for every encoder of a task, come once; an encoder with learnt weights is run with random
    ones too.
    """
    runs: dict[Path, Run] = {}
    for task in study.tasks:
        for encoder in study.encoders:
            for run in probe(encoder, task, data=study.data, floors="all", out=out, progress=progress):
                # An encoder of the grid that is also a floor (pixels) is shown as what it was asked for first.
                runs.setdefault(run.folder, run)
    return list(runs.values())
