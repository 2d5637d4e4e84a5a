"""Which workers a call needs: none where this process does it alone, else those of the machine or of a cluster."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from evalfm.config import MachineOptions, ProbeConfig
from evalfm.data.manifest import find_folder
from evalfm.data.registered import cache_folder, home_folder, registered
from evalfm.encoders.reference import EncoderRef
from evalfm.errors import EvalfmError
from evalfm.probing.head_group import FROZEN
from evalfm.workers.devices import resolve
from evalfm.workers.local import LocalCrew
from evalfm.workers.pool import Crew

BASE_BYTES, BYTES_A_WEIGHT, BYTES_A_TRAINED_WEIGHT = 4 * 2**30, 12, 24
"""Main memory that a worker asks of a cluster: libraries, readers and images; and for each weight of its encoder,
with checkpoints where it is trained."""
HANDED_ON = ("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN", "HF_ENDPOINT", "TORCH_HOME", "PYTHONPATH")
"""Environment variables that workers of a cluster get from here, where they are set."""


def crew_for_cells(machine: MachineOptions, cells: Sequence[ProbeConfig]) -> Crew | None:
    """The workers for ``cells``, not started yet, or None where this process needs none.

    One cell whose encoder is trained is trained by all devices of this machine together, which the training sees to.

    Raises:
        EvalfmError: a device is not there, or the options do not go together.
    """
    if machine.executor == "local" and len(cells) == 1 and cells[0].adaptation != FROZEN:
        resolve(machine.devices)
        machine = machine.model_copy(update={"devices": "auto"})
    data = [name for cell in cells for name in (cell.data or cell.task, cell.test_data)]
    # On this machine nobody asks, and an encoder may be an object whose name is no card's.
    needed = BASE_BYTES if machine.executor == "local" else max(map(_memory_bytes, cells))
    return crew_for(machine, out=cells[0].out, data=data, memory_bytes=needed)


def crew_for(
    machine: MachineOptions, *, out: Path, data: Iterable[str | None], memory_bytes: int = BASE_BYTES
) -> Crew | None:
    """The workers that ``machine`` names, not started yet, or None where it names this process alone.

    Args:
        out: folder that results are written to.
        data: names or paths of the data sets; what names none is passed by.
        memory_bytes: main memory that a worker may need; on this machine nobody asks for it beforehand.

    Raises:
        EvalfmError: a device is not there, or the options do not go together.
    """
    if machine.executor == "local":
        if machine.address is not None:
            raise EvalfmError("--address is of a Ray cluster; add --executor ray, or leave it out.")
        devices = resolve(machine.devices)
        return LocalCrew(devices) if len(devices) > 1 else None
    from evalfm.workers.ray_crew import RayCrew

    written = {"--out": out, "the feature store": cache_folder(), "the command": Path.cwd()}
    environment = {name: os.environ[name] for name in HANDED_ON if name in os.environ}
    return RayCrew(
        address=machine.address,
        devices=machine.devices.split(","),
        written=written,
        folder=Path.cwd(),
        read={f"the data set {name}": folder for name, folder in _folders(data)},
        environment=environment | {"EVALFM_HOME": str(home_folder().absolute())},
        memory_bytes=memory_bytes,
    )


def _folders(data: Iterable[str | None]) -> list[tuple[str, Path]]:
    """Names of data sets that have a folder already, each once, with it."""
    found = {}
    for name in data:
        if name is None or name in found or (name not in registered() and not Path(name).exists()):
            continue
        found[name] = find_folder(name)
    return list(found.items())


def _memory_bytes(cell: ProbeConfig) -> int:
    ref = EncoderRef.parse(cell.encoder)
    card = None if ref.is_table else ref.card()
    each = BYTES_A_WEIGHT if cell.adaptation == FROZEN else BYTES_A_TRAINED_WEIGHT
    return BASE_BYTES + (0 if card is None else each * card.parameters)
