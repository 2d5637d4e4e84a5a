"""Which workers a call needs: none where this process does it alone, else those of the machine or of a cluster."""

from __future__ import annotations

from collections.abc import Sequence

from evalfm.config import MachineOptions, ProbeConfig
from evalfm.errors import EvalfmError
from evalfm.workers.crew import Crew
from evalfm.workers.devices import resolve
from evalfm.workers.local import LocalCrew

FROZEN = "frozen"


def crew_for(machine: MachineOptions, cells: Sequence[ProbeConfig]) -> Crew | None:
    """The workers for ``cells``, not started yet, or None where this process needs none.

    One cell whose encoder is trained is trained by all devices together, which the training itself sees to.

    Raises:
        EvalfmError: a device is not there, or the options do not go together.
    """
    if machine.executor == "ray":
        raise EvalfmError("not there yet")
    if machine.address is not None:
        raise EvalfmError("--address is of a Ray cluster; add --executor ray, or leave it out.")
    devices = resolve(machine.devices)
    trains_together = len(cells) == 1 and cells[0].adaptation != FROZEN
    return None if len(devices) == 1 or trains_together else LocalCrew(devices)
