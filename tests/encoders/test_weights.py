from __future__ import annotations

import argparse
import hashlib
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from evalfm.encoders.card import WeightsFacts
from evalfm.encoders.weights import load_into, read_checkpoint
from evalfm.errors import EvalfmError

PLAIN = WeightsFacts(source="path")


def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"weight": torch.randn(3, 4, generator=generator), "bias": torch.randn(3, generator=generator)}


def save_as(container: str, path: Path) -> None:
    content = tensors()
    if container == "safetensors":
        save_file(content, path)
    elif container == "npz":
        with path.open("wb") as file:
            np.savez(file, **{name: tensor.numpy() for name, tensor in content.items()})
    else:
        torch.save(content, path, _use_new_zipfile_serialization=container == "zip")


@pytest.mark.parametrize("container", ["safetensors", "npz", "zip", "legacy"])
@pytest.mark.parametrize("extension", [".pt", ".safetensors"])
def test_the_content_decides_the_format(tmp_path: Path, container: str, extension: str) -> None:
    path = tmp_path / f"weights{extension}"
    save_as(container, path)
    read = read_checkpoint(path, PLAIN)
    assert set(read.tensors) == {"weight", "bias"}
    assert all(torch.equal(read.tensors[name], tensor) for name, tensor in tensors().items())
    assert read.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


class Harmful:
    """Unpickled without care, it writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("container", ["zip", "legacy", "pickle", "npz"])
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, container: str) -> None:
    marker, path = tmp_path / "marker", tmp_path / "weights.pt"
    content = {**tensors(), "harmful": Harmful(marker)}
    if container == "npz":
        with path.open("wb") as file:
            np.savez(file, weight=np.array([Harmful(marker)], dtype=object))
    elif container == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=container == "zip")
    with pytest.raises(EvalfmError, match=r"weight|system") as refusal:
        read_checkpoint(path, PLAIN)
    assert not marker.exists()
    if container in ("zip", "legacy", "pickle"):
        assert "posix.system" in str(refusal.value)
    # The file is as harmful as it is meant to be.
    if container == "pickle":
        pickle.loads(path.read_bytes())
        assert marker.exists()


def test_a_card_cannot_admit_what_runs_code(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="reviewed"):
        WeightsFacts(source="path", pickle_globals=("posix.system",))


@pytest.mark.parametrize("zipped", [True, False])
def test_reviewed_data_classes_are_admitted_by_the_card_only(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "weights.pt"
    content = {"teacher": tensors(), "args": argparse.Namespace(lr=1.0), "loss": np.float64(0.5)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(EvalfmError, match=r"argparse\.Namespace"):
        read_checkpoint(path, WeightsFacts(source="path", wrapper=("teacher",)))
    names = (
        "argparse.Namespace",
        "numpy._core.multiarray.scalar",
        "numpy.dtype",
        "numpy.dtypes.Float64DType",
    )
    read = read_checkpoint(path, WeightsFacts(source="path", wrapper=("teacher",), pickle_globals=names))
    assert torch.equal(read.tensors["weight"], tensors()["weight"])


def test_the_authors_wrapper_and_prefix_come_off(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    wrapped = {f"module.{name}": tensor for name, tensor in tensors().items()}
    torch.save({"state": {"teacher": wrapped}, "epoch": 3}, path)
    read = read_checkpoint(path, WeightsFacts(source="path", wrapper=("state", "teacher"), strip_prefix="module."))
    assert set(read.tensors) == {"weight", "bias"}
    with pytest.raises(EvalfmError, match="'student'"):
        read_checkpoint(path, WeightsFacts(source="path", wrapper=("student",)))
    with pytest.raises(EvalfmError, match="state, epoch"):
        read_checkpoint(path, PLAIN)


@pytest.mark.parametrize("container", ["safetensors", "npz", "zip", "legacy"])
@pytest.mark.parametrize("kept", [0.0, 0.05, 0.5, 0.95])
def test_a_file_cut_short_is_said_to_be(tmp_path: Path, container: str, kept: float) -> None:
    path = tmp_path / "weights.pt"
    save_as(container, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(EvalfmError, match="cut short"):
        read_checkpoint(path, PLAIN)


@pytest.mark.parametrize("content", [b"<html>not found</html>", b"version https://git-lfs.github.com/spec/v1\n"])
def test_a_page_instead_of_weights_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(EvalfmError, match="neither safetensors"):
        read_checkpoint(path, PLAIN)


def test_a_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(EvalfmError, match=r"weights\.pt"):
        read_checkpoint(path, PLAIN)


def test_a_bit_flipped_in_an_archive_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    save_as("npz", path)
    content = bytearray(path.read_bytes())
    content[content.index(b"NUMPY") + 140] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(EvalfmError, match=r"damaged|cannot be read"):
        read_checkpoint(path, PLAIN)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_named(tmp_path: Path, value: float) -> None:
    content = tensors()
    content["bias"][1] = value
    save_file(content, tmp_path / "weights.safetensors")
    with pytest.raises(EvalfmError, match="NaN or infinite values in bias"):
        read_checkpoint(tmp_path / "weights.safetensors", PLAIN)


def test_a_folder_gives_the_cards_file_first(tmp_path: Path) -> None:
    save_as("safetensors", tmp_path / "a.safetensors")
    assert read_checkpoint(tmp_path, PLAIN).path.name == "a.safetensors"
    save_as("safetensors", tmp_path / "b.safetensors")
    with pytest.raises(EvalfmError, match=r"a\.safetensors, b\.safetensors"):
        read_checkpoint(tmp_path, PLAIN)
    assert read_checkpoint(tmp_path, WeightsFacts(source="path", file="b.safetensors")).path.name == "b.safetensors"
    with pytest.raises(EvalfmError, match="no file or folder"):
        read_checkpoint(tmp_path / "absent", PLAIN)


def test_what_does_not_fit_is_listed_at_once_and_nothing_is_loaded(tmp_path: Path) -> None:
    model = nn.Linear(4, 3)
    before = model.weight.detach().clone()
    given = {"weight": torch.zeros(3, 5), "bais": torch.zeros(3)}
    with pytest.raises(EvalfmError) as refusal:
        load_into(model, given, PLAIN, tmp_path / "file.pt")
    message = str(refusal.value)
    assert "missing: bias" in message
    assert "weight [3, 5] instead of [3, 4]" in message
    assert "not known to the model: bais" in message
    assert torch.equal(model.weight, before)


def test_only_the_cards_own_left_overs_pass(tmp_path: Path) -> None:
    model = nn.Linear(4, 3)
    given = {**tensors(), "head.weight": torch.zeros(1), "head.bias": torch.zeros(1)}
    with pytest.raises(EvalfmError, match=r"head\.bias, head\.weight"):
        load_into(model, given, PLAIN, tmp_path / "file.pt")
    load_into(model, given, WeightsFacts(source="path", unexpected_keys=("head.*",)), tmp_path / "file.pt")
    assert torch.equal(model.weight, tensors()["weight"])
    assert torch.equal(model.bias, tensors()["bias"])
