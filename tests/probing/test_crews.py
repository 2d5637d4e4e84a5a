import pytest
import torch

from evalfm.config import MachineOptions, ProbeConfig
from evalfm.errors import EvalfmError
from evalfm.probing.crews import crew_for_cells
from evalfm.workers.local import LocalCrew

FROZEN = ProbeConfig(encoder="hog", task="square")
TRAINED = ProbeConfig(encoder="random:resnet18", task="square", adaptation="full")


def test_one_device_needs_no_other_process() -> None:
    assert crew_for_cells(MachineOptions(), [FROZEN, FROZEN]) is None
    assert crew_for_cells(MachineOptions(devices="cpu"), [TRAINED]) is None


def test_several_devices_are_as_many_processes() -> None:
    crew = crew_for_cells(MachineOptions(devices="cpu,cpu,cpu"), [FROZEN])
    assert isinstance(crew, LocalCrew)
    assert len(crew.names) == 3


def test_one_training_takes_all_devices_together_and_several_one_each() -> None:
    assert crew_for_cells(MachineOptions(devices="cpu,cpu"), [TRAINED]) is None
    assert crew_for_cells(MachineOptions(devices="cpu,cpu"), [TRAINED, FROZEN]) is not None


def test_all_is_every_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    crew = crew_for_cells(MachineOptions(devices="all"), [FROZEN])
    assert crew is not None
    assert crew.names == ("GPU 0", "GPU 1", "GPU 2", "GPU 3")


def test_an_address_is_of_a_cluster() -> None:
    with pytest.raises(EvalfmError, match="add --executor ray"):
        crew_for_cells(MachineOptions(address="ray://head:10001"), [FROZEN])


def test_an_encoder_that_is_an_object_needs_no_card() -> None:
    assert crew_for_cells(MachineOptions(), [ProbeConfig(encoder="no-card-of-ours", task="ptx-cls")]) is None
