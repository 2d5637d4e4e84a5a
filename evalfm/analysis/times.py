"""What the runs' encoders take for one image, and on what that was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from evalfm.errors import EvalfmError
from evalfm.features.cost import Cost
from evalfm.run import Run

Key = tuple[str, str]


@dataclass(frozen=True)
class Times:
    """Milliseconds of a forward pass, one figure per encoder and device: the median over its runs.

    Runs of one encoder were timed at different moments; without this its heads and seeds would have several times, and
    some would keep to a limit where others do not.
    """

    found: dict[Key, list[float]]
    devices: tuple[str, ...]

    @classmethod
    def of(cls, runs: Sequence[Run]) -> Times:
        """Of every run that has a figure; baselines have none that counts."""
        found: dict[Key, list[float]] = {}
        devices: set[str] = set()
        for run in runs:
            cost = run.record.provenance.cost
            if cost is not None and not run.is_baseline:
                found.setdefault(_key(run, cost), []).append(cost.milliseconds)
                devices.add(cost.device)
        return cls(found, tuple(sorted(devices)))

    def milliseconds(self, run: Run) -> float | None:
        """Of one image; None where it was not measured."""
        cost = run.record.provenance.cost
        return None if cost is None else median(self.found.get(_key(run, cost), [cost.milliseconds]))

    def words(self, run: Run) -> str:
        """On what and how the time was measured, or why there is none."""
        cost = run.record.provenance.cost
        if cost is None:
            return "a table of features, or a run of an older version: make it again with --force"
        return f"{cost.device}, batch of {cost.batch}, {cost.input_size[0]} × {cost.input_size[1]}, {cost.precision}"

    def refuse_mixed(self, limit: float) -> None:
        """One limit holds on one device.

        Raises:
            EvalfmError: the runs were timed on several, or the limit is not positive.
        """
        if not limit > 0:
            raise EvalfmError(f"--max-ms must be positive, not {limit:g}.")
        if len(self.devices) > 1:
            raise EvalfmError(
                f"The runs were timed on {len(self.devices)} devices ({'; '.join(self.devices)}), and --max-ms holds "
                "on one: name the folders of runs of one device, or make the others again there with --force."
            )


def _key(run: Run, cost: Cost) -> Key:
    size = run.record.encoder.parameters
    return f"{run.encoder} {size}", f"{cost.device} {cost.batch} {cost.input_size} {cost.precision}"
