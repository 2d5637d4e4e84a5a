from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
import random
import re
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from evalfm.encoders import load_encoder
from evalfm.encoders.card import WeightsFacts
from evalfm.encoders.converting import examine
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
    with pytest.raises(EvalfmError, match="incomplete"):
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


def shared_pairs(levels: int, key: bool = True) -> bytes:
    """A pickle whose one dict has nested pairs, each of the same pair twice: hashing them takes 2^levels steps."""
    stream = b"\x80\x02}q\x00)q\x01"
    for level in range(1, levels + 1):
        stream += bytes([ord("h"), level, ord("h"), level, 0x86, ord("q"), level + 1])
    return stream + (b"K\x01s." if key else b"0.")


def zip_of(path: Path, pickled: bytes, records: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", pickled)
        archive.writestr("w/version", "3\n")
        for key, content in (records or {}).items():
            archive.writestr(f"w/data/{key}", content)
    return path


def whole(number: int) -> bytes:
    return b"\x8a\x06" + number.to_bytes(6, "little", signed=True)


def rebuilt(count: int, size: tuple[int, ...], stride: tuple[int, ...], kind: bytes = b"FloatStorage") -> bytes:
    """The pickle of ``{"weight": tensor}`` over storage 0 of ``count`` values, with any size and stride."""
    shape, steps = (b"(" + b"".join(map(whole, each)) + b"t" for each in (size, stride))
    storage = (
        b"(X\x07\x00\x00\x00storagectorch\n" + kind + b"\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu" + whole(count) + b"tQ"
    )
    inside = storage + whole(0) + shape + steps + b"\x89ccollections\nOrderedDict\n)R"
    return b"\x80\x02}X\x06\x00\x00\x00weightctorch._utils\n_rebuild_tensor_v2\n(" + inside + b"tRs."


def refusal_of(path: Path, facts: WeightsFacts = PLAIN) -> str:
    start = time.process_time()
    with pytest.raises(EvalfmError) as refusal:
        read_checkpoint(path, facts)
    assert time.process_time() - start < 10
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_the_made_up_checkpoint_is_read_where_it_tells_the_truth(tmp_path: Path) -> None:
    content = np.arange(6, dtype=np.float32).tobytes()
    path = zip_of(tmp_path / "w.pt", rebuilt(6, (2, 3), (3, 1)), {"0": content})
    assert torch.equal(read_checkpoint(path, PLAIN).tensors["weight"], torch.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize("zipped", [True, False])
def test_nested_pairs_as_a_key_are_refused_before_they_are_hashed(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "w.pt"
    if zipped:
        zip_of(path, shared_pairs(60))
    else:
        path.write_bytes(shared_pairs(60))
    assert "nests containers into more than" in refusal_of(path)
    with pytest.raises(EvalfmError, match="nests containers into more than"):
        examine(path)


@pytest.mark.parametrize(
    ("pickled", "said"),
    [
        (b"\x80\x02" + b"]" * 500 + b"a" * 499 + b".", "deep"),
        (b"\x80\x02" + b")" + b"\x85" * 500 + b".", "deep"),
        (b"\x80\x02]r\xff\xff\xff\xff.", "beyond bounds"),
        (b"\x80\x02" + b"]0" * 600_000 + b".", "steps"),
        (b"\x80\x02cbuiltins\nbytearray\n(J\xff\xff\xff\x7ftR.", "builtins.bytearray"),
        (b"\x80\x02}(.", "damaged"),
        (b"\x80\x02t.", "damaged"),
        (b"\x80\x02(X\x01\x00\x00\x00xtQ.", "no storage"),
        (rebuilt(2**40, (2**40,), (1,)), "shorter"),
        (rebuilt(7, (7,), (1,)), "shorter"),
        (rebuilt(6, (7,), (1,)), "damaged"),
        (rebuilt(6, (2**30,), (0,)), "declares 4,294,967,296"),
        (rebuilt(6, (6,), (1,), b"StrangeStorage"), "torch.StrangeStorage"),
        (rebuilt(6, (6,), (1,)).replace(b"_rebuild_tensor_v2", b"_rebuild_sparse_tensor"), "_rebuild_sparse_tensor"),
    ],
)
def test_a_pickle_beyond_bounds_is_refused(tmp_path: Path, pickled: bytes, said: str) -> None:
    assert said in refusal_of(zip_of(tmp_path / "w.pt", pickled, {"0": bytes(24)}))


def test_a_legacy_file_that_declares_more_than_it_has_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save(tensors(), path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    (count,) = {content.index(b"K\x0cN") for _ in range(1)}
    path.write_bytes(content[:count] + b"J\xff\xff\xff\x7fN" + content[count + 3 :])
    assert "declares 8,589,934,6" in refusal_of(path)


def test_data_classes_of_the_card_are_not_built(tmp_path: Path) -> None:
    """A numpy dtype takes its state on trust and then follows addresses in it."""
    names = ("numpy._core.multiarray.scalar", "numpy.dtype")
    fields = b"}X\x01\x00\x00\x00acnumpy\ndtype\n(X\x01\x00\x00\x00OK\x00K\x01tRK\x00\x86s"
    state = b"(K\x03X\x01\x00\x00\x00|N(X\x01\x00\x00\x00at" + fields + b"K\x08K\x01K\x00t"
    dtype = b"cnumpy\ndtype\n(X\x02\x00\x00\x00V8K\x00K\x01tR" + state + b"b"
    given = b"c_codecs\nencode\n(X\x08\x00\x00\x00AAAAAAAAX\x06\x00\x00\x00latin1tR"
    hostile = b"cnumpy._core.multiarray\nscalar\n(" + dtype + given + b"tR"
    path = zip_of(tmp_path / "w.pt", b"\x80\x02}(X\x01\x00\x00\x00aK\x01X\x01\x00\x00\x00b" + hostile + b"u.")
    assert "entries that are no tensors (a, b)" in refusal_of(path, WeightsFacts(source="path", pickle_globals=names))


def npy(shape: tuple[int, ...], dtype: str = "<f4", held: int = 0) -> bytes:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (118 - len(header) - 1) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(held)


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (npy((2**39,)), "bytes are there"),
        (npy((2**39,), held=64), "bytes are there"),
        (npy((-4,), held=16), "bytes are there"),
        (npy((4,), held=15), "bytes are there"),
        (npy((4,), "|O", 32), "objects"),
        (b"\x93NUMPY", "damaged"),
    ],
)
def test_an_array_that_declares_more_than_is_there_is_refused(tmp_path: Path, member: bytes, said: str) -> None:
    path = tmp_path / "w.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("bias.npy", npy((3,), held=12))
        archive.writestr("weight.npy", member)
    assert said in refusal_of(path)


def test_an_archive_that_unfolds_a_thousandfold_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weight.npy", npy((75_000_000,), held=300_000_000))
    assert "declares 300,000,1" in refusal_of(path)


def test_a_zip_whose_member_states_another_length_is_refused(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "w.pt", rebuilt(6, (6,), (1,)), {"0": bytes(24)})
    content = path.read_bytes()
    place = content.rindex(b"w/data/0") - 46 + 24
    path.write_bytes(content[:place] + (2**31).to_bytes(4, "little") + content[place + 4 :])
    assert "states more than" in refusal_of(path)


@pytest.mark.parametrize(
    "header",
    [
        {"weight": {"dtype": "F32", "shape": [2**50], "data_offsets": [0, 16]}},
        {"weight": {"dtype": "F32", "shape": [4], "data_offsets": [0, 2**50]}},
        {"weight": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}},
        {"weight": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}},
        {"weight": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [0, 3]}},
        {"weight": {"dtype": "C64", "shape": [2], "data_offsets": [0, 16]}},
        {"weight": {"dtype": "F4", "shape": [32], "data_offsets": [0, 16]}},
        {"weight": {"dtype": "F8_E8M0", "shape": [16], "data_offsets": [0, 16]}},
        {"weight": []},
    ],
)
def test_a_safetensors_header_that_lies_is_refused(tmp_path: Path, header: dict[str, Any]) -> None:
    written = json.dumps(header).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(written).to_bytes(8, "little") + written + bytes(16))
    assert str(path) in refusal_of(path)


def test_a_deep_safetensors_header_is_refused(tmp_path: Path) -> None:
    written = b'{"weight":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(written).to_bytes(8, "little") + written)
    assert "damaged" in refusal_of(path)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("container", ["safetensors", "zip"])
def test_floats_of_8_bits_are_read_with_their_values(tmp_path: Path, dtype: str, container: str) -> None:
    path = tmp_path / "w.pt"
    values = torch.tensor([[0.5, -1.75], [448.0, 0.0]]).to(getattr(torch, dtype))
    save_file({"weight": values}, path) if container == "safetensors" else torch.save({"weight": values}, path)
    read = read_checkpoint(path, PLAIN).tensors["weight"]
    assert read.dtype == torch.float32
    assert read.tolist() == values.float().tolist()


def test_counters_of_batch_norms_may_be_missing(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    given = {name: torch.rand(each.shape) for name, each in model.state_dict().items() if "num_batches" not in name}
    load_into(model, given, PLAIN, tmp_path / "file.pt")
    assert all(torch.equal(each, given[name]) for name, each in model.state_dict().items() if name in given)
    assert int(model[1].num_batches_tracked) == 0
    del given["1.running_var"]
    with pytest.raises(EvalfmError, match=r"missing: 1\.running_var\)"):
        load_into(model, given, PLAIN, tmp_path / "file.pt")


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (lambda inner: {"model": inner, "optimizer": {"state": {}}, "epoch": 3}, "under model in"),
        (lambda inner: {"teacher": inner, "student": dict(inner), "epoch": 3}, "under teacher in"),
        (lambda inner: {"student": {f"module.{name}": each for name, each in inner.items()}}, "under student in"),
        (lambda inner: {"state_dict": {f"module.{name}": each for name, each in inner.items()}}, "bear module[.] in"),
        (lambda inner: {f"_orig_mod.{name}": each for name, each in inner.items()}, "bear _orig_mod[.] in"),
        (
            lambda inner: {"model": {"state_dict": {f"module._orig_mod.{name}": each for name, each in inner.items()}}},
            "under model / state_dict in",
        ),
        (
            lambda inner: {"state_dict": {f"module.module.{name}": each for name, each in inner.items()}},
            "bear module[.]",
        ),
    ],
)
def test_usual_wrappers_come_off_without_a_card_and_are_told(tmp_path: Path, wrap: Any, said: str) -> None:
    path = tmp_path / "w.pt"
    torch.save(wrap(tensors()), path)
    read = read_checkpoint(path, PLAIN)
    assert set(read.tensors) == {"weight", "bias"}
    assert all(torch.equal(read.tensors[name], each) for name, each in tensors().items())
    assert re.search(said, " ".join(map(str, read.cautions)))
    save_as("zip", path)
    assert read_checkpoint(path, PLAIN).cautions == ()


def test_a_mapping_that_holds_itself_or_much_of_one_other_is_looked_into_once(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    loop: dict[str, Any] = {"epoch": 3, **tensors()}
    loop["model"] = loop
    torch.save(loop, path)
    assert "entries that are no tensors (epoch, model)" in refusal_of(path)
    inner: dict[str, Any] = {}
    every = [inner]
    for _ in range(3):
        every.append({str(number): every[-1] for number in range(200)})
    torch.save({"epoch": 3, "model": every[-1], "state_dict": tensors()}, path)
    assert set(read_checkpoint(path, PLAIN).tensors) == {"weight", "bias"}


def test_of_several_wrappers_none_is_guessed(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"model": tensors(), "state_dict": tensors()}, path)
    assert "holds tensors under state_dict, model, and which are meant is not clear" in refusal_of(path)
    read = read_checkpoint(path, WeightsFacts(source="path", wrapper=("model",)))
    assert (set(read.tensors), read.cautions) == ({"weight", "bias"}, ())


@pytest.mark.parametrize(
    ("wrap", "left_out"),
    [
        (lambda inner: {"state_dict": {f"model.{name}": each for name, each in inner.items()}, "epoch": 3}, 0),
        (
            lambda inner: {
                "teacher": {f"backbone.{name}": each for name, each in inner.items()} | {"head.mlp": torch.zeros(3)},
                "student": {f"backbone.{name}": torch.zeros_like(each) for name, each in inner.items()},
            },
            1,
        ),
        (lambda inner: {f"module.net.visual.{name}": each for name, each in inner.items()}, 0),
        (lambda inner: {"model_ema": {f"encoder.{name}": each for name, each in inner.items()}, "args": {"lr": 1}}, 0),
    ],
)
def test_the_attribute_that_held_the_encoder_comes_off_and_is_told(tmp_path: Path, wrap: Any, left_out: int) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    given = {name: torch.rand(each.shape) for name, each in model.state_dict().items() if "num_batches" not in name}
    path = tmp_path / "w.pt"
    torch.save(wrap(given), path)
    read = read_checkpoint(path, PLAIN)
    named = read.named_for(model.state_dict())
    load_into(model, named.tensors, PLAIN, path)
    assert all(torch.equal(model.state_dict()[name], each) for name, each in given.items())
    (said,) = map(str, named.cautions[len(read.cautions) :])
    assert "tensors bear" in said
    assert (f"{left_out} tensors without it" in said) == bool(left_out)


def test_of_two_encoders_in_a_file_none_is_guessed_and_what_lacks_a_tensor_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    both = {f"encoder_{which}.{name}": each for which in "qk" for name, each in tensors().items()}
    torch.save(both, path)
    with pytest.raises(EvalfmError, match=r"under encoder_[qk]., encoder_[qk]., and which are meant is not clear"):
        read_checkpoint(path, PLAIN).named_for(tensors())
    torch.save({"model.weight": torch.zeros(2)}, path)
    assert set(read_checkpoint(path, PLAIN).named_for(tensors()).tensors) == {"model.weight"}
    # What the model has under its own name is no wrapped encoder.
    torch.save(both | {"weight": torch.zeros(2)}, path)
    assert set(read_checkpoint(path, PLAIN).named_for(tensors()).tensors) == {*both, "weight"}


@pytest.mark.parametrize(("name", "before"), [("resnet18", "model."), ("squeezenet1-0.caffe", "net.backbone.")])
def test_each_library_loads_what_a_training_script_wrapped(tmp_path: Path, name: str, before: str) -> None:
    plain = load_encoder(name, weights="random")
    inner = {key.removeprefix("model."): each for key, each in plain.state_dict().items() if key.startswith("model.")}
    torch.save({"state_dict": {before + key: each for key, each in inner.items()}}, tmp_path / "w.ckpt")
    wrapped = load_encoder(name, weights=str(tmp_path / "w.ckpt"))
    assert all(torch.equal(wrapped.state_dict()[f"model.{key}"], each) for key, each in inner.items())
    assert f"bear {before} in the file" in " ".join(map(str, wrapped.cautions))


def test_the_cards_prefix_is_known_without_the_wrapper_for_several_devices(tmp_path: Path) -> None:
    facts = WeightsFacts(source="path", wrapper=("teacher",), strip_prefix="module.backbone.", unexpected_keys=("*",))
    for before in ("module.backbone.", "backbone.", "_orig_mod.module.backbone."):
        path = tmp_path / "w.pt"
        torch.save({"teacher": {f"{before}{name}": each for name, each in tensors().items()}}, path)
        assert set(read_checkpoint(path, facts).tensors) == {"weight", "bias"}


def sharded(folder: Path, suffix: str = ".safetensors", index: bool = True) -> Path:
    stem = {".safetensors": "model", ".bin": "pytorch_model"}[suffix]
    names = {key: f"{stem}-0000{number}-of-00002{suffix}" for number, key in enumerate(tensors(), 1)}
    for key, name in names.items():
        if suffix == ".bin":
            torch.save({key: tensors()[key]}, folder / name)
        else:
            save_file({key: tensors()[key]}, folder / name)
    path = folder / f"{stem}{suffix}.index.json"
    if index:
        path.write_text(json.dumps({"metadata": {"total_size": 60}, "weight_map": names}))
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_shards_are_read_together(tmp_path: Path, suffix: str) -> None:
    index = sharded(tmp_path, suffix)
    (tmp_path / "config.json").write_text('{"hidden_size": 3}')
    whole = read_checkpoint(index, PLAIN)
    assert set(whole.tensors) == {"weight", "bias"}
    assert all(torch.equal(whole.tensors[name], each) for name, each in tensors().items())
    folder = read_checkpoint(tmp_path, PLAIN)
    assert (folder.sha256, folder.path, folder.config) == (whole.sha256, index, {"hidden_size": 3})
    index.unlink()
    shard = next(tmp_path.glob("*-00002-of-*"))
    for place in (tmp_path, shard):
        read = read_checkpoint(place, PLAIN)
        assert (read.sha256, set(read.tensors)) == (whole.sha256, {"weight", "bias"})
        assert set(read_checkpoint(read.path, PLAIN).tensors) == {"weight", "bias"}
    shard.unlink()
    assert f"{shard.name} is not beside it" in refusal_of(tmp_path)


def test_a_missing_shard_and_one_that_repeats_are_said(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    shard = tmp_path / "model-00002-of-00002.safetensors"
    shard.unlink()
    assert "model-00002-of-00002.safetensors is not beside it" in refusal_of(index)
    save_file({"weight": torch.zeros(1), "bias": torch.zeros(3)}, shard)
    assert "holds weight, as another shard does" in refusal_of(index)


@pytest.mark.parametrize(
    "name", ["../w.safetensors", "/etc/passwd", "a/w.safetensors", "..", "", "a\\w", "c:w", "a\0b"]
)
def test_an_index_that_leads_out_of_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    save_as("safetensors", tmp_path / "w.safetensors")
    folder = tmp_path / "folder"
    folder.mkdir()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"weight": name, "bias": name}}))
    assert "no file beside it" in refusal_of(index)


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', "[" * 10_000, "{"])
def test_an_index_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(content)
    assert str(index) in refusal_of(index)


def what_is_said(read: Callable[[], object]) -> str:
    """The sentence of a refusal, or nothing."""
    try:
        read()
    except EvalfmError as refusal:
        return str(refusal)
    return ""


@pytest.mark.parametrize("container", ["safetensors", "npz", "zip", "legacy"])
def test_whatever_byte_is_changed_a_file_is_read_or_refused_in_one_sentence(tmp_path: Path, container: str) -> None:
    path = tmp_path / "w"
    save_as(container, path)
    whole, chance = path.read_bytes(), random.Random(container)
    refused = 0
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(chance.choice((1, 1, 3, 12))):
            place = chance.randrange(min(len(content), 900))
            kind = chance.randrange(4)
            if kind == 0:
                content[place] = chance.randrange(256)
            elif kind == 1:
                content[place : place + 8] = (2 ** chance.randrange(1, 63)).to_bytes(8, "little")
            elif kind == 2:
                del content[place : place + chance.randrange(1, 20)]
            else:
                content[place:place] = chance.randbytes(4)
        path.write_bytes(content)
        for read in (lambda: read_checkpoint(path, PLAIN), lambda: examine(path)):
            said = what_is_said(read)
            refused += bool(said)
            assert "\n" not in said
            assert len(said) < 1500
    assert refused > 150
