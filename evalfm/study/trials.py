"""What a benchmark tries on the runs of an encoder once they are there: a chest tube, and perturbed images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalfm.analysis.report.section import CHANGES, read_changes
from evalfm.analysis.robustness import ROBUSTNESS, Robustness
from evalfm.data.manifest import Manifest
from evalfm.data.perturbations import FAMILIES
from evalfm.encoders.reference import EncoderRef
from evalfm.probing.counterfactual import IMAGES, counterfactual
from evalfm.probing.erasing import DEVICE, erase
from evalfm.probing.robustness import robustness
from evalfm.progress import Progress
from evalfm.run import Run
from evalfm.study.allowed import AllowedTask
from evalfm.study.config import EncoderEntry
from evalfm.study.grid import LeftOut
from evalfm.tasks.kinds import kind_of


@dataclass(frozen=True)
class Candidate:
    """An encoder on a task of a data set, on which more may be tried than a study does."""

    entry: EncoderEntry
    manifest: Manifest
    task: AllowedTask

    @property
    def what(self) -> str:
        """In words."""
        return f"{self.entry.name} × {self.task.name} on {self.manifest.info.name}"

    @property
    def again(self) -> dict[str, Any]:
        """What loading the encoder again takes beside the record of a run."""
        weights = None if self.entry.weights in ("hub", "random") else self.entry.weights
        return {"weights": weights, "encoder": self.entry.name if EncoderRef.parse(self.entry.name).is_code else None}


@dataclass(frozen=True)
class Trial:
    """What is tried on the runs of the linear heads once they are there.

    Attributes:
        name: in words, with what one run costs.
        file: in the folder of the benchmark, of what was found, run by run.
        choose: of candidates those to try it on, and why not on others.
        find: what a run of a candidate shows, as plain values.
        read: what an earlier call found, from the file.
    """

    name: str
    file: str
    choose: Callable[[Sequence[Candidate]], tuple[list[Candidate], list[LeftOut]]]
    find: Callable[[Run, Candidate, Progress], dict[str, Any]]
    read: Callable[[Path], Sequence[Mapping[str, Any]]]

    @property
    def word(self) -> str:
        """The first of its name."""
        return self.name.partition(" ")[0]


def _with_tubes(candidates: Sequence[Candidate]) -> tuple[list[Candidate], list[LeftOut]]:
    """Tasks about a pneumothorax on phantoms, or where chest tubes are outlined."""
    chosen, left_out = [], []
    for each in candidates:
        name = each.manifest.info.name
        if DEVICE not in each.manifest.findings:
            left_out.append(LeftOut(f"counterfactual on {name}", f"{name} has no outlines of a {DEVICE}"))
        elif EncoderRef.parse(each.entry.name).is_table:
            left_out.append(LeftOut(f"counterfactual of {each.entry.name}", "a table of features sees no other image"))
        elif TUBE_TIED in each.task.targets and each.task.kind in TUBE_KINDS:
            chosen.append(each)
    return chosen, list(dict.fromkeys(left_out))


def _tube(run: Run, of: Candidate, progress: Progress) -> dict[str, Any]:
    """Drawn into new phantoms where the data are such; else painted out of images that the run has not seen."""
    if of.manifest.info.synthetic:
        return counterfactual(run, **of.again, progress=progress).to_json()
    return erase(run, of.manifest, trained_on=of.manifest, **of.again, progress=progress).to_json()


def _one_of_each(candidates: Sequence[Candidate]) -> tuple[list[Candidate], list[LeftOut]]:
    """Of each encoder on a data set the first task of masks and the first other one: its features are what is asked."""
    first: dict[tuple[str, str, bool], Candidate] = {}
    left_out = []
    for each in candidates:
        if EncoderRef.parse(each.entry.name).is_table:
            left_out.append(LeftOut(f"robustness of {each.entry.name}", "a table of features sees no other image"))
        else:
            first.setdefault((each.entry.name, each.manifest.info.name, kind_of(each.task.kind).pixelwise), each)
    return list(first.values()), list(dict.fromkeys(left_out))


def _perturbed(run: Run, of: Candidate, progress: Progress) -> dict[str, Any]:
    """Perturbed images through the run; neighbours by site or scanner where one is declared."""
    by = next((name for name in of.manifest.info.attributes if name in SITES), None)
    given = {"by": by, "images": PERTURBED, "trained_on": of.manifest, **of.again}
    return dict(robustness([run], of.manifest, progress=progress, **given).to_json()["runs"][0])


TUBE_TIED, TUBE_KINDS = "pneumothorax", ("binary", "segmentation")
SITES = ("site", "hospital", "institution", "scanner", "manufacturer")
"""Attributes that the robustness index goes by, the first that is declared."""
PERTURBED = 50
"""Images that are perturbed, of each run."""
STRENGTHS = sum(len(family.strengths) for family in FAMILIES.values())
TRIALS = (
    Trial(
        f"counterfactual (a chest tube drawn into {IMAGES} phantoms, or painted out of images that show one)",
        CHANGES,
        _with_tubes,
        _tube,
        lambda path: read_changes(path)["runs"],
    ),
    Trial(
        f"robustness ({PERTURBED} images under {STRENGTHS} perturbations, a forward pass each)",
        ROBUSTNESS,
        _one_of_each,
        _perturbed,
        lambda path: Robustness.read(path).to_json()["runs"],
    ),
)
"""What is tried once the runs are there."""
